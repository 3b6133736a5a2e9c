"""What was done to the log behind its triggers is named, with its place."""

import base64
import io
import os
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from audit import inspection
from audit.checkpoint import SigningKey as PrivateKey
from audit.checkpoint import checkpoint_text
from audit.inspection import inspect_log
from audit.leaves import StoredHashes, leaf_bytes, read_places
from audit.merkle import append, root_at
from audit.models import Checkpoint, Entry, Fork, Leaf, PersonalDetails, SigningKey
from audit.sealing import ForkNotNeeded, Sealed, SealingRefused, declare_fork, seal, state
from audit.trail import System, record
from audit.verify import Note, VerifierKey, leaf_hash
from audit.witness import WitnessKey
from tests.audit.conftest import OTHER_SEED, SEED, behind_the_triggers

BY = System("tests")


@pytest.fixture
def log(write_many) -> list[int]:
    """A log of 600 entries, signed at 100, 300 and 600 leaves; the ids of its entries."""
    ids = []
    for count in (100, 200, 300):
        ids += write_many(count)
        seal()
    return ids


def found() -> list[tuple[str, int | None]]:
    return [(finding.kind, finding.index) for finding in inspect_log().findings]


def test_log_that_nobody_touched_holds(log):
    report = inspect_log()
    assert report.holds
    assert (report.leaves, report.entries, report.checkpoints) == (600, 600, 3)


def test_empty_log_holds(folder):
    assert inspect_log().holds


def test_entries_that_wait_are_no_finding(log, write):
    write(3)
    assert inspect_log().holds


def test_progress_is_told(log, monkeypatch):
    monkeypatch.setattr(inspection, "BATCH", 256)
    told = []
    inspect_log(progress=lambda done, size: told.append((done, size)))
    assert told == [(256, 600), (512, 600), (600, 600)]


@pytest.mark.parametrize(
    "change",
    [
        "reason = 'x'",
        "payload = '{\"n\": 1}'",
        "occurred_at = occurred_at + interval '1 microsecond'",
        "actor_id = 'somebody'",
        "outcome = 'failed'",
        "personal_digest = sha256('x')",
    ],
)
def test_changed_entry_is_named(log, change):
    behind_the_triggers(f"UPDATE audit_entry SET {change} WHERE id = %s", [log[257]])
    assert ("changed", 257) in found()
    assert {index for _, index in found()} == {257}


def test_removed_entry_is_named(log):
    behind_the_triggers(
        "WITH gone AS (DELETE FROM audit_personaldetails WHERE entry_id = %s)"
        " DELETE FROM audit_entry WHERE id = %s",
        [log[42], log[42]],
    )
    (finding,) = inspect_log().findings
    assert (finding.kind, finding.index, finding.entry) == ("removed", 42, log[42])


def test_removed_leaf_is_named(log):
    behind_the_triggers("DELETE FROM audit_leaf WHERE index = 42")
    kinds = found()
    assert ("removed", 42) in kinds
    assert ("inserted", None) in kinds


def exchange_leaves(one: int, other: int, *columns: str) -> None:
    sets = ", ".join(f"{name} = twin.{name}" for name in columns)
    behind_the_triggers(
        "ALTER TABLE audit_leaf DROP CONSTRAINT audit_leaf_entry_id_key;"
        f"UPDATE audit_leaf AS leaf SET {sets} FROM audit_leaf AS twin"
        f" WHERE leaf.index IN ({one}, {other}) AND twin.index = {one + other} - leaf.index;"
        "ALTER TABLE audit_leaf ADD CONSTRAINT audit_leaf_entry_id_key UNIQUE (entry_id)"
    )


@pytest.mark.parametrize("places", [(10, 500), (10, 11), (0, 599)])
def test_exchanged_leaves_are_named(log, places):
    exchange_leaves(*places, "entry_id", "hash")
    kinds = found()
    assert "rewritten" in {kind for kind, _ in kinds}
    moved = {index for kind, index in kinds if kind == "reordered"}
    assert moved
    assert moved <= set(places)
    if places[1] - places[0] > 1:
        assert moved == set(places)


def test_leaves_that_name_each_others_entry_are_named(log):
    exchange_leaves(10, 500, "entry_id")
    assert sorted(found()) == [("reordered", 10), ("reordered", 500)]


