"""Files that are the old one or the new one."""

import stat

import pytest

from chatbot import durable_files
from chatbot.durable_files import make_private_folder, replace_file, written_beside


def mode_of(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_and_private_and_so_are_the_folders_made_for_it(tmp_path):
    path = tmp_path / "one" / "two" / "note"
    replace_file(path, b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert [mode_of(p) for p in (path, path.parent, path.parent.parent)] == [0o600, 0o700, 0o700]
    assert [p.name for p in path.parent.iterdir()] == ["note"], "nothing is left beside it"


def test_what_others_may_read_says_so(tmp_path):
    replace_file(tmp_path / "latest", b"published", mode=0o644)
    assert mode_of(tmp_path / "latest") == 0o644


def test_the_old_file_stays_when_the_new_one_cannot_reach_the_disk(tmp_path, monkeypatch):
    path = tmp_path / "note"
    replace_file(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["note"]


def test_what_was_written_beside_is_removed_when_nobody_takes_it(tmp_path):
    with written_beside(tmp_path / "key", b"value") as written:
        assert written.read_bytes() == b"value"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o750)
    make_private_folder(tmp_path)
    assert mode_of(tmp_path) == 0o750
