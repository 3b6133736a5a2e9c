"""Bring the tables back between tests that commit, to what they held at first.

Django's flush is one TRUNCATE of all tables. With some seventy of them, each with its indexes, it
takes longer than most tests, and the append-only tables refuse it. Here one query tells which
tables differ from what they held when the run began. Only those are emptied, by DELETE, and get
their first rows back. Their owner switches `ENABLE ALWAYS` triggers off for that moment, which the
application's role can't. When a table has grown, all are truncated: that is quicker then, and
leaves no dead rows.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from django.apps import apps
from django.db import OperationalError, connection, transaction
from psycopg.errors import DeadlockDetected

# The running server announces itself once; its row must outlive a test.
KEPT_TABLES = {
    *("django_migrations", "django_content_type", "auth_permission"),
    "conversations_runner",
}
LARGE_BYTES = 1 << 19

_LOOK = """
SELECT '{table}', size > {large}, CASE WHEN size <= {large}
    THEN (SELECT md5(string_agg(t::text, '')) FROM {table} t) END
FROM pg_relation_size('{table}') size
"""
_GUARDS = """
SELECT tgrelid::regclass::text, array_agg(tgname::text ORDER BY tgname) FROM pg_trigger
WHERE tgenabled = 'A' GROUP BY 1
"""


@dataclass(frozen=True)
class Found:
    """How one table is."""

    table: str
    is_large: bool
    fingerprint: str | None
    """Of its rows; None if there are none, or if it is large."""


@dataclass(frozen=True)
class FirstState:
    """What the tables held when the run began, and how they are guarded."""

    fingerprints: dict[str, str | None]
    insertions: dict[str, str]
    """For each table that held something, the statement that brings its rows back."""
    guards: dict[str, list[str]]
    """For each guarded table, its triggers that are `ENABLE ALWAYS`."""

    @classmethod
    def read(cls) -> "FirstState":
        """Take what is there now for it."""
        tables = {model._meta.db_table for model in apps.get_models(include_auto_created=True)}
        found = _look(tables - KEPT_TABLES)
        with connection.cursor() as cursor:
            cursor.execute(_GUARDS)
            guards = dict(cursor.fetchall())
        return cls(
            fingerprints={each.table: each.fingerprint for each in found},
            insertions={each.table: _insertion(each.table) for each in found if each.fingerprint},
            guards=guards,
        )

    def bring_back(self) -> None:
        """Make all tables hold this again."""
        despite_deadlocks(self._bring_back)

    @transaction.atomic
    def _bring_back(self) -> None:
        # Whoever still writes is waited for: what they commit later would not be seen.
        _execute(f"LOCK TABLE {', '.join(self.fingerprints)} IN SHARE ROW EXCLUSIVE MODE")
        found = _look(self.fingerprints)
        if any(each.is_large for each in found):
            changed = list(self.fingerprints)
            emptying = [f"TRUNCATE {', '.join(changed)} CASCADE"]
        else:
            changed = [
                each.table for each in found if each.fingerprint != self.fingerprints[each.table]
            ]
            emptying = [f"DELETE FROM {table}" for table in changed]
        if changed:
            _execute(";".join(self._statements(changed, emptying)))

    def _statements(self, changed: list[str], emptying: list[str]) -> Iterator[str]:
        yield from self._switched(changed, "DISABLE TRIGGER")
        yield from emptying
        yield from (self.insertions[table] for table in changed if table in self.insertions)
        # No table is altered while checks of it are deferred.
        yield "SET CONSTRAINTS ALL IMMEDIATE"
        yield from self._switched(changed, "ENABLE ALWAYS TRIGGER")

    def _switched(self, tables: list[str], how: str) -> Iterator[str]:
        for table in tables:
            if table in self.guards:
                actions = ", ".join(f"{how} {trigger}" for trigger in self.guards[table])
                yield f"ALTER TABLE {table} {actions}"


def _look(tables: Iterable[str]) -> list[Found]:
    looks = (_LOOK.format(table=table, large=LARGE_BYTES) for table in tables)
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(looks))
        return [Found(*row) for row in cursor.fetchall()]


def _insertion(table: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT quote_literal(json_agg(t)::text) FROM {table} t")
        [rows] = cursor.fetchone()
    return f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, {rows})"


def despite_deadlocks(do: Callable[[], None]) -> None:
    """Do what locks tables; the running server, which never rests, may lock some in another order.

    Raises AssertionError after five deadlocks in a row.
    """
    for _ in range(5):
        try:
            return do()
        except OperationalError as error:
            if not isinstance(error.__cause__, DeadlockDetected):
                raise
    raise AssertionError("Five deadlocks in a row are no accident.")


def _execute(statements: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statements)