def test_exchanged_contents_are_named(log):
    behind_the_triggers(
        "UPDATE audit_entry AS entry SET target_id = twin.target_id FROM audit_entry AS twin"
        " WHERE entry.id IN (%s, %s) AND twin.id = %s - entry.id",
        [log[20], log[30], log[20] + log[30]],
    )
    assert found() == [("changed", 20), ("changed", 30)]


def slip_in(transaction: str) -> int:
    columns = [field.column for field in Entry._meta.fields if field.column != "id"]
    values = [transaction if name == "transaction_id" else name for name in columns]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO audit_entry ({', '.join(columns)}) SELECT {', '.join(values)}"
            " FROM audit_entry ORDER BY id LIMIT 1 RETURNING id"
        )
        return cursor.fetchone()[0]


@pytest.mark.parametrize("transaction", ["transaction_id", "transaction_id + 1000000000"])
def test_entry_that_was_slipped_in_is_named(log, transaction):
    slipped = slip_in(transaction)
    seal()
    (finding,) = inspect_log().findings
    assert (finding.kind, finding.entry) == ("inserted", slipped)


def rewrite(index: int, *, checkpoints: bool = False, signer: PrivateKey | None = None) -> None:
    """Change an entry and make its leaf, all nodes and, if asked, all checkpoints fit."""
    behind_the_triggers(
        "UPDATE audit_entry SET reason = 'x' FROM audit_leaf WHERE id = entry_id AND index = %s",
        [index],
    )
    with connection.cursor() as cursor:
        places = list(read_places(cursor, 0, Leaf.objects.count()))
        hashes = [leaf_hash(leaf_bytes(place.row)) for place in places]
        nodes = append(StoredHashes(cursor), 0, hashes)
    behind_the_triggers("UPDATE audit_leaf SET hash = %s WHERE index = %s", [hashes[index], index])
    for level, at, node in nodes:
        behind_the_triggers(
            "UPDATE audit_node SET hash = %s WHERE level = %s AND index = %s", [node, level, at]
        )
    for row in Checkpoint.objects.all() if checkpoints else ():
        with connection.cursor() as cursor:
            root = root_at(StoredHashes(cursor), row.size)
        note = checkpoint_text(row.origin, row.size, root, [signer]) if signer else row.note
        behind_the_triggers(
            "UPDATE audit_checkpoint SET root = %s, note = %s WHERE number = %s",
            [root, note, row.number],
        )


def test_rewritten_leaf_is_found_by_the_first_checkpoint_that_signed_it(log):
    rewrite(150)
    (finding,) = inspect_log().findings
    assert (finding.kind, finding.index) == ("rewritten", 100)
    assert "checkpoint 2 signed: leaves from 100 on" in finding.sentence
    assert seal().code == "inconsistent"


def test_rewritten_checkpoint_rows_do_not_fit_their_notes(log):
    rewrite(150, checkpoints=True)
    assert found() == [("forged", None), ("forged", None), ("rewritten", 100)]


def test_tree_that_was_signed_anew_with_another_key_does_not_fit_the_head_outside(log):
    forger = PrivateKey.from_seed("parley.example/log", bytes(32))
    rewrite(150, checkpoints=True, signer=forger)
    behind_the_triggers(
        "UPDATE audit_signingkey SET vkey = %s, key_id = %s", [forger.vkey, forger.key_id]
    )
    (finding,) = inspect_log().findings
    assert finding.kind == "forged"
    assert "head in AUDIT_FOLDER" in finding.sentence


def test_even_with_the_key_the_head_outside_tells(log):
    rewrite(
        150,
        checkpoints=True,
        signer=own_key(),
    )
    (finding,) = inspect_log().findings
    assert finding.kind == "rewritten"
    assert "the head in AUDIT_FOLDER" in finding.sentence


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("announcement = replace(announcement, 'size', 'site')", "is not right"),
        ("first_size = first_size - 1", "differs from what was said"),
    ],
)
def test_announcement_of_a_key_that_was_changed_is_forged(log, monkeypatch, change, says):
    monkeypatch.setenv("AUDIT_SIGNING_KEY", OTHER_SEED)
    monkeypatch.setenv("AUDIT_SIGNING_KEY_PREVIOUS", SEED)
    record(BY, "account.created")
    seal()
    assert inspect_log().holds
    behind_the_triggers(f"UPDATE audit_signingkey SET {change} WHERE announcement <> ''")
    (finding,) = inspect_log().findings
    assert finding.kind == "forged"
    assert says in finding.sentence


