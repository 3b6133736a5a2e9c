"""What verify.py says of exports: genuine ones, tampered ones, and files from strangers."""

import json
import os
import re
import struct
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import audit.verify
from audit.checkpoint import SigningKey, fork_note, key_note, tlog_proof_text
from audit.merkle import inclusion_path, root_at
from audit.verify import ForkStatement, leaf_hash, main
from tests.audit.bundles import (
    KEY,
    ORIGIN,
    OTHER_KEY,
    Log,
    Members,
    canonical,
    line_of,
    packed,
    resealed,
    sealed,
)
from tests.audit.trees import StoredTree


@pytest.fixture
def check(tmp_path, capsys):
    """Pack and verify an export; return the exit code and what was said."""

    def run(members: Members | Path, *arguments: str, key: str = KEY.vkey) -> tuple[int, str]:
        path = packed(members, tmp_path / "export.zip") if isinstance(members, dict) else members
        code = main([str(path), "--key", key, *arguments])
        said = capsys.readouterr().out
        assert "Traceback" not in said
        assert (code == 0) == said.endswith("Everything holds.\n")
        assert (code in {0, 3}) == ("WRONG" not in said)
        assert (code == 3) == ("FORK" in said and "WRONG" not in said)
        return code, said

    return run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A place for the export of each example that hypothesis draws."""
    return tmp_path_factory.mktemp("drawn") / "export.zip"


def wrongs(said: str) -> list[str]:
    return [line.removeprefix("  WRONG ") for line in said.split("\n") if "WRONG" in line]


# Genuine exports


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 40), (0, 0), (40, 40), (17, 18), (3, 37), (0, 1), (39, 40), (16, 32)]
)
def test_a_genuine_export_of_any_range_holds(check, start, stop):
    code, said = check(Log.of(40).export(start, stop))
    assert code == 0
    entries = "1 entry" if stop - start == 1 else f"{stop - start} entries"
    assert f"{entries}: each is exactly what was sealed" in said
    assert f"export 1 of {ORIGIN}" in said


def test_a_filtered_export_says_how_much_was_left_out(check):
    code, said = check(Log.of(40).export(5, 35, within=lambda entry: entry % 3 == 0))
    assert code == 0
    assert "10 entries: each is exactly what was sealed" in said
    assert "20 entries of the range were left out by the filter" in said


def test_an_export_without_personal_details_holds(check):
    log = Log.of(12)
    log.personal = {entry: log.personal[entry] for entry in (7, 9)}
    code, said = check(log.export())
    assert code == 0
    assert "2 of them come with personal details" in said


def test_a_chain_of_exports_holds_and_a_missing_one_shows(check, tmp_path):
    log, exports = Log.of(10), []
    for number in (1, 2, 3):
        exports.append(log.export(number=number, previous=exports[-1] if exports else None))
        log.grow(7)
    first, second = (packed(e, tmp_path / f"{n}.zip") for n, e in enumerate(exports[:2], 1))
    code, said = check(exports[1], "--previous", str(first))
    assert code == 0
    assert "10 leaves then, the log has only grown" in said
    assert "This export follows on export 1: none between them is missing" in said
    assert check(exports[2], "--previous", str(second))[0] == 0
    code, said = check(exports[2], "--previous", str(first))
    assert code == 1
    assert "follows on export 2, and not on the export 1 that you gave" in said


def test_keys_may_come_from_a_file_with_comments(check, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text(f"# since leaf 0\n{OTHER_KEY.vkey}\n\n{KEY.vkey}\n")
    assert check(Log.of(3).export(), key=str(keys))[0] == 0


def test_a_declared_fork_is_told(check):
    fork = ForkStatement(ORIGIN, "old/log", (12, bytes(32)), (10, bytes(32)), "now", "ada", "why")
    extra = {"forks/1.txt": fork_note(fork, [KEY]).encode()}
    code, said = check(Log.of(12).export(extra=extra))
    assert code == 0
    assert f"The log old/log was set back and goes on as {ORIGIN} from 10 leaves" in said
    code, said = check(Log.of(12).export(extra={"forks/1.txt": extra["forks/1.txt"][:-9]}))
    assert (code, len(wrongs(said))) == (1, 1)


# A log that changed its key

THIRD_KEY = SigningKey.from_seed(ORIGIN, bytes(range(2, 34)))


def announced(*keys: SigningKey) -> dict[str, bytes]:
    """Return what each key said of the next."""
    return {
        f"keys/{key.key_id}.txt": key_note(former, key, 5, "2026-11-22T14:31:07Z").encode()
        for former, key in pairwise(keys)
    }


@pytest.mark.parametrize("given", [KEY, OTHER_KEY, THIRD_KEY])
def test_the_first_key_is_enough_however_often_it_was_changed(check, given):
    log = Log.of(9)
    log.key = THIRD_KEY
    members = log.export(extra=announced(KEY, OTHER_KEY, THIRD_KEY))
    code, said = check(members, key=given.vkey)
    assert code == 0, said
    assert (f"signs with {OTHER_KEY.vkey} since it had 5 leaves" in said) == (given is KEY)
    assert f"signed with {ORIGIN} ({THIRD_KEY.key_id})" in said


def test_an_export_by_a_former_key_is_followed_by_one_by_the_next(check, tmp_path):
    log = Log.of(5)
    first = log.export()
    log.key = OTHER_KEY
    log.grow(3)
    members = log.export(number=2, previous=first, extra=announced(KEY, OTHER_KEY))
    code, said = check(members, "--previous", str(packed(first, tmp_path / "1.zip")))
    assert code == 0, said


def test_a_key_that_is_not_announced_is_refused(check):
    log = Log.of(9)
    log.key = OTHER_KEY
    code, said = check(log.export())
    assert code == 1
    assert any("No key that you gave has signed this" in wrong for wrong in wrongs(said))


def test_a_later_key_makes_no_former_one_known(check):
    # The former one may have been stolen, and changed for that.
    members = Log.of(9).export(extra=announced(KEY, OTHER_KEY))
    code, said = check(members, key=OTHER_KEY.vkey)
    assert code == 1
    assert "concerns no key that you gave" in said


@pytest.mark.parametrize("what", ["former", "new", "size", "origin", "words"])
def test_a_forged_announcement_makes_no_key_known(check, what):
    log = Log.of(9)
    log.key = OTHER_KEY
    ((name, data),) = announced(KEY, OTHER_KEY).items()
    text, lines = data.decode().split("\n\n")
    former, new = lines.splitlines()
    forged = {
        "former": f"{text}\n\n{OTHER_KEY.sign(text)}",
        "new": f"{text}\n\n{former}\n",
        "size": f"{text.replace('size 5', 'size 6')}\n\n{former}\n{new}\n",
        "origin": f"{text.replace(f'origin {ORIGIN}', 'origin a/b')}\n\n{former}\n{new}\n",
        "words": f"{text.replace('announced', 'said')}\n\n{former}\n{new}\n",
    }[what]
    code, said = check(log.export(extra={name: forged.encode()}))
    assert code == 1
    assert any(wrong.startswith(f"{name}: ") for wrong in wrongs(said))
    assert any(wrong.startswith("The checkpoint: ") for wrong in wrongs(said))


# A log that was set back

LATER = "parley.example/log/2"
LATER_KEY = SigningKey.from_seed(LATER, bytes(range(32)))


def set_back(log: Log, size: int, *signers: SigningKey) -> tuple[Log, dict[str, bytes]]:
    """Return the log as it goes on from `size` leaves, and what the operator said of it."""
    resumed = Log.of(size)
    root = root_at(resumed.tree, size)
    head = log.size, root_at(log.tree, log.size)
    said = ForkStatement(LATER, ORIGIN, head, (size, root), "now", "ada", "The disk died.")
    resumed.key = LATER_KEY
    resumed.grow(6)
    return resumed, {"forks/2.txt": fork_note(said, signers or (LATER_KEY, KEY)).encode()}


def test_a_fork_behind_the_export_before_is_named_and_shown_to_have_kept_it(check, tmp_path):
    log = Log.of(8)
    first = log.export()
    log.grow(4)
    resumed, fork = set_back(log, 10)
    second = resumed.export(number=2, previous=first, extra=fork)
    code, said = check(second, "--previous", str(packed(first, tmp_path / "1.zip")))
    assert code == 3, said
    assert f"FORK  The log {ORIGIN} was set back and goes on as {LATER} from 10 leaves" in said
    assert "holds All 8 leaves that the export before covers are still in the log" in said
    assert "none between them is missing" in said
    assert said.endswith("see FORK. What was sealed in between may be lost.\n")
    third = resumed.export(number=3, previous=second, extra=fork)
    code, said = check(third)
    assert code == 0
    assert f"note  The log {ORIGIN} was set back" in said


def test_a_fork_that_gave_up_what_was_exported_says_that_it_did(check):
    log = Log.of(12)
    first = log.export()
    resumed, fork = set_back(log, 10)
    members = resealed(
        resumed.export(number=2, previous=first, extra=fork)
        | {
            "proof/consistency.json": canonical(
                {"checkpoint": first["checkpoint.txt"].decode(), "path": []}
            )
        },
        key=LATER_KEY,
    )
    code, said = check(members)
    assert code == 3, said
    assert "covers 12 leaves; the log was taken up again at 10" in said
    assert "is not proven" in said


@pytest.mark.parametrize("signers", [(OTHER_KEY,), (LATER_KEY,)])
def test_a_fork_that_the_key_before_did_not_sign_excuses_nothing(check, signers):
    log = Log.of(8)
    first = log.export()
    resumed, fork = set_back(log, 8, *signers)
    code, said = check(resumed.export(number=2, previous=first, extra=fork))
    assert code == 1
    assert "WRONG forks/2.txt: no key of this log that you gave has signed it." in said


def test_another_name_without_a_fork_is_wrong(check, tmp_path):
    first = Log.of(8).export()
    resumed, _ = set_back(Log.of(8), 8)
    keys = tmp_path / "keys.txt"
    keys.write_text(f"{KEY.vkey}\n{LATER_KEY.vkey}\n")
    code, said = check(resumed.export(number=2, previous=first), key=str(keys))
    assert code == 1
    assert "no statement of a fork leads from one to the other" in "".join(wrongs(said))


# What was done to the database before the export


def written_over(log: Log, index: int, entry: int | None = None) -> None:
    log.written[index] = line_of(entry or log.entries[index], outcome="nothing to see here")


def test_a_changed_entry_is_named(check):
    log = Log.of(60)
    log.written[17] = log.written[17].replace(b"viewed", b"listed")
    code, said = check(log.export(3, 50))
    assert code == 1
    assert wrongs(said) == ["Leaf 17 (entry 23) was changed after it was sealed."]


def test_the_last_byte_of_an_entry_counts(check):
    log = Log.of(9)
    log.written[8] += b" "
    assert wrongs(check(log.export())[1]) == ["Leaf 8 (entry 14) was changed after it was sealed."]


def without_details(log: Log) -> Log:
    log.personal = {}
    return log


def lines_of(members: Members) -> list[bytes]:
    return members["entries.jsonl"].split(b"\n")[:-1]


def rewritten(members: Members, lines: list[bytes]) -> Members:
    """Other lines under a new manifest with the right count, signed by the log."""
    counts = {**json.loads(members["manifest.json"])["counts"], "entries": len(lines)}
    text = b"".join(line + b"\n" for line in lines)
    return resealed({**members, "entries.jsonl": text}, counts=counts)


def test_removed_inserted_moved_and_replaced_entries_are_named(check):
    members = without_details(Log.of(60)).export()
    lines = lines_of(members)
    forged = line_of(4711)
    cases = {
        "Leaf 17 (entry 23) is missing: it was removed.": [*lines[:17], *lines[18:]],
        "Leaf 59 (entry 65) is missing: it was removed.": lines[:59],
        "Line 18 (entry 4711) was never sealed: it was slipped in.": [
            *lines[:17],
            forged,
            *lines[17:],
        ],
        "Line 61 (entry 4711) was never sealed: it was slipped in.": [*lines, forged],
        "Line 19 (entry 23) was never sealed: it was slipped in.": [*lines[:18], *lines[17:]],
        "Leaf 17 (entry 23) was replaced by something else (entry 4711).": [
            *lines[:17],
            forged,
            *lines[18:],
        ],
        "Leaf 17 (entry 23) was replaced by something else (line 18, no entry).": [
            *lines[:17],
            b"[" * 500_000,
            *lines[18:],
        ],
        "Leaf 17 (entry 23) stands in line 19: moved.": [
            *lines[:17],
            lines[18],
            lines[17],
            *lines[19:],
        ],
        "Leaf 2 (entry 8) stands in line 60: moved.": [*lines[:2], *lines[3:], lines[2]],
        "Leaf 59 (entry 65) stands in line 1: moved.": [lines[59], *lines[:59]],
    }
    for sentence, tampered in cases.items():
        code, said = check(rewritten(members, tampered))
        assert (code, wrongs(said)) == (1, [sentence])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_done_to_the_lines_is_noticed(drawn, data):
    members = without_details(Log.of(20)).export()
    lines = lines_of(members)
    places = st.lists(st.integers(0, 19), max_size=22)
    tampered = [lines[at] for at in data.draw(places)]
    if tampered == lines:
        return
    report = audit.verify.Report()
    path = packed(rewritten(members, tampered), drawn)
    audit.verify.verify_export(path, [KEY.verifier], report)
    assert report.problems


def test_many_problems_are_counted_and_a_hundred_are_listed(check):
    log = Log.of(300)
    for index in range(250):
        written_over(log, index)
    _, said = check(without_details(log).export())
    assert len(wrongs(said)) <= 101
    assert "There is more" in said


def test_an_entry_and_its_leaf_changed_alike_do_not_lead_to_the_signed_root(check):
    log = Log.of(60)
    members = log.export()
    written_over(log, 17)
    leaves = bytearray(members["proof/leaves.bin"])
    leaves[17 * 41 + 9 : 18 * 41] = leaf_hash(log.written[17])
    members["proof/leaves.bin"] = bytes(leaves)
    members["entries.jsonl"] = b"".join(line + b"\n" for line in log.written)
    members.pop("personal.jsonl")
    counts = {"entries": 60, "withheld": 0, "personal": 0}
    code, said = check(resealed(members, counts=counts))
    assert code == 1
    assert "the leaves 0 to 59 do not lead to the root that was signed" in wrongs(said)[0]


def test_changed_withheld_leaves_do_not_lead_to_the_signed_root(check):
    members = Log.of(60).export(within=lambda entry: entry != 23)
    leaves = bytearray(members["proof/leaves.bin"])
    leaves[17 * 41 + 20] ^= 1
    code, said = check(resealed({**members, "proof/leaves.bin": bytes(leaves)}))
    assert code == 1
    assert "do not lead to the root" in said


def test_a_leaf_hidden_as_withheld_is_counted(check):
    members = without_details(Log.of(60)).export()
    lines = lines_of(members)
    leaves = bytearray(members["proof/leaves.bin"])
    leaves[17 * 41] = 0
    tampered = {**members, "proof/leaves.bin": bytes(leaves)}
    code, said = check(rewritten(tampered, [*lines[:17], *lines[18:]]))
    assert code == 1
    assert wrongs(said) == ["The manifest counts 0 as withheld: it is 1."]


def test_changed_personal_details_are_named(check):
    members = Log.of(30).export()
    members["personal.jsonl"] = members["personal.jsonl"].replace(b"Olive 17", b"Pavel 17")
    _, said = check(resealed(members))
    assert wrongs(said) == ["The personal details of entry 23 are not the recorded ones."]


@pytest.mark.parametrize(
    "line",
    [
        {"entry": 4711, "salt": "00", "values": {}},
        {"entry": 6, "salt": "zz", "values": {}},
        {"entry": 6, "salt": "00", "values": {"a": [1]}},
        {"entry": 6, "salt": "00", "values": {"a": "\ud800"}},
        {"entry": "6"},
        [],
    ],
)
def test_odd_personal_details_are_refused(check, line):
    members = Log.of(5).export()
    members["personal.jsonl"] = json.dumps(line).encode() + b"\n"
    assert check(resealed(members))[0] == 1


# Split views, old heads, other keys


def test_a_log_that_was_rewritten_does_not_continue_the_export_before(check):
    log = Log.of(40)
    before = log.export()
    forged = Log.of(40)
    written_over(forged, 17)
    forged.tree = StoredTree.of([leaf_hash(line) for line in forged.written])
    without_details(forged).grow(9)
    code, said = check(without_details(forged).export(number=2, previous=before))
    assert code == 1
    (wrong,) = wrongs(said)
    assert wrong.endswith("The tree of 49 leaves does not continue the tree of 40 leaves.")


def test_an_old_checkpoint_does_not_cover_newer_entries(check):
    log = Log.of(40)
    old = log.checkpoint().encode()
    log.grow(5)
    code, said = check(resealed({**log.export(), "checkpoint.txt": old}))
    assert code == 1
    assert "do not lead to the root that was signed" in said


def test_a_log_that_shrank_is_refused(check):
    long, short = Log.of(40), Log.of(30)
    members = short.export(number=2)
    members["proof/consistency.json"] = canonical({"checkpoint": long.checkpoint(), "path": []})
    previous = {"number": 1, "sha256": "0" * 64}
    _, said = check(resealed(members, previous=previous))
    assert "A tree of 30 leaves can't continue one of 40" in said


def test_another_key_and_another_origin_are_refused(check):
    members = Log.of(10).export()
    code, said = check(members, key=OTHER_KEY.vkey)
    assert code == 1
    assert [w.split(":")[0] for w in wrongs(said)] == [
        "The manifest",
        "The checkpoint",
        "The entries",
    ]
    assert f"only {ORIGIN}+{KEY.key_id}" in said
    code, said = check(resealed(members, origin="other.example/log"))
    assert code == 1
    assert "it is of another log" in said


def test_a_manifest_that_was_changed_or_belongs_to_another_export_is_refused(check):
    members = Log.of(10).export()
    other = Log.of(10).export(number=2)
    code, said = check({**members, "manifest.note": other["manifest.note"]})
    assert code == 1
    assert "what the log signed is another manifest" in said


def test_each_file_is_bound_by_the_manifest(check):
    members = Log.of(10).export()
    for name in members.keys() - {"manifest.json", "manifest.note"}:
        code, said = check({**members, name: members[name] + b" \n"})
        assert code == 1
        assert f"{name} is not the file that was exported." in wrongs(said)
    code, said = check({**members, "more.txt": b"1"})
    assert wrongs(said) == [
        "more.txt does not belong to this export: the manifest does not name it."
    ]
    del members["README.txt"]
    assert wrongs(check(members)[1]) == ["README.txt is missing: the manifest names it."]


# Files from strangers


def test_a_file_that_is_no_archive_or_cut_off_is_refused_in_a_sentence(check, tmp_path):
    path = tmp_path / "export.zip"
    data = packed(Log.of(50).export(), path).read_bytes()
    for cut in (0, 1, 30, len(data) // 2, len(data) - 10):
        path.write_bytes(data[:cut])
        code, said = check(path)
        assert (code, len(wrongs(said))) == (1, 1)
        assert "can't be read" in said


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_archive_is_refused_without_a_traceback(drawn, at, change):
    path = packed(Log.of(5).export(), drawn)
    data = bytearray(path.read_bytes())
    before = _contents(path)
    data[at % len(data)] ^= change
    path.write_bytes(data)
    report = audit.verify.Report()
    audit.verify.verify_export(path, [KEY.verifier], report)
    # Times and attributes of the archive's members mean nothing.
    assert report.problems or _contents(path) == before


def _contents(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    "missing",
    ["manifest.json", "manifest.note", "entries.jsonl", "checkpoint.txt", "proof/leaves.bin"],
)
def test_an_export_that_lacks_a_part_is_refused(check, missing):
    members = Log.of(5).export()
    del members[missing]
    code, said = check(members)
    assert code == 1
    assert f"lacks {missing}" in said


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a\\b", "forks/", "a//b", ".hidden", "x\x1b[2Jy"]
)
def test_odd_names_are_refused_and_do_not_reach_the_terminal(check, name):
    code, said = check({**Log.of(5).export(), name: b""})
    assert code == 1
    assert "odd name" in said
    assert "\x1b" not in said


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused(check, tmp_path):
    path = packed(Log.of(5).export(), tmp_path / "export.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("Entries.jsonl", b"")
    code, said = check(path)
    assert code == 1
    assert "twice" in said


def test_a_bomb_is_not_unpacked(check):
    members = Log.of(5).export()
    code, said = check({**members, "entries.csv": bytes(20_000_000)})
    assert code == 1
    assert "entries.csv would unpack to 20,000,000 bytes: not opened." in said


def test_a_small_file_that_is_large_is_not_read(check):
    members = Log.of(5).export()
    code, said = check({**members, "checkpoint.txt": os.urandom(5_000_000)})
    assert code == 1
    assert "checkpoint.txt is larger than such a file can be" in said


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("proof/range.json", b"[]"),
        ("proof/range.json", b"{}"),
        ("proof/range.json", b"[" * 100_000),
        ("proof/range.json", b'{"start": true, "stop": 5, "size": 5, "left": [], "right": []}'),
        ("proof/range.json", b'{"start": -1, "stop": 5, "size": 5, "left": [], "right": []}'),
        ("proof/range.json", b'{"start": 0, "stop": 5, "size": 5, "left": [1], "right": []}'),
        ("proof/range.json", b'{"start": 0, "stop": 5, "size": 5, "left": ["!"], "right": []}'),
        ("proof/range.json", b'{"start": 0, "stop": 6, "size": 6, "left": [], "right": []}'),
        ("proof/range.json", b'{"start": 0, "stop": 5, "size": 9, "left": [], "right": []}'),
        ("proof/range.json", b'{"start": ' + b"9" * 5000 + b"}"),
        ("proof/leaves.bin", bytes(40)),
        ("proof/leaves.bin", b"\x02" + bytes(40)),
        ("checkpoint.txt", b"\xff"),
        ("entries.jsonl", b"no line break"),
        ("entries.jsonl", b"x" * 3_000_000 + b"\n"),
        ("forks/1.txt", b"no note"),
    ],
)
def test_a_part_that_is_not_written_as_it_should_be_is_refused(check, name, data):
    members = Log.of(5).export()
    if name == "entries.jsonl" and len(data) > 1000:
        data = os.urandom(len(data)).replace(b"\n", b" ") + b"\n"
    assert check(resealed({**members, name: data}))[0] == 1


@pytest.mark.parametrize(
    "manifest",
    [
        {"number": "1"},
        {"counts": None},
        {"counts": {"entries": 5}},
        {"previous": "yes"},
        {"files": []},
    ],
)
def test_a_manifest_with_odd_values_is_refused(check, manifest):
    values = {"origin": ORIGIN, "number": 1, **manifest}
    members = Log.of(5).export()
    tampered = sealed(members, {**json.loads(members["manifest.json"]), **values})
    if "files" in manifest:
        tampered["manifest.json"] = json.dumps(values).encode()
    assert check(tampered)[0] == 1


def test_a_size_that_the_archive_lies_about_is_noticed(check, tmp_path):
    path = packed(Log.of(5).export(), tmp_path / "export.zip")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, 2**31)
    path.write_bytes(data)
    code, said = check(path)
    assert code == 1
    assert re.search(r"would unpack to 2,147,483,648 bytes", said)


# The program


def test_it_runs_alone_in_a_process_without_django(tmp_path):
    alone = tmp_path / "verify.py"
    alone.write_bytes(Path(audit.verify.__file__).read_bytes())
    path = packed(Log.of(20).export(), tmp_path / "export.zip")
    log = Log.of(20)
    written_over(log, 17)
    tampered = packed(without_details(log).export(), tmp_path / "tampered.zip")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(alone), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    fine = run(str(path), "--key", KEY.vkey)
    assert (fine.returncode, fine.stderr) == (0, "")
    wrong = run(str(tampered), "--key", KEY.vkey)
    assert (wrong.returncode, wrong.stderr) == (1, "")
    assert "Leaf 17 (entry 23) was changed after it was sealed." in wrong.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["missing.zip", "--key", KEY.vkey],
        [__file__],
        [__file__, "--key", "no key"],
        [__file__, "--key", KEY.vkey, "--previous", "missing.zip"],
    ],
)
def test_a_wrong_call_exits_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_the_proof_of_one_entry_is_checked_and_shown(tmp_path, capsys):
    log = Log.of(20)
    path = tmp_path / "17.tlog-proof"
    text = tlog_proof_text(17, inclusion_path(log.tree, 17, 20), log.checkpoint(), log.written[17])
    path.write_text(text, "utf-8")
    assert main([str(path), "--key", KEY.vkey]) == 0
    assert f"Leaf 17 is in the log {ORIGIN}" in (said := capsys.readouterr().out)
    assert '"entry":23' in said
    path.write_text(text.replace("index 17", "index 16"), "utf-8")
    assert main([str(path), "--key", KEY.vkey]) == 1
    assert "Leaf 16 does not lead to the root" in capsys.readouterr().out
