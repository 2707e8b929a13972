"""Zips behind an address: what is unpacked, and what is refused."""

import io
import json
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from sbertlab.storage import find
from sbertlab.storage.find import ModelNotFoundError, find_model
from tests.storage.models import MODEL, contents, zipped


def member(name, mode=0):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return zipped(MODEL, (info, "evil"))


def forged_size():
    """A member that unpacks to a million zeros and declares ten, in its local header and in the directory."""
    data = zipped(MODEL, ("bomb", bytes(1_000_000)))
    return data.replace(struct.pack("<L", 1_000_000), struct.pack("<L", 10))


LIMITS = {"MAX_DOWNLOAD_BYTES": 20_000, "MAX_UNPACKED_BYTES": 3000, "MAX_MEMBERS": 20}
OUTSIDE = "is outside the folder, a link or a device"
REFUSED = {
    "parent folder": (member("../evil"), OUTSIDE),
    "absolute": (member("/tmp/evil"), OUTSIDE),
    "backslashes": (member("..\\evil"), OUTSIDE),
    "null byte": (member("evilXname").replace(b"evilXname", b"evil\0name"), OUTSIDE),
    "link": (member("link", stat.S_IFLNK | 0o777), OUTSIDE),
    "device": (member("device", stat.S_IFCHR | 0o666), OUTSIDE),
    "twice": (member("config.json"), r"4 files \(3 names\)"),
    "twice, in other letters": (member("CONFIG.json"), r"4 files \(3 names\)"),
    "oversized": (zipped(MODEL, ("large", "x" * 3001)), "3,0.. bytes of at most 3,000"),
    "many members": (zipped(MODEL, *((f"m{i}", "") for i in range(30))), "33 files"),
    "forged size": (forged_size(), "BadZipFile"),
    "not a zip": (b"<html>sign in first</html>", "BadZipFile"),
    "damaged data": (zipped(MODEL, how=zipfile.ZIP_STORED).replace(b"weights", b"weighty"), "Bad CRC"),
    "not a model": (zipped({"notes.txt": "hello"}), "does not have config.json, weights"),
    "large": (bytes(20_001), "more than 20,000 bytes"),
    "absent": (404, "HTTP Error 404"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_zip_that_is_harmful_or_broken_is_refused_and_leaves_nothing(case, server, tmp_path, monkeypatch):
    for name, value in LIMITS.items():
        monkeypatch.setattr(find, name, value)
    server.pages["/model.zip"], said = REFUSED[case]
    with pytest.raises(ModelNotFoundError, match=rf"(?s){server.url}/model.zip.*the address: .*{said}"):
        find_model(f"{server.url}/model.zip")
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.suffix for path in left] == [".lock"]
    assert not Path("/tmp/evil").exists()


def test_a_bomb_is_recognised_by_its_ratio(server, monkeypatch):
    for name in ("large", "bomb"):
        server.pages[f"/{name}.zip"] = zipped(MODEL, ("model.bin", bytes(2_000_000)))
    find_model(f"{server.url}/large.zip")
    monkeypatch.setattr(find, "RATIO_MATTERS_FROM_BYTES", 1_000_000)
    with pytest.raises(ModelNotFoundError, match=r"2,000,.* bytes of at most"):
        find_model(f"{server.url}/bomb.zip")


STATIC = {  # its first block has no config.json, so only modules.json marks the root
    "modules.json": json.dumps([{"path": path, "type": "x.y"} for path in ("", "1_Dense")]),
    "model.safetensors": "weights",
    "1_Dense/config.json": "{}",
}


@pytest.mark.parametrize("model", [MODEL, STATIC], ids=["transformer", "static"])
@pytest.mark.parametrize("prefix", ["", "my_model/"])
def test_a_zip_is_unpacked_once_with_or_without_a_folder_around_it(prefix, model, server, cache):
    files = {f"{prefix}{name}": text for name, text in model.items()}
    server.pages["/path/my_model.zip"] = zipped({**files, "__MACOSX/._x": ""} if prefix else files)
    folder = find_model(f"{server.url}/path/my_model.zip?download=1")
    assert contents(folder) == model
    assert cache in folder.parents
    server.pages.clear()
    assert find_model(f"{server.url}/path/my_model.zip?download=1", local_files_only=True) == folder


def test_an_encrypted_address_may_not_lead_to_an_unencrypted_one(monkeypatch):
    class Response(io.BytesIO):
        url = "http://elsewhere.example/model.zip"

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Response(zipped(MODEL)))
    with pytest.raises(ValueError, match=r"redirects to http://elsewhere.example/model.zip, which is not encrypted"):
        find_model("https://example.org/model.zip")