def cut(size: int, *, entries: bool = True) -> None:
    """Bring the database to where it was at `size` leaves, as an old backup does."""
    behind_the_triggers("DELETE FROM audit_checkpoint WHERE size > %s", [size])
    if entries:
        behind_the_triggers(
            "WITH gone AS (SELECT entry_id FROM audit_leaf WHERE index >= %s),"
            " details AS (DELETE FROM audit_personaldetails USING gone"
            " WHERE gone.entry_id = audit_personaldetails.entry_id)"
            " DELETE FROM audit_entry USING gone WHERE gone.entry_id = audit_entry.id",
            [size],
        )
    behind_the_triggers("DELETE FROM audit_node WHERE (index + 1) << level > %s", [size])
    behind_the_triggers("DELETE FROM audit_leaf WHERE index >= %s", [size])


def test_tail_that_was_cut_off_is_missed(log):
    cut(300)
    assert found() == [("tail_missing", 300)]
    assert seal().code == "behind"


def test_node_that_does_not_follow_from_its_leaves_is_named(log):
    behind_the_triggers("UPDATE audit_node SET hash = sha256('x') WHERE level = 8 AND index = 1")
    assert found() == [("rewritten", 256)]


def test_checkpoint_that_was_taken_out_is_named(log):
    behind_the_triggers("DELETE FROM audit_checkpoint WHERE number = 2")
    (finding,) = inspect_log().findings
    assert finding.kind == "removed"
    assert "Checkpoint 2" in finding.sentence


def test_erased_person_is_no_finding_and_a_changed_one_is(log):
    PersonalDetails.objects.filter(pk=log[5]).delete()
    assert inspect_log().holds
    PersonalDetails.objects.filter(pk=log[6]).update(actor_label="somebody else")
    assert found() == [("personal_changed", 6)]


def test_many_findings_are_counted(log, monkeypatch):
    monkeypatch.setattr(inspection, "KEPT_FINDINGS", 10)
    behind_the_triggers("UPDATE audit_entry SET reason = 'x'")
    report = inspect_log()
    assert (len(report.findings), report.more) == (10, 590)


# --- what was published ----------------------------------------------------------------------


@pytest.fixture
def published(log, tmp_path):
    """Return the file of a checkpoint of so many leaves, as somebody else has kept it."""
    notes = {row.size: row.note for row in Checkpoint.objects.all()}

    def file(size: int) -> str:
        path = tmp_path / f"checkpoint-{size}.txt"
        path.write_text(notes[size])
        return str(path)

    return file


def against(*files: str) -> list[inspection.Finding]:
    return inspect_log(against={name: Path(name).read_text() for name in files}).findings


def own_key() -> PrivateKey:
    return PrivateKey.from_seed("parley.example/log", base64.b64decode(SEED))


def rewrite_all_with_the_key(index: int, folder: Path) -> None:
    """Rewrite the log from an entry on so that nothing of it contradicts anything of it."""
    rewrite(index, checkpoints=True, signer=own_key())
    (folder / "head").write_text(Checkpoint.objects.latest("number").note)


def test_published_checkpoints_are_part_of_the_log(published):
    files = [published(100), published(300), published(600)]
    report = inspect_log(against={name: Path(name).read_text() for name in files})
    assert (report.findings, report.published) == ([], 3)


def test_cosigned_checkpoint_is_taken_as_it_came(published):
    path = Path(published(300))
    witness = WitnessKey.made("witness.example")
    text = Note.parse(path.read_text()).text
    path.write_text(path.read_text() + witness.cosign(text, 1_700_000_000).line)
    assert against(str(path)) == []


def test_log_rewritten_with_the_key_is_found_by_who_kept_a_checkpoint(published, folder):
    rewrite_all_with_the_key(150, folder)
    assert inspect_log().holds
    findings = against(published(100), published(300), published(600))
    assert [(f.kind, f.index) for f in findings] == [("rewritten", 100), ("rewritten", 100)]
    assert "checkpoint-300.txt signed" in findings[0].sentence
    assert "checkpoint-600.txt signed" in findings[1].sentence


