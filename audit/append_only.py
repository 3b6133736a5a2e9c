"""What keeps entries from being changed in the database, and the check that it is in place.

Two triggers refuse UPDATE, DELETE and TRUNCATE of entries. They are `ENABLE ALWAYS`, so that
`session_replication_role = replica` does not switch them off, and every role but the table's owner
loses the privileges as well. The owner could still drop a trigger: the application must not
connect as the owner, and the check below tells when a trigger is gone.
"""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error
from django.db import connections

TABLE = "audit_entry"
ROW_TRIGGER = "audit_entry_rows_stay"
TABLE_TRIGGER = "audit_entry_is_never_emptied"

# tgenabled 'A' is ENABLE ALWAYS. tgtype: 1 row, 2 before, 8 delete, 16 update, 32 truncate.
_PRESENT = """
SELECT tgname FROM pg_trigger
WHERE tgrelid = to_regclass(%s) AND tgenabled = 'A' AND (tgname, tgtype) IN ((%s, 27), (%s, 34))
"""


def triggers_missing(using: str = "default") -> list[str]:
    """Return the names of the triggers that are absent, switched off or weakened in a database."""
    with connections[using].cursor() as cursor:
        cursor.execute(_PRESENT, [TABLE, ROW_TRIGGER, TABLE_TRIGGER])
        present = {name for (name,) in cursor.fetchall()}
    return [name for name in (ROW_TRIGGER, TABLE_TRIGGER) if name not in present]


def check_triggers(*, databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """System check: the entries of each database are append-only (`check --database default`)."""
    return [
        Error(
            f"The trigger {name} is missing or not ENABLE ALWAYS: entries could be changed.",
            hint="Find out who removed it; migrate the app audit to zero and back, or restore it.",
            id="audit.E001",
        )
        for using in databases or ()
        if _has_entries(using)
        for name in triggers_missing(using)
    ]


def _has_entries(using: str) -> bool:
    # Before the first migrate there is nothing to keep.
    return TABLE in connections[using].introspection.table_names()
