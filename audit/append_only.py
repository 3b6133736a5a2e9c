"""What keeps the log from being changed in the database, and the check that it is in place.

Each table of the log has two triggers, which refuse UPDATE, DELETE and TRUNCATE. They are
`ENABLE ALWAYS`, so that `session_replication_role = replica` does not switch them off, and every
role but the table's owner loses the privileges as well. The owner could still drop a trigger: the
application must not connect as the owner, and the check below tells when a trigger is gone.
"""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error
from django.db import connections

# Table → its trigger for rows, its trigger for TRUNCATE.
TRIGGERS: dict[str, tuple[str, str]] = {
    table: (f"{table}_rows_stay", f"{table}_is_never_emptied")
    for table in (
        "audit_entry",
        "audit_leaf",
        "audit_node",
        "audit_checkpoint",
        "audit_signingkey",
        "audit_fork",
        "audit_publication",
        "audit_removal",
    )
}

# tgenabled 'A' is ENABLE ALWAYS. tgtype: 1 row, 2 before, 8 delete, 16 update, 32 truncate.
_PRESENT = """
SELECT tgname FROM pg_trigger
WHERE tgrelid = to_regclass(%s) AND tgenabled = 'A' AND (tgname, tgtype) IN ((%s, 27), (%s, 34))
"""


def triggers_missing(table: str, using: str = "default") -> list[str]:
    """Return the triggers of a table that are absent, switched off or weakened in a database."""
    triggers = TRIGGERS[table]
    with connections[using].cursor() as cursor:
        cursor.execute(_PRESENT, [table, *triggers])
        present = {name for (name,) in cursor.fetchall()}
    return [name for name in triggers if name not in present]


def check_triggers(*, databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """System check: the log of each database is append-only (`check --database default`)."""
    return [
        Error(
            f"The trigger {name} is missing or not ENABLE ALWAYS: rows of {table} could be"
            " changed.",
            hint="Find out who removed it; migrate the app audit to zero and back, or restore it.",
            id="audit.E001",
        )
        for using in databases or ()
        for table in _tables_present(using)
        for name in triggers_missing(table, using)
    ]


def _tables_present(using: str) -> list[str]:
    # Before the first migrate there is nothing to keep.
    present = set(connections[using].introspection.table_names())
    return [table for table in TRIGGERS if table in present]
