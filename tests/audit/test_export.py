"""Exports: what is in them is proven, none is missing unnoticed, and no crash spoils one."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from accounts.access import System
from accounts.models import User
from audit import bundle, sealing
from audit import export as exports
from audit.export import ExportRefused, cancel, opened, request_export, tend, try_again
from audit.leaves import Row
from audit.models import Entry, Export, ExportState, Leaf, PersonalDetails, SigningKey
from audit.selection import Selection
from audit.trail import record
from tests.audit.conftest import OTHER_SEED, SEED, behind_the_triggers
from tests.audit.exporting import exported, file_of, verify

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(bundle, "PART", 7)


@pytest.fixture
def reader(folder, account_of) -> User:
    return account_of("compliance_officer", email="ravi@example.org")


def lines(export: Export, name: str) -> list[dict]:
    with zipfile.ZipFile(file_of(export)) as made:
        return [json.loads(line) for line in made.read(name).splitlines()]


def test_a_whole_log_is_exported_and_verifies(reader, write, small_parts, tmp_path):
    write(30)
    export = exported(reader)
    assert export.state == ExportState.READY, export.reason
    checked = verify(file_of(export), tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    ids = [line["entry"] for line in lines(export, "entries.jsonl")]
    sealed = Leaf.objects.filter(index__lt=export.stop).order_by("index")
    assert ids == list(sealed.values_list("entry_id", flat=True))
    # The request itself was there when it was made.
    assert export.seen_entry in ids
    assert (export.done, export.written) == (export.stop, len(ids))


def test_a_filter_withholds_and_says_how_much(reader, write, small_parts, tmp_path):
    write(20)
    for _ in range(5):
        record(reader, "auth.logged_out", reader)
    export = exported(reader, Selection(event="auth.logged_out"))
    checked = verify(file_of(export), tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert {line["event"] for line in lines(export, "entries.jsonl")} == {"auth.logged_out"}
    assert export.written == 5
    withheld = export.stop - export.start - 5
    assert f"{withheld} entries of the range were left out" in checked.stdout


def test_a_period_begins_and_ends_with_its_entries(reader, write, tmp_path):
    write(4)
    middle = timezone.now()
    chosen = write(3)
    end = timezone.now()
    write(2)
    export = exported(reader, Selection(since=middle, until=end))
    assert [line["entry"] for line in lines(export, "entries.jsonl")] == chosen
    assert export.stop - export.start == 3
    assert verify(file_of(export), tmp_path).returncode == 0


def test_nothing_in_a_period_is_a_sentence(reader, write):
    write(1)
    export = exported(reader, Selection(until=timezone.now() - timedelta(days=900)))
    assert (export.state, export.reason) == ("failed", "The log has no entry in this period.")


def test_each_export_names_the_one_before(reader, write, tmp_path):
    files = []
    for _ in range(3):
        write(3)
        files.append(file_of(exported(reader)))
    assert verify(files[1], tmp_path, "--previous", str(files[0])).returncode == 0
    missing = verify(files[2], tmp_path, "--previous", str(files[0]))
    assert missing.returncode == 1
    assert "one is missing" in missing.stdout
    numbers = Export.objects.order_by("number").values_list("number", flat=True)
    assert list(numbers) == [1, 2, 3]


def test_first_key_opens_exports_behind_a_changed_key_and_a_fork(
    reader, write, tmp_path, monkeypatch, folder
):
    write(3)
    files = [file_of(exported(reader))]
    first_key = [SigningKey.objects.get().vkey]
    monkeypatch.setenv("AUDIT_SIGNING_KEY", OTHER_SEED)
    monkeypatch.setenv("AUDIT_SIGNING_KEY_PREVIOUS", SEED)
    files.append(file_of(exported(reader)))
    monkeypatch.delenv("AUDIT_SIGNING_KEY_PREVIOUS")
    (folder / "head").unlink()
    sealing.declare_fork("the disk with the folder died", System("tests"))
    write(1)
    files += [file_of(exported(reader)) for _ in range(2)]
    checked = [
        verify(file, tmp_path, "--previous", str(before), given=first_key)
        for before, file in pairwise(files)
    ]
    assert [one.returncode for one in checked] == [0, 3, 0], [one.stdout for one in checked]
    assert "are still in the log: what the fork gave up came after them" in checked[1].stdout


def test_one_that_was_begun_earlier_and_ends_later_still_follows_on(reader, account_of, write):
    """The chain is that of the ends; the log never shrinks along it."""
    write(2)
    slow = request_export(Selection(), by=reader)
    slow.refresh_from_db()
    exports._pin(slow)
    write(5)
    other = account_of("compliance_officer", email="other@example.org")
    quick = exported(other)
    exports.write(slow.pk)
    slow.refresh_from_db()
    assert (quick.number, slow.number) == (1, 2)
    assert slow.stop < quick.stop
    assert slow.checkpoint_number == quick.checkpoint_number


def test_spreadsheets_run_nothing(reader, folder):
    for begin in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]:
        record(reader, "auth.logged_out", ("accounts.user", begin), reason=begin)
    export = exported(reader)
    with zipfile.ZipFile(file_of(export)) as made:
        rows = list(csv.reader(io.StringIO(made.read("entries.csv").decode(), newline="")))
    assert rows[0] == list(bundle.COLUMNS)
    assert {cell[:1] for row in rows[1:] for cell in row} & bundle.FORMULA == set()
    reasons = {row[bundle.COLUMNS.index("reason")] for row in rows}
    assert {"'=1+1", "'\t=1"} <= reasons


CELLS = st.text(st.sampled_from("=+-@\t\r\n\",;' \x1fäb{}"), max_size=4)


@given(st.lists(CELLS, min_size=19, max_size=19))
def test_the_table_reads_as_it_was_written(cells):
    row = Row(7, 0, *cells[:15], '{"a": "b,\\"c"}', "")
    kept = bundle.Personal("", *cells[15:19])
    line = bundle.table_line(3, row, kept)
    (read,) = csv.reader(io.StringIO(line, newline=""))
    told = dict(zip(bundle.COLUMNS, read, strict=True))
    for name, text in (("reason", row.reason), ("actor", kept.actor_label), ("event", row.event)):
        assert told[name] == (f"'{text}" if text[:1] in bundle.FORMULA else text)
    assert told["payload"] == row.payload
    assert line.endswith("\r\n")


def test_personal_details_come_with_their_salt_until_they_are_erased(reader, tmp_path):
    kept = record(reader, "auth.logged_out", reader)
    erased = record(reader, "auth.logged_out", reader)
    PersonalDetails.objects.filter(pk=erased).delete()
    export = exported(reader)
    personal = {line["entry"]: line for line in lines(export, "personal.jsonl")}
    assert personal[kept]["values"]["actor_label"] == "ravi@example.org"
    assert erased not in personal
    assert verify(file_of(export), tmp_path).returncode == 0


def test_lines_are_the_very_bytes_that_were_hashed(reader, folder, tmp_path):
    peculiar = {"texts": ["é", "😀", '"', "\\", "\x7f", "\u2028"], "n": 1e21, "\U0001f600": 0.1}
    record(reader, "record.changed", reader, changes=peculiar)
    assert verify(file_of(exported(reader)), tmp_path).returncode == 0


# --- forgeries -------------------------------------------------------------------------------


def test_an_entry_that_was_changed_is_exported_as_it_is_and_named(reader, write, tmp_path):
    changed, removed = write(9)[3:5]
    sealing.seal()
    index = Leaf.objects.get(entry_id=changed).index
    behind_the_triggers("UPDATE audit_entry SET reason = 'x' WHERE id = %s", [changed])
    behind_the_triggers("DELETE FROM audit_personaldetails WHERE entry_id = %s", [removed])
    behind_the_triggers("DELETE FROM audit_entry WHERE id = %s", [removed])
    export = exported(reader)
    assert export.state == ExportState.READY
    assert f"1 entries were changed and 1 are gone, the first at leaf {index}" in export.reason
    checked = verify(file_of(export), tmp_path)
    assert checked.returncode == 1
    assert f"Leaf {index} (entry {changed}) was changed" in checked.stdout
    assert f"Leaf {index + 1} (entry {removed}) is missing" in checked.stdout


def test_a_removed_entry_can_not_hide_behind_a_filter(reader, write, tmp_path):
    removed = write(9)[3]
    sealing.seal()
    behind_the_triggers("DELETE FROM audit_personaldetails WHERE entry_id = %s", [removed])
    behind_the_triggers("DELETE FROM audit_entry WHERE id = %s", [removed])
    checked = verify(file_of(exported(reader, Selection(outcome="denied"))), tmp_path)
    assert checked.returncode == 1
    assert f"(entry {removed}) is missing" in checked.stdout


def rewritten(source: Path, target: Path, name: str, change) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            data = old.read(member)
            new.writestr(member, change(data) if member == name else data)


FORGERIES = {
    "an entry": ("entries.jsonl", lambda d: d.replace(b'"succeeded"', b'"denied"', 1)),
    "a row less": ("entries.jsonl", lambda d: d.split(b"\n", 1)[1]),
    "a name": ("personal.jsonl", lambda d: d.replace(b"ravi@", b"olga@", 1)),
    "the table": ("entries.csv", lambda d: d.replace(b"succeeded", b"denied", 1)),
    "the manifest": ("manifest.json", lambda d: d.replace(b'"number": 1', b'"number": 2', 1)),
    "the filter": ("manifest.json", lambda d: d.replace(b'"filters": {}', b'"filters": {"a":"b"}')),
    "the checkpoint": ("checkpoint.txt", lambda d: d.replace(b"\n", b"\n9", 1)),
    "a hash": ("proof/leaves.bin", lambda d: d[:20] + bytes([d[20] ^ 1]) + d[21:]),
    "the verifier": ("verify.py", lambda d: d + b"\n"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_forged_exports_are_refused(reader, write, tmp_path, what):
    write(5)
    export = exported(reader)
    name, change = FORGERIES[what]
    forged = tmp_path / "forged.zip"
    rewritten(file_of(export), forged, name, change)
    checked = verify(forged, tmp_path)
    assert checked.returncode == 1, checked.stdout
    assert "WRONG" in checked.stdout


# --- crashes, cancelling, expiring -----------------------------------------------------------


def test_a_run_goes_on_behind_the_last_finished_part(reader, write, small_parts, tmp_path):
    write(40)
    export = request_export(Selection(), by=reader)
    parts = 0

    def die_in_the_third_part(*_: object) -> None:
        nonlocal parts
        parts += 1
        if parts == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        noted = exports._step
        patched.setattr(
            exports,
            "_step",
            lambda e, **v: ("done" in v and die_in_the_third_part(), noted(e, **v)),
        )
        with pytest.raises(KeyboardInterrupt):
            exports.write(export.pk)
    export.refresh_from_db()
    assert (export.state, export.done) == ("writing", 14)
    read = []
    original = bundle._leaves
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bundle, "_leaves", lambda c, b, s: (read.append(b), original(c, b, s))[1])
        exports.write(export.pk)
    export.refresh_from_db()
    assert read[0] == 14, "what was finished is not read again"
    assert verify(file_of(export), tmp_path).returncode == 0


KILLED = """
import os, sys, django
django.setup()
from audit import bundle, export
bundle.PART = 50
print("ready", flush=True)
export.write(int(sys.argv[1]))
print("done", flush=True)
"""


def test_a_killed_worker_leaves_what_another_goes_on_with(reader, write, tmp_path, settings):
    write(400)
    export = request_export(Selection(), by=reader)
    deaths = 0
    while Export.objects.get(pk=export.pk).state != ExportState.READY:
        worker = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(export.pk)],
            env={
                **os.environ,
                "DATABASE_URL": _url_of_this_database(),
                "AUDIT_FOLDER": str(settings.AUDIT_FOLDER),
                "AUDIT_ORIGIN": settings.AUDIT_ORIGIN,
            },
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.PIPE,
        )
        assert worker.stdout.readline() == b"ready\n"
        before = Export.objects.get(pk=export.pk).done
        while worker.poll() is None and deaths < 3:
            if Export.objects.get(pk=export.pk).done > before:
                os.kill(worker.pid, signal.SIGKILL)
                deaths += 1
                break
            time.sleep(0.002)
        worker.wait(60)
        worker.stdout.close()
    assert deaths
    export.refresh_from_db()
    checked = verify(file_of(export), tmp_path)
    assert checked.returncode == 0, checked.stdout


def _url_of_this_database() -> str:
    base, _, query = os.environ["DATABASE_URL"].partition("?")
    head, _, _ = base.rpartition("/")
    name = connection.settings_dict["NAME"]
    return f"{head}/{name}" + (f"?{query}" if query else "")


def test_damaged_pieces_are_written_anew(reader, write, small_parts, tmp_path):
    write(20)
    export = request_export(Selection(), by=reader)
    exports._pin(export)
    with exports.folder.locked(f"exports/{export.pk}/lock"):
        contents = exports._contents(export)
        steps = contents.write()
        next(steps)
        exports._step(export, done=7, place=contents.place())
        steps.close()
    path = contents.members["entries.jsonl"].path
    path.write_bytes(path.read_bytes()[:-9])
    exports.write(export.pk)
    export.refresh_from_db()
    assert export.state == ExportState.READY
    assert verify(file_of(export), tmp_path).returncode == 0


def test_cancelling_stops_the_writer_between_two_parts(reader, write, small_parts):
    write(40)
    export = request_export(Selection(), by=reader)
    with pytest.MonkeyPatch.context() as patched:
        noted = exports._step

        def cancelled_meanwhile(one: Export, **values: object) -> None:
            if values.get("done") == 14:
                assert cancel(one, by=reader)
            noted(one, **values)

        patched.setattr(exports, "_step", cancelled_meanwhile)
        exports.write(export.pk)
    export.refresh_from_db()
    assert (export.state, export.done) == ("cancelled", 7)
    assert not file_of(export).parent.exists()
    assert not cancel(export, by=reader), "it can't be cancelled twice"


def test_one_at_a_time_each(reader, account_of, write):
    write(1)
    first = request_export(Selection(), by=reader)
    with pytest.raises(ExportRefused, match="still being written"):
        request_export(Selection(), by=reader)
    request_export(Selection(), by=account_of("compliance_officer", email="b@example.org"))
    exports.write(first.pk)
    request_export(Selection(), by=reader)


def test_without_a_key_it_fails_with_a_sentence_and_can_be_tried_again(
    reader, write, monkeypatch, tmp_path
):
    write(3)
    key = os.environ["AUDIT_SIGNING_KEY"]
    monkeypatch.delenv("AUDIT_SIGNING_KEY")
    export = exported(reader)
    assert export.state == ExportState.FAILED
    assert "AUDIT_SIGNING_KEY" in export.reason
    monkeypatch.setenv("AUDIT_SIGNING_KEY", key)
    try_again(export, by=reader)
    exports.write(export.pk)
    assert verify(file_of(export), tmp_path).returncode == 0


def test_a_foreign_key_signs_no_manifest(reader, write, monkeypatch):
    write(3)
    export = request_export(Selection(), by=reader)
    exports._pin(export)
    monkeypatch.setenv("AUDIT_SIGNING_KEY", "A" * 43 + "=")
    exports.write(export.pk)
    export.refresh_from_db()
    assert (export.state, export.number) == ("failed", None)
    assert "not the key that the log was last signed with" in export.reason


def test_files_are_private_and_go_when_their_time_is_over(reader, write):
    write(3)
    export = exported(reader)
    path = file_of(export)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700
    assert opened(export, by=reader) == path
    Export.objects.filter(pk=export.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    tend()
    export.refresh_from_db()
    assert export.state == ExportState.EXPIRED
    assert not path.parent.exists()
    with pytest.raises(ExportRefused, match="not here"):
        opened(export, by=reader)
    names = Entry.objects.filter(event__startswith="export.").order_by("id")
    assert list(names.values_list("event", flat=True)) == [
        *("export.requested", "export.finished", "export.downloaded", "export.expired"),
    ]


def test_silent_exports_are_handed_over_again(reader, write, monkeypatch):
    handed_over = []
    monkeypatch.setattr(
        exports.current_app, "send_task", lambda name, args, **_: handed_over.append((name, args))
    )
    export = request_export(Selection(), by=reader)
    assert handed_over.pop() == (exports.TASK, [export.pk])
    tend()
    assert handed_over == []
    Export.objects.filter(pk=export.pk).update(
        beat_at=timezone.now() - exports.SILENT_AFTER - timedelta(seconds=1)
    )
    tend()
    assert handed_over == [(exports.TASK, [export.pk])]


def test_the_task_has_the_name_by_which_it_is_sent():
    from audit.tasks import write_export

    assert write_export.name == exports.TASK


def test_two_workers_never_write_the_same_export(reader, write):
    write(3)
    export = request_export(Selection(), by=reader)
    with exports.folder.locked(f"exports/{export.pk}/lock") as alone:
        assert alone
        exports.write(export.pk)
    export.refresh_from_db()
    assert export.state == ExportState.WAITING


def test_an_estimate_counts_little_and_guesses_much(reader, write, monkeypatch):
    write(12)
    assert exports.estimate(Selection(event="account.created"))[1]
    monkeypatch.setattr(exports, "COUNTED", 5)
    count, exact = exports.estimate(Selection(event="account.created"))
    assert count >= 5
    assert not exact
