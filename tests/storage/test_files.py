"""Files and folders that are whole or not there."""

from pathlib import Path

import pytest

from sbertlab.storage.files import staged_folder, write_whole
from tests.storage.models import contents, write_model


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    for text in ("one", "two"):
        with write_whole(path) as partial:
            partial.write_text(text)
            assert path.exists() == (text == "two")
    with pytest.raises(KeyboardInterrupt), write_whole(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="directory"), write_whole(path.parent) as partial:
        partial.write_text("a file in the place of a folder")
    assert contents(tmp_path) == {"folder/file.txt": "two"}


def test_a_staged_folder_replaces_the_old_one_and_keeps_the_chosen_entries(tmp_path):
    target = write_model(tmp_path / "target", {"old": "1", "shared": "1", "eval/scores.csv": "1"})
    with staged_folder(target, keep=lambda entry: entry in ("eval", "shared")) as folder:
        write_model(folder, {"new": "2", "shared": "2"})
        (folder / "new").chmod(0o600)
        assert contents(target) == {"old": "1", "shared": "1", "eval/scores.csv": "1"}
    assert contents(tmp_path / "target") == {"new": "2", "shared": "2", "eval/scores.csv": "1"}
    assert (target / "new").stat().st_mode == (target / "shared").stat().st_mode, "as readable as the folder"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("failing", ["block", "rename"])
def test_a_failing_staged_folder_leaves_the_old_one(failing, tmp_path, monkeypatch):
    def broken(source, destination):
        raise KeyboardInterrupt

    target = write_model(tmp_path / "target", {"old": "1"})
    with pytest.raises(KeyboardInterrupt), staged_folder(target) as folder:  # noqa: PT012
        write_model(folder, {"new": "2"})
        if failing == "block":
            raise KeyboardInterrupt
        monkeypatch.setattr(Path, "replace", broken)  # the last step, when the old folder has been moved aside
    assert contents(target) == {"old": "1"}
    assert not list(tmp_path.glob(".*"))


def test_a_file_and_the_working_folder_are_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    for target in (tmp_path / "file", tmp_path, tmp_path.parent):
        with pytest.raises(NotADirectoryError, match=f"{target} is a file or contains"), staged_folder(target):
            pass
