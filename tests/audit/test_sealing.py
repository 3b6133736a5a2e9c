"""Entries get their leaves, once and in order, and nothing is signed that contradicts the past."""

import pytest
from django.db import connection

from audit import sealing
from audit.leaves import StoredHashes, leaf_bytes, read_places
from audit.merkle import root_at
from audit.models import Checkpoint, Entry, Leaf, Node, SigningKey
from audit.sealing import Refused, Sealed, seal, state
from audit.verify import (
    CompactRange,
    KeyStatement,
    Note,
    VerifierKey,
    leaf_hash,
    parse_checkpoint,
)
from tests.audit.conftest import OTHER_SEED, SEED


def stored_root(size: int) -> bytes:
    with connection.cursor() as cursor:
        return root_at(StoredHashes(cursor), size)


def recomputed_root() -> bytes:
    tree = CompactRange()
    with connection.cursor() as cursor:
        for place in read_places(cursor, 0, Leaf.objects.count()):
            assert place.row
            assert leaf_hash(leaf_bytes(place.row)) == place.hash
            tree.append(place.hash)
    return tree.root()


def test_entries_are_sealed_in_order_and_signed(write, folder):
    ids = write(5)
    assert seal() == Sealed(5, 5, 1, more=False)
    assert list(Leaf.objects.values_list("index", "entry_id")) == list(enumerate(ids))
    checkpoint = Checkpoint.objects.get()
    key = VerifierKey.parse(SigningKey.objects.get().vkey)
    signed = parse_checkpoint(checkpoint.note, [key])
    assert (signed.origin, signed.size) == ("parley.example/log", 5)
    assert signed.root == bytes(checkpoint.root) == stored_root(5) == recomputed_root()
    assert (folder / "head").read_text() == checkpoint.note


def test_nothing_new_makes_no_checkpoint(write):
    assert seal() == Sealed(0, 0, None, more=False)
    write(1)
    seal()
    assert seal() == Sealed(0, 1, None, more=False)
    assert Checkpoint.objects.count() == 1


def test_batches_go_on_where_the_last_one_ended(write):
    ids = write(700)
    sizes = []
    while (result := seal(batch=150)).more:
        sizes.append(result.size)
    assert [*sizes, result.size] == [150, 300, 450, 600, 700]
    assert list(Leaf.objects.values_list("entry_id", flat=True)) == ids
    assert Node.objects.filter(level=8).count() == 2
    assert stored_root(700) == recomputed_root()


def test_key_that_is_missing_stops_the_signing_and_not_the_writing(write, monkeypatch):
    monkeypatch.delenv("AUDIT_SIGNING_KEY")
    write(3)
    refused = seal()
    assert isinstance(refused, Refused)
    assert refused.code == "no_key"
    assert "AUDIT_SIGNING_KEY" in refused.sentence
    assert state().unsealed == 3
    write(1)
    monkeypatch.setenv("AUDIT_SIGNING_KEY", SEED)
    assert seal() == Sealed(4, 4, 1, more=False)
    assert state() == sealing.State(0, 0.0)


@pytest.mark.parametrize("secret", ["not base64!", "c2hvcnQ="])
def test_key_that_is_none_is_refused_without_telling_it(write, monkeypatch, secret):
    monkeypatch.setenv("AUDIT_SIGNING_KEY", secret)
    refused = seal()
    assert refused.code == "bad_key"
    assert secret not in refused.sentence


def test_another_key_is_taken_only_with_the_one_before(write, monkeypatch):
    write(1)
    seal()
    former = SigningKey.objects.get()
    monkeypatch.setenv("AUDIT_SIGNING_KEY", OTHER_SEED)
    write(1)
    assert seal().code == "wrong_key"
    monkeypatch.setenv("AUDIT_SIGNING_KEY_PREVIOUS", SEED)
    assert seal() == Sealed(1, 2, 2, more=False)
    _, new = SigningKey.objects.all()
    note = Checkpoint.objects.get(number=2).note
    for key in (former, new):
        assert parse_checkpoint(note, [VerifierKey.parse(key.vkey)]).size == 2
    assert new.first_size == 2
    monkeypatch.delenv("AUDIT_SIGNING_KEY_PREVIOUS")
    # What says that the key was changed is itself sealed.
    assert Entry.objects.filter(event="log.key_rotated", payload__first_size=2).count() == 1
    assert seal() == Sealed(1, 3, 3, more=False)


def test_changed_key_is_announced_without_anything_new(write, monkeypatch):
    write(2)
    seal()
    monkeypatch.setenv("AUDIT_SIGNING_KEY", OTHER_SEED)
    monkeypatch.setenv("AUDIT_SIGNING_KEY_PREVIOUS", SEED)
    assert seal() == Sealed(0, 2, 2, more=False)
    assert Entry.objects.filter(event="log.key_rotated", payload__first_size=2).count() == 1
    assert seal() == Sealed(1, 3, 3, more=False)
    assert seal() == Sealed(0, 3, None, more=False)
    former, new = SigningKey.objects.all()
    note = Note.parse(new.announcement)
    trusted = [VerifierKey.parse(former.vkey)]
    assert KeyStatement.verified(note, trusted)[1].vkey == new.vkey


def test_folder_that_can_not_be_written_refuses(write, folder):
    folder.write_text("a file where a folder should be")
    write(1)
    assert seal().code == "folder"
    folder.unlink()
    assert seal() == Sealed(1, 1, 1, more=False)


def test_head_that_was_lost_is_not_made_up_from_the_database(write, folder):
    write(1)
    seal()
    head = (folder / "head").read_text()
    (folder / "head").unlink()
    assert seal().code == "folder"
    (folder / "head").write_text(head.replace("1", "2", 1))
    assert seal().code == "folder"
    (folder / "head").write_text(head)
    write(1)
    assert seal() == Sealed(1, 2, 2, more=False)


def test_old_copy_of_the_head_is_refused(write, folder):
    write(1)
    seal()
    head = (folder / "head").read_text()
    write(1)
    seal()
    (folder / "head").write_text(head)
    refused = seal()
    assert refused.code == "folder"
    assert "old copy" in refused.sentence


def test_name_of_the_log_is_fixed_with_the_first_checkpoint(write, settings):
    write(1)
    seal()
    settings.AUDIT_ORIGIN = "elsewhere.example/log"
    write(1)
    seal()
    assert set(Checkpoint.objects.values_list("origin", flat=True)) == {"parley.example/log"}
