"""The database keeps entries as they are."""

from collections.abc import Callable

import pytest
from django.db import DatabaseError, connection, transaction

from accounts.access import System
from audit.append_only import TRIGGERS, check_triggers, triggers_missing
from audit.models import Entry, PersonalDetails
from audit.trail import record

pytestmark = pytest.mark.django_db
BY = System("tests")
ROW_TRIGGER, TABLE_TRIGGER = TRIGGERS["audit_entry"]


@pytest.fixture
def entry():
    return Entry.objects.get(pk=record(BY, "account.created", ("accounts.user", "1")))


def execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


REFUSED: list[tuple[str, Callable[[Entry], object]]] = [
    ("a save", lambda entry: entry.save()),
    ("a delete", lambda entry: Entry.objects.filter(pk=entry.pk)._raw_delete("default")),
    ("an update of all", lambda _: Entry.objects.update(reason="nothing happened")),
    ("an update to the same", lambda _: execute("UPDATE audit_entry SET reason = reason")),
    ("SQL's delete", lambda _: execute("DELETE FROM audit_entry")),
    ("SQL's truncate", lambda _: execute("TRUNCATE audit_entry CASCADE")),
    (
        "an upsert",
        lambda entry: execute(
            "INSERT INTO audit_entry SELECT * FROM audit_entry"
            f" WHERE id = {entry.pk} ON CONFLICT (id) DO UPDATE SET reason = 'x'"
        ),
    ),
]


@pytest.mark.parametrize("replicating", [False, True])
@pytest.mark.parametrize("change", [c for _, c in REFUSED], ids=[name for name, _ in REFUSED])
def test_entries_are_never_changed_or_removed(entry, change, replicating):
    # Checked at once, lest the pending foreign key refuses before the trigger does.
    execute("SET CONSTRAINTS ALL IMMEDIATE")
    if replicating:
        become_a_replica()
    refused = pytest.raises(DatabaseError, match="Audit entries are never changed or removed")
    with refused, transaction.atomic():
        change(entry)
    assert Entry.objects.filter(pk=entry.pk, reason="").exists()


def become_a_replica() -> None:
    """Switch ordinary triggers off, which only some roles may do."""
    try:
        with transaction.atomic():
            execute("SET LOCAL session_replication_role = replica")
    except DatabaseError:
        pytest.skip("this role may not set session_replication_role")
    execute("SET LOCAL session_replication_role = replica")


TREE_ROWS = {
    "audit_leaf": "(index, entry_id, hash) VALUES (0, 1, sha256('x'))",
    "audit_node": "(level, index, hash) VALUES (8, 0, sha256('x'))",
    "audit_checkpoint": "(number, origin, size, root, note, key_id, cursor_transaction,"
    " cursor_entry) VALUES (1, 'here/log', 1, sha256('x'), 'note', '00000000', 1, 1)",
    "audit_signingkey": "(key_id, name, vkey, first_size) VALUES ('00000000', 'here/log', 'x', 0)",
    "audit_fork": "(generation, origin, old_origin, old_size, old_root, resumed_size,"
    " resumed_root, size, cursor_transaction, reason, statement)"
    " VALUES (2, 'here/log/2', 'here/log', 0, '', 0, '', 0, 1, 'x', 'note')",
    "audit_removal": "(from_index, below_index, older_than, checkpoint_number, missing, reason,"
    " removed_by) VALUES (0, 1, now(), 1, 0, 'x', 'tests')",
    "audit_publication": "(checkpoint_id, destination, answer) VALUES (1, 'file', '')",
}


@pytest.mark.parametrize("replicating", [False, True])
@pytest.mark.parametrize("how", ["UPDATE {0} SET ctid = ctid", "DELETE FROM {0}", "TRUNCATE {0}"])
@pytest.mark.parametrize("table", TREE_ROWS)
def test_the_tree_is_never_changed_or_removed(table, how, replicating):
    execute(f"INSERT INTO {table} {TREE_ROWS[table]}")
    column = TREE_ROWS[table][1:].partition(",")[0]
    if replicating:
        become_a_replica()
    with (
        pytest.raises(DatabaseError, match=f"never changed or removed .*{table}"),
        transaction.atomic(),
    ):
        execute(how.format(table).replace("ctid", column))


def test_every_table_of_the_log_is_kept():
    assert set(TREE_ROWS) | {"audit_entry"} == set(TRIGGERS)


def test_triggers_fire_for_replicas_too():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT tgenabled FROM pg_trigger WHERE tgname = ANY(%s)",
            [[name for pair in TRIGGERS.values() for name in pair]],
        )
        assert cursor.fetchall() == [("A",)]


def test_personal_details_may_be_erased_and_the_entry_stays(entry):
    PersonalDetails.objects.filter(pk=entry.pk).update(actor_label="")
    PersonalDetails.objects.filter(pk=entry.pk).delete()
    assert Entry.objects.filter(pk=entry.pk).exists()


def test_check_is_content_with_what_the_migration_made():
    assert not any(triggers_missing(table) for table in TRIGGERS)
    assert check_triggers(databases=["default"]) == []


@pytest.mark.parametrize(
    "weakened",
    [
        f"DROP TRIGGER {ROW_TRIGGER} ON audit_entry",
        f"ALTER TABLE audit_entry DISABLE TRIGGER {ROW_TRIGGER}",
        f"ALTER TABLE audit_entry ENABLE TRIGGER {ROW_TRIGGER}",
        (
            f"DROP TRIGGER {ROW_TRIGGER} ON audit_entry;"
            f" CREATE TRIGGER {ROW_TRIGGER} BEFORE DELETE ON audit_entry"
            " FOR EACH ROW EXECUTE FUNCTION audit_refuse_change();"
            f" ALTER TABLE audit_entry ENABLE ALWAYS TRIGGER {ROW_TRIGGER}"
        ),
    ],
    ids=["dropped", "disabled", "not always", "no longer for update"],
)
def test_check_finds_a_trigger_that_was_weakened(weakened):
    execute(weakened)
    (error,) = check_triggers(databases=["default"])
    assert error.id == "audit.E001"
    assert ROW_TRIGGER in error.msg


def test_migration_leaves_other_roles_no_right_to_change():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM information_schema.role_table_grants"
            " WHERE table_name = ANY(%s) AND grantee <> current_user"
            " AND privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE')",
            [list(TRIGGERS)],
        )
        assert cursor.fetchone() == (0,)
