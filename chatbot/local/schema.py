"""Whether the embedded database already is what the code wants, asked without starting Django.

A start that changes nothing is the usual one, and `migrate` takes seconds to find that out. What
was migrated is noted as the comment of the database itself, so that it travels with the data and a
backup brings its own. Any change of the code or of the locked packages counts as a reason to
migrate, and so does a migration applied or reversed by hand.
"""

import hashlib
from pathlib import Path

import psycopg
from psycopg import sql

from chatbot.local.environment import ROOT

PACKAGES = ("chatbot", "accounts", "audit", "prompts", "conversations")


class Schema:
    """The schema behind `owner_url`, which is the database of `make up`."""

    def __init__(self, owner_url: str, root: Path = ROOT) -> None:
        self._owner_url = owner_url
        self._digest = _digest(root)

    def is_current(self) -> bool:
        """True when nothing has changed since `note_current`."""
        with psycopg.connect(self._owner_url) as connection:
            return _noted(connection) == self._state(connection)

    def note_current(self) -> None:
        """Call it when migrations have run to their end."""
        with psycopg.connect(self._owner_url) as connection:
            connection.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                    sql.Identifier(connection.info.dbname), sql.Literal(self._state(connection))
                )
            )

    def _state(self, connection: psycopg.Connection) -> str:
        if connection.execute("SELECT to_regclass('django_migrations')").fetchone() == (None,):
            return "no migration yet"
        applied = connection.execute("SELECT count(*), max(id) FROM django_migrations").fetchone()
        return f"migrated {applied} {self._digest}"


def _noted(connection: psycopg.Connection) -> str | None:
    row = connection.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database"
        " WHERE datname = current_database()"
    ).fetchone()
    return row[0] if row else None


def _digest(root: Path) -> str:
    digest = hashlib.sha256((root / "requirements.lock").read_bytes())
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
