"""Retention of the log itself: only old, sealed beginnings go, and what was proven stays so."""

import os
from datetime import timedelta

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from accounts.access import System
from audit import export as exports
from audit import removal, sealing
from audit.checkpoint import tlog_proof_text
from audit.export import request_export
from audit.inspection import inspect_log
from audit.leaves import StoredHashes, leaf_bytes, read_places
from audit.merkle import inclusion_path
from audit.models import Checkpoint, Entry, Leaf, PersonalDetails, Removal
from audit.removal import remove_old, removed_below
from audit.selection import Selection
from audit.trail import personal_digest, record
from audit.verify import InclusionProof, VerifierKey, leaf_hash
from tests.audit.conftest import behind_the_triggers
from tests.audit.exporting import exported, file_of, verify

pytestmark = pytest.mark.django_db(transaction=True)

OLD = timedelta(days=401)
NAMELESS = dict.fromkeys(("actor_label", "target_label", "network", "user_agent"), "")
DIGEST = personal_digest(b"x", NAMELESS)


@pytest.fixture
def old(folder):
    """Write entries as of so long ago, each with its personal details; return their ids."""

    def write(count: int, ago: timedelta = OLD) -> list[int]:
        with connection.cursor() as cursor:
            cursor.execute(
                "WITH made AS (INSERT INTO audit_entry (event, occurred_at, recorded_at,"
                " actor_kind, actor_id, actor_roles, impersonator_id, target_kind, target_id,"
                " outcome, reason, request_id, trace_id, turn_id, payload, personal_digest)"
                " SELECT 'auth.logged_out', %(at)s, %(at)s, 'system', 'tests', '', '', '', '',"
                " 'succeeded', '', '', '', '', '{}', %(digest)s FROM generate_series(1, %(count)s)"
                " RETURNING id) INSERT INTO audit_personaldetails (entry_id, salt, actor_label,"
                " target_label, network, user_agent) SELECT id, 'x', '', '', '', '' FROM made"
                " RETURNING entry_id",
                {"at": timezone.now() - ago, "count": count, "digest": DIGEST},
            )
            return [entry for (entry,) in cursor.fetchall()]

    return write


def test_what_is_older_goes_and_the_tree_stays(old, write):
    gone, kept = old(25), write(5)
    sealing.seal()
    assert remove_old(timezone.now(), batch=10) == 25
    assert not Entry.objects.filter(pk__in=gone).exists()
    assert not PersonalDetails.objects.filter(pk__in=gone).exists()
    assert Entry.objects.filter(pk__in=kept).count() == 5
    assert Leaf.objects.filter(entry_id__in=gone).count() == 25
    assert removed_below() == 25
    notes = Entry.objects.filter(event="log.prefix_removed").order_by("id")
    assert [(n.payload["first"], n.payload["below"]) for n in notes] == [
        *((0, 10), (10, 20), (20, 25)),
    ]
    assert remove_old(timezone.now()) == 0


def test_old_proofs_hold_and_new_ones_can_be_made(old, write):
    old(20)
    write(3)
    sealing.seal()
    checkpoint = Checkpoint.objects.order_by("number").last()
    with connection.cursor() as cursor:
        place = next(iter(read_places(cursor, 7, 8)))
        path = inclusion_path(StoredHashes(cursor), 7, checkpoint.size)
    data = leaf_bytes(place.row)
    text = tlog_proof_text(7, path, checkpoint.note, data)
    remove_old(timezone.now())
    key = VerifierKey.parse(sealing.models.SigningKey.objects.get().vkey)
    InclusionProof.parse(text).verify(leaf_hash(data), [key])
    with connection.cursor() as cursor:
        assert inclusion_path(StoredHashes(cursor), 7, checkpoint.size) == path
    sealing.seal()
    report = inspect_log()
    assert report.holds, report.findings
    assert report.retired == 20


def test_a_young_entry_ends_what_is_removed(old, write):
    first = old(3)
    write(1)
    later = old(3)
    sealing.seal()
    remove_old(timezone.now())
    assert not Entry.objects.filter(pk__in=first).exists()
    assert Entry.objects.filter(pk__in=later).count() == 3


def test_what_is_not_sealed_stays(old):
    ids = old(3)
    assert remove_old(timezone.now()) == 0
    sealing.seal()
    more = old(2)
    assert remove_old(timezone.now()) == 3
    assert set(Entry.objects.values_list("pk", flat=True)) >= set(more)
    assert not Entry.objects.filter(pk__in=ids).exists()


def call(older_than: timedelta) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT * FROM audit_remove_prefix(%s, 1000, '', 'tests')",
            [timezone.now() - older_than],
        )


def test_the_database_itself_keeps_the_floor(old):
    ids = old(3, timedelta(days=179))
    sealing.seal()
    for age in (timedelta(days=179), timedelta(0), timedelta(days=-999)):
        with pytest.raises(DatabaseError, match="kept for at least 180 days"):
            call(age)
    call(timedelta(days=180, seconds=1))
    assert Entry.objects.filter(pk__in=ids).count() == 3