def test_end_that_was_cut_off_everywhere_is_found_by_who_kept_a_checkpoint(published, folder):
    cut(300)
    (folder / "head").write_text(Checkpoint.objects.latest("number").note)
    assert inspect_log().holds
    (finding,) = against(published(300), published(600))
    assert (finding.kind, finding.index) == ("tail_missing", 300)
    assert "600 leaves were signed" in finding.sentence
    assert "checkpoint-600.txt" in finding.sentence


@pytest.mark.parametrize(
    "signer",
    [
        PrivateKey.from_seed("parley.example/log", bytes(32)),
        PrivateKey.from_seed("other.example/log", base64.b64decode(SEED)),
    ],
    ids=["another key", "another log"],
)
def test_published_checkpoint_of_another_signer_is_refused(log, tmp_path, signer):
    root = Checkpoint.objects.get(size=300).root
    file = tmp_path / "given.txt"
    file.write_text(checkpoint_text(signer.name, 300, bytes(root), [signer]))
    (finding,) = against(str(file))
    assert finding.kind == "forged"
    assert "given.txt is no checkpoint of this log" in finding.sentence


def test_end_that_a_declared_fork_gave_up_is_told(published):
    cut(300)
    declare_fork("restored", BY)
    seal()
    (finding,) = against(published(300), published(600))
    assert (finding.kind, finding.index) == ("tail_missing", 300)
    assert "A declared fork set the log back to 300" in finding.sentence


def test_published_checkpoint_from_before_the_last_inspection_is_compared(published, folder):
    verify()
    code, words = verify("--since-last", "--against", published(300))
    assert (code, "1 published checkpoint(s) are part of it" in words) == (0, True)
    kept = published(300)
    rewrite_all_with_the_key(150, folder)
    verify()
    code, words = verify("--since-last", "--against", kept)
    assert code == 1
    assert "rewritten: The first 300 leaves are not those" in words


def test_file_that_is_none_is_an_error_of_the_call(log, tmp_path):
    with pytest.raises(CommandError, match="No such file"):
        verify("--against", str(tmp_path / "absent"))
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    with pytest.raises(CommandError, match="no text"):
        verify("--against", str(tmp_path / "binary"))


# --- commands --------------------------------------------------------------------------------


