"""Files that are sealed in pieces."""

import os
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversations import sealed_file
from conversations.encryption import SealKey
from conversations.keyring import KeyDay, Unreadable, keyring
from conversations.sealed_file import SealedFile, SealedWriter

PIECE = 64


@pytest.fixture(autouse=True, scope="module")
def _small_pieces():
    kept = sealed_file.PIECE_BYTES, sealed_file._SEALED_BYTES
    sealed_file.PIECE_BYTES, sealed_file._SEALED_BYTES = PIECE, PIECE + sealed_file._ADDED_BYTES
    yield
    sealed_file.PIECE_BYTES, sealed_file._SEALED_BYTES = kept


def key() -> SealKey:
    return SealKey(uuid.uuid4(), KeyDay(2, datetime.now(UTC).date()))


def written(path, sealed_by: SealKey, *parts: bytes) -> SealedFile:
    with SealedWriter(path, sealed_by) as out:
        for part in parts:
            out.write(part)
    return SealedFile(path, sealed_by.conversation_id)


def read(file: SealedFile) -> bytes:
    return b"".join(file.pieces())


@given(parts=st.lists(st.binary(max_size=3 * PIECE), max_size=6))
@settings(max_examples=60, deadline=None)
def test_what_was_written_is_read_however_it_was_cut(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("sealed") / "one"
    assert read(written(path, key(), *parts)) == b"".join(parts)


def test_nothing_plain_reaches_the_disk_and_only_the_owner_reads_it(tmp_path):
    path = tmp_path / "folder" / "one"
    written(path, key(), b"tulips and roses " * 50)
    assert b"tulips" not in path.read_bytes()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("size", [0, PIECE - 1, PIECE, PIECE + 1, 4 * PIECE])
def test_a_file_that_was_cut_off_does_not_open(tmp_path, size):
    file = written(tmp_path / "one", key(), b"x" * size)
    whole = file.path.read_bytes()
    step = PIECE + sealed_file._ADDED_BYTES
    for end in {*range(0, len(whole), step), len(whole) - 1}:
        file.path.write_bytes(whole[:end])
        with pytest.raises(Unreadable):
            read(file)


def test_pieces_that_are_swapped_or_come_from_another_file_do_not_open(tmp_path):
    sealed_by = key()
    file, other = (
        written(tmp_path / name, sealed_by, b"a" * PIECE + b"b" * PIECE + b"c") for name in "ab"
    )
    step = PIECE + sealed_file._ADDED_BYTES
    one, two, rest = (file.path.read_bytes()[n * step :][:step] for n in range(3))
    for forged in (two + one + rest, one + one + rest, other.path.read_bytes()):
        file.path.write_bytes(forged)
        with pytest.raises(Unreadable):
            read(file)


def test_a_writer_that_breaks_off_leaves_nothing(tmp_path):
    def break_off() -> None:
        with SealedWriter(tmp_path / "one", key()) as out:
            out.write(os.urandom(5 * PIECE))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert not list(tmp_path.iterdir())


@pytest.mark.django_db
def test_it_dies_with_the_key_of_its_day(tmp_path):
    sealed_by = key()
    file = written(tmp_path / "one", sealed_by, b"for a day")
    assert file.is_readable()
    keyring().destroy(sealed_by.day)
    assert not file.is_readable()