def test_the_floor_is_lowered_by_a_confirmed_setting_and_the_owner_alone(old, settings):
    settings.AUDIT_RETENTION_DAYS = 30
    with pytest.raises(ImproperlyConfigured, match="AUDIT_RETENTION_SHORTER_THAN_180_DAYS=yes"):
        removal.check_retention()
    settings.AUDIT_RETENTION_SHORTER_THAN_180_DAYS = True
    removal.check_retention()
    ids = old(3, timedelta(days=31))
    sealing.seal()
    with pytest.raises(DatabaseError, match="kept for at least 180 days"):
        remove_old(timezone.now())
    try:
        call_command("migrate", verbosity=0)
        assert remove_old(timezone.now()) == 3
    finally:
        settings.AUDIT_RETENTION_DAYS = 400
        call_command("migrate", verbosity=0)
    assert not Entry.objects.filter(pk__in=ids).exists()
    with pytest.raises(DatabaseError, match="kept for at least 180 days"):
        call(timedelta(days=31))


def refused(statement: str, *parameters: object) -> None:
    def attempt() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute(statement, parameters)

    with pytest.raises(DatabaseError, match="never changed or removed"):
        attempt()


def test_no_other_way_removes_an_entry(old, write):
    old(3)
    kept = write(2)
    sealing.seal()
    remove_old(timezone.now())
    refused("DELETE FROM audit_entry WHERE id = %s", kept[0])
    refused("DELETE FROM audit_entry")
    refused("UPDATE audit_entry SET reason = 'x' WHERE id = %s", kept[0])
    refused("TRUNCATE audit_entry CASCADE")
    refused("DELETE FROM audit_removal")
    refused("UPDATE audit_removal SET below_index = 99")


def test_a_temporary_table_stands_in_for_nothing(old, write):
    kept = write(2)
    sealing.seal()
    refused(
        "CREATE TEMPORARY TABLE audit_removal (below_index bigint) ON COMMIT DROP;"
        "INSERT INTO pg_temp.audit_removal VALUES (1000);"
        f"DELETE FROM audit_entry WHERE id = {kept[0]}"
    )


def test_the_applications_role_may_only_call_the_function(old, write):
    old(3)
    write(1)
    sealing.seal()
    url = _application_url()
    role = psycopg.conninfo.conninfo_to_dict(url)["user"]
    with connection.cursor() as cursor:
        cursor.execute(
            f"GRANT SELECT, INSERT ON audit_entry TO {role}; GRANT SELECT ON audit_removal,"
            f" audit_floor TO {role}; GRANT EXECUTE ON FUNCTION"
            f" audit_remove_prefix(timestamptz, bigint, text, text) TO {role}"
        )
    with psycopg.connect(url, autocommit=True) as application:
        own_note = (
            "INSERT INTO audit_removal (from_index, below_index, older_than, checkpoint_number,"
            " missing, reason, removed_by) VALUES (0, 9, now(), 1, 0, '', '')"
        )
        forbidden = ("DELETE FROM audit_entry", "UPDATE audit_floor SET days = 1", own_note)
        for statement in forbidden:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                application.execute(statement)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="at least 180 days"):
            application.execute("SELECT * FROM audit_remove_prefix(now(), 9, '', '')")
        found = application.execute(
            "SELECT * FROM audit_remove_prefix(now() - interval '400 days', 9, '', '')"
        ).fetchone()
    assert found == (0, 3, 0)


def _application_url() -> str:
    base, _, query = os.environ["TEST_APPLICATION_URL"].partition("?")
    name = connection.settings_dict["NAME"]
    return f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")


def test_nobody_else_may_call_it():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_proc, aclexplode(proacl) AS acl"
            " WHERE proname = 'audit_remove_prefix' AND acl.grantee = 0"
        )
        assert cursor.fetchone() == (0,)


def test_what_went_another_way_before_is_told(old):
    ids = old(4)
    sealing.seal()
    behind_the_triggers("DELETE FROM audit_personaldetails WHERE entry_id = %s", [ids[1]])
    behind_the_triggers("DELETE FROM audit_entry WHERE id = %s", [ids[1]])
    remove_old(timezone.now())
    assert Removal.objects.get().missing == 1


def test_an_entry_removed_behind_the_prefix_is_found(old, write):
    old(3)
    ids = write(3)
    sealing.seal()
    remove_old(timezone.now())
    behind_the_triggers("DELETE FROM audit_personaldetails WHERE entry_id = %s", [ids[1]])
    behind_the_triggers("DELETE FROM audit_entry WHERE id = %s", [ids[1]])
    assert [(f.kind, f.entry) for f in inspect_log().findings] == [("removed", ids[1])]


def test_exports_begin_behind_it_and_follow_on(old, write, account_of, tmp_path):
    old(5)
    # The account and its role are entries too, of today.
    officer = account_of("compliance_officer")
    before = exported(officer)
    remove_old(timezone.now())
    record(System("tests"), "account.created", ("accounts.user", "1"))
    after = exported(officer)
    assert (before.start, after.start) == (0, 5)
    checked = verify(file_of(after), tmp_path, "--previous", str(file_of(before)))
    assert checked.returncode == 0, checked.stdout
    assert verify(file_of(before), tmp_path).returncode == 0, "what was exported before holds"


def test_nothing_is_removed_under_an_export(old, account_of):
    old(5)
    export = request_export(Selection(), by=account_of("compliance_officer"))
    exports._pin(export)
    assert remove_old(timezone.now()) == 0
    exports.write(export.pk)
    assert remove_old(timezone.now()) == 5