def verify(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    try:
        call_command("audit_verify", *arguments, stdout=out, stderr=io.StringIO())
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    return 0, out.getvalue()


def test_command_says_in_words_what_does_not_hold(log):
    code, words = verify()
    assert (code, words[:15]) == (0, "The log holds. ")
    behind_the_triggers("UPDATE audit_entry SET reason = 'x' WHERE id = %s", [log[7]])
    code, words = verify()
    assert code == 1
    assert f"changed: Entry {log[7]} (leaf 7) is not what was sealed" in words
    assert "does NOT hold" in words


def test_command_goes_on_from_the_last_checkpoint_that_it_found_whole(log, write):
    verify()
    later = write(20)
    seal()
    code, words = verify("--since-last")
    assert code == 0
    assert "Checked after checkpoint 3: 20 leaves" in words
    behind_the_triggers("UPDATE audit_entry SET reason = 'x' WHERE id = %s", [later[5]])
    assert [verify("--since-last")[0], verify()[0]] == [0, 1]


def test_beginning_that_was_rewritten_is_found_from_its_root_later(log, write):
    verify()
    rewrite(150)
    write(20)
    code, words = verify("--since-last")
    assert code == 1
    assert "rewritten" in words


# --- forks -----------------------------------------------------------------------------------


def test_fork_is_declared_only_where_the_log_can_not_go_on(log):
    with pytest.raises(ForkNotNeeded):
        declare_fork("just so", BY)


def test_restored_database_goes_on_after_a_signed_fork(log, write, folder):
    head = (folder / "head").read_text()
    cut(300)
    late = write(5)
    assert seal().code == "behind"
    call_command("audit_fork", reason="restored from\nthe backup of Monday", stdout=io.StringIO())
    fork = Fork.objects.get()
    assert (fork.origin, fork.generation) == ("parley.example/log/2", 2)
    assert (fork.old_size, fork.resumed_size, fork.size) == (600, 300, 305)
    assert list(Leaf.objects.filter(index__gte=300).values_list("entry_id", flat=True))[:5] == late
    keys = [VerifierKey.parse(key.vkey) for key in SigningKey.objects.all()]
    note = Note.parse(fork.statement)
    assert len(note.verified(keys)) == 2
    assert "head 600 " in note.text
    assert "reason restored from the backup of Monday" in note.text
    assert (folder / "fork-2").read_text() == fork.statement
    assert (folder / "head").read_text() != head
    write(10)
    seal()
    # Its declaration is an entry too.
    assert Leaf.objects.count() == 316
    report = inspect_log()
    assert report.findings == []
    assert report.forks == 1
    assert state().unsealed == 0


def test_head_of_a_later_fork_is_not_forgotten_by_a_database_from_before(log, write):
    cut(300)
    declare_fork("first", BY)
    seal()
    behind_the_triggers("DELETE FROM audit_fork")
    behind_the_triggers("DELETE FROM audit_signingkey WHERE name LIKE '%%/2'")
    cut(300)
    refused = seal()
    assert refused.code == "behind"
    assert "before a fork" in refused.sentence
    assert declare_fork("second", BY).origin == "parley.example/log/3"
    assert isinstance(seal(), Sealed)
    assert inspect_log().findings == []


def test_lost_head_is_said_to_be_unknown(log, folder):
    (folder / "head").write_text("no note")
    fork = declare_fork("the disk with the folder died", BY)
    assert "head unknown" in fork.statement
    assert isinstance(seal(), Sealed)
    assert inspect_log().findings == []


def test_lost_key_needs_a_fork(log, monkeypatch):
    monkeypatch.setenv("AUDIT_SIGNING_KEY", base64.b64encode(os.urandom(32)).decode())
    assert seal().code == "wrong_key"
    declare_fork("the key was lost", BY)
    assert isinstance(seal(), Sealed)
    assert inspect_log().findings == []


def test_dump_that_was_restored_into_another_server_is_noticed(log, write):
    behind_the_triggers("UPDATE audit_entry SET transaction_id = transaction_id + 1000000000")
    behind_the_triggers(
        "UPDATE audit_checkpoint SET cursor_transaction = cursor_transaction + 1000000000"
    )
    late = write(2)
    behind_the_triggers(
        "UPDATE audit_entry SET transaction_id = 2000000000 WHERE id = %s", late[:1]
    )
    assert seal().code == "restored"
    declare_fork("moved to another server", BY)
    seal()
    new = write(3)
    seal()
    sealed = set(Leaf.objects.values_list("entry_id", flat=True))
    assert {*log, *late, *new} <= sealed
    assert inspect_log().findings == []


def test_fork_needs_a_key(log, monkeypatch):
    cut(300)
    monkeypatch.delenv("AUDIT_SIGNING_KEY")
    with pytest.raises(CommandError, match="AUDIT_SIGNING_KEY is not set"):
        call_command("audit_fork", reason="x", stdout=io.StringIO())
    assert not Fork.objects.exists()


def test_without_hashes_that_a_root_needs_only_a_restore_helps(log, write):
    behind_the_triggers("DELETE FROM audit_leaf WHERE index = 590")
    write(2)
    refused = seal()
    assert (refused.code, "Restore them" in refused.sentence) == ("inconsistent", True)
    with pytest.raises(SealingRefused, match="Only a restore helps"):
        declare_fork("somebody removed a leaf", BY)
    assert not Fork.objects.exists()


def test_missing_leaf_that_was_not_signed_yet_stops_sealing_with_a_sentence(
    log, write_many, folder
):
    behind_the_triggers("DELETE FROM audit_checkpoint WHERE size > 300")
    (folder / "head").write_text(Checkpoint.objects.latest("number").note)
    behind_the_triggers("DELETE FROM audit_leaf WHERE index = 550")
    # They fill the block of 256 leaves in which one is missing.
    write_many(200)
    refused = seal()
    assert (refused.code, "Restore them" in refused.sentence) == ("inconsistent", True)
