"""ZIP files from pieces: any reader must be content with them, also after a cut."""

import shutil
import subprocess
import zipfile
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit import archive
from audit.archive import DamagedMember, Member, write_zip

NOW = datetime(2026, 11, 22, 14, 31, 8, tzinfo=UTC)


@given(pieces=st.lists(st.binary(max_size=300), max_size=6), small=st.binary(max_size=50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@pytest.mark.parametrize("zip64_from", [0xFFFFFFFF, 1, 60])
def test_a_reader_finds_what_was_written(tmp_path: Path, zip64_from, pieces, small, monkeypatch):
    monkeypatch.setattr(archive, "ZIP64_FROM", zip64_from)
    member = Member("proof/leaves.bin", tmp_path)
    member.path.unlink(missing_ok=True)
    for piece in pieces:
        member.append(piece)
    path = tmp_path / "made.zip"
    size = write_zip(path, [member, ("README.txt", small)], NOW)
    assert path.stat().st_size == size
    with zipfile.ZipFile(path) as made:
        assert made.testzip() is None
        assert made.namelist() == ["proof/leaves.bin", "README.txt"]
        assert made.read("proof/leaves.bin") == b"".join(pieces)
        assert made.read("README.txt") == small
        assert made.infolist()[0].date_time == (2026, 11, 22, 14, 31, 8)
    assert member.sha256 == sha256(b"".join(pieces)).hexdigest()


def test_the_files_are_their_owners_alone(tmp_path: Path):
    member = Member("entries.csv", tmp_path)
    member.append(b"a")
    write_zip(tmp_path / "made.zip", [member], NOW)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@given(before=st.binary(max_size=90), lost=st.binary(max_size=90), after=st.binary(max_size=90))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_was_not_noted_is_cut_off(tmp_path: Path, before, lost, after):
    first = Member("entries.jsonl", tmp_path)
    first.path.unlink(missing_ok=True)
    first.append(before)
    place = first.place()
    first.append(lost)
    second = Member("entries.jsonl", tmp_path)
    second.go_on_from(place)
    second.append(after)
    write_zip(tmp_path / "made.zip", [second], NOW)
    with zipfile.ZipFile(tmp_path / "made.zip") as made:
        assert made.read("entries.jsonl") == before + after
    assert second.sha256 == sha256(before + after).hexdigest()


@pytest.mark.parametrize("harm", ["gone", "short", "changed"])
def test_damaged_pieces_are_noticed(tmp_path: Path, harm):
    member = Member("entries.jsonl", tmp_path)
    member.append(b"some words, " * 40)
    if harm == "gone":
        member.path.unlink()
    elif harm == "short":
        member.path.write_bytes(member.path.read_bytes()[:-3])
    else:
        data = bytearray(member.path.read_bytes())
        data[4] ^= 1
        member.path.write_bytes(data)
    with pytest.raises(DamagedMember):
        Member("entries.jsonl", tmp_path).go_on_from(member.place())


@pytest.mark.skipif(shutil.which("unzip") is None, reason="there is no unzip")
@pytest.mark.parametrize("zip64_from", [0xFFFFFFFF, 1])
def test_other_readers_take_it_too(tmp_path: Path, zip64_from, monkeypatch):
    monkeypatch.setattr(archive, "ZIP64_FROM", zip64_from)
    member = Member("entries.csv", tmp_path)
    member.append(b"a,b\n" * 9)
    write_zip(tmp_path / "made.zip", [member, ("x", b"")], NOW)
    subprocess.run(["unzip", "-tq", tmp_path / "made.zip"], check=True)
