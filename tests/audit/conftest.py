"""Accounts, made by the verb that administrators use, and logs that can be sealed."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from django.db import connection

from accounts.access import System
from accounts.administration import create_account
from accounts.models import User
from audit.append_only import TRIGGERS
from audit.models import Entry, PersonalDetails
from audit.trail import record

SEED = base64.b64encode(bytes(range(32))).decode()
OTHER_SEED = base64.b64encode(bytes(range(1, 33))).decode()


@pytest.fixture
def account_of(db) -> Callable[..., User]:
    """Make an account that holds the named roles."""

    def make(*roles: str, email: str | None = None) -> User:
        address = email or f"{'.'.join(roles) or 'nobody'}@example.org"
        made = create_account(address, password="a sentence", roles=roles, by=System("tests"))
        return User.objects.get(pk=made.pk)

    return make


def behind_the_triggers(statement: str, parameters: Sequence[object] = ()) -> None:
    """Do what only the tables' owner can: change the log with its triggers switched off."""
    with connection.cursor() as cursor:
        for table in TRIGGERS:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        cursor.execute(statement, parameters)
        for table, names in TRIGGERS.items():
            for name in names:
                cursor.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


@pytest.fixture
def folder(transactional_db, settings, tmp_path, monkeypatch) -> Path:
    """What a log needs to be sealed: a folder of its own and a key; entries are committed."""
    settings.AUDIT_FOLDER = tmp_path / "audit"
    # What the site began with is nothing to these tests.
    behind_the_triggers("TRUNCATE audit_entry CASCADE")
    settings.AUDIT_ORIGIN = "parley.example/log"
    monkeypatch.setenv("AUDIT_SIGNING_KEY", SEED)
    return tmp_path / "audit"


@pytest.fixture
def write(folder) -> Callable[[int], list[int]]:
    """Write so many entries, each in a transaction of its own; return their ids."""

    def entries(count: int) -> list[int]:
        by = System("tests")
        return [record(by, "account.created", ("accounts.user", str(n))) for n in range(count)]

    return entries


@pytest.fixture
def write_many(write) -> Callable[[int], list[int]]:
    """Write so many entries at once, as one transaction; return their ids."""

    def entries(count: int) -> list[int]:
        (pattern,) = write(1)
        with connection.cursor() as cursor:
            entry, personal = (
                [field.column for field in model._meta.fields if not field.primary_key]
                for model in (Entry, PersonalDetails)
            )
            given = {"transaction_id": "pg_current_xact_id()::text::bigint", "target_id": "n::text"}
            cursor.execute(
                f"WITH written AS (INSERT INTO audit_entry ({', '.join(entry)})"
                f" SELECT {', '.join(given.get(name, name) for name in entry)}"
                " FROM audit_entry, generate_series(2, %s) AS n WHERE id = %s RETURNING id)"
                f" INSERT INTO audit_personaldetails (entry_id, {', '.join(personal)})"
                f" SELECT written.id, {', '.join(personal)} FROM written, audit_personaldetails"
                " WHERE entry_id = %s RETURNING entry_id",
                [count, pattern, pattern],
            )
            return [pattern, *sorted(entry_id for (entry_id,) in cursor.fetchall())]

    return entries
