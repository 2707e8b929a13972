"""Files that are whole or not there, and zips that are refused."""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sbertlab.storage import files as safe_files
from sbertlab.storage.files import staged_folder, unpack_zip, write_whole
from tests.storage.models import MODEL, contents, write_model, zipped


def zip_of(change: Callable[[zipfile.ZipFile], object], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A model as a zip, with something done to it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name, text in MODEL.items():
            archive.writestr(name, text)
        change(archive)
    return buffer.getvalue()


def member(name: str, mode: int = 0, text: str = "evil") -> bytes:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return zip_of(lambda archive: archive.writestr(info, text))


def forged_size() -> bytes:
    """A member that unpacks to a million zeros and declares ten, in its local header and in the directory."""
    data = zip_of(lambda archive: archive.writestr("bomb", bytes(1_000_000)))
    return data.replace(struct.pack("<L", 1_000_000), struct.pack("<L", 10))


def encrypted() -> bytes:
    data = bytearray(member("locked"))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


LIMITS = {"MAX_UNPACKED_BYTES": 3000, "MAX_MEMBERS": 20}
OUTSIDE, INTACT = "is outside the folder, a link or a device", "the zip is refused"
ATTACKS: dict[str, tuple[bytes, str]] = {
    "parent folder": (member("../evil"), OUTSIDE),
    "parent further in": (member("a/../../evil"), OUTSIDE),
    "absolute": (member("/tmp/evil"), OUTSIDE),
    "backslashes": (member("..\\evil"), OUTSIDE),
    "null byte": (member("evilXname").replace(b"evilXname", b"evil\0name"), OUTSIDE),
    "newline": (member("evil\nname"), OUTSIDE),
    "link": (member("link", stat.S_IFLNK | 0o777, "/etc/passwd"), OUTSIDE),
    "device": (member("device", stat.S_IFCHR | 0o666), OUTSIDE),
    "pipe": (member("pipe", stat.S_IFIFO | 0o666), OUTSIDE),
    "twice": (member("config.json"), "a member occurs twice"),
    "twice, in other letters": (member("CONFIG.json"), "a member occurs twice"),
    "encrypted": (encrypted(), "encrypted"),
    "file and folder": (member("config.json/inside"), INTACT),
    "oversized": (member("large", text="x" * 3001), "3,0.. bytes"),
    "many members": (zip_of(lambda archive: [archive.writestr(f"m{i}", "") for i in range(30)]), "33 files of"),
    "forged size": (forged_size(), INTACT),
    "truncated": (zipped(MODEL)[:-30], INTACT),
    "not a zip": (b"<html>sign in first</html>", INTACT),
    "damaged data": (zip_of(lambda archive: None, zipfile.ZIP_STORED).replace(b"weights", b"weighty"), INTACT),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_harmful_zip_is_refused(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LIMITS.items():
        monkeypatch.setattr(safe_files, name, value)
    data, said = ATTACKS[attack]
    (tmp_path / "model.zip").write_bytes(data)
    with pytest.raises(ValueError, match=said):
        unpack_zip(tmp_path / "model.zip", tmp_path / "inner" / "folder")
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/evil").exists()


def test_a_bomb_is_recognised_by_its_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.zip").write_bytes(zip_of(lambda archive: archive.writestr("model.bin", bytes(2_000_000))))
    unpack_zip(tmp_path / "model.zip", tmp_path / "once")
    monkeypatch.setattr(safe_files, "RATIO_MATTERS_FROM_BYTES", 1_000_000)
    with pytest.raises(ValueError, match=r"of 2,000,.* bytes, at most"):
        unpack_zip(tmp_path / "model.zip", tmp_path / "again")


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"
    for text in ("one", "two"):
        with write_whole(path) as partial:
            partial.write_text(text)
            assert path.exists() == (text == "two")
    with pytest.raises(KeyboardInterrupt), write_whole(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"folder/file.txt": "two"}


def test_a_staged_folder_replaces_the_old_one_and_keeps_the_chosen_entries(tmp_path: Path) -> None:
    target = write_model(tmp_path / "target", {"old": "1", "shared": "1", "eval/scores.csv": "1"})
    with staged_folder(target, keep=lambda entry: entry in ("eval", "shared")) as folder:
        write_model(folder, {"new": "2", "shared": "2"})
        assert contents(target) == {"old": "1", "shared": "1", "eval/scores.csv": "1"}
    assert contents(target) == {"new": "2", "shared": "2", "eval/scores.csv": "1"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("failing", ["block", "rename"])
def test_a_failing_staged_folder_leaves_the_old_one(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_model(tmp_path / "target", {"old": "1"})
    rename = os.rename

    def broken(source: Path, destination: Path) -> None:
        if failing == "rename" and Path(destination) == target and not Path(source).suffix == ".old":
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(KeyboardInterrupt), staged_folder(target) as folder:  # noqa: PT012
        write_model(folder, {"new": "2"})
        if failing == "block":
            raise KeyboardInterrupt
    assert contents(tmp_path) == {"target/old": "1"}


def test_a_file_and_the_working_folder_are_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    for target in (tmp_path / "file", tmp_path, tmp_path.parent):
        with pytest.raises(NotADirectoryError, match=f"{target} is a file or contains"), staged_folder(target):
            pass
