"""Accounts for the tests of this folder, and surroundings that make them quick."""

import uuid
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from django.db.backends.postgresql.operations import DatabaseOperations
from django.test import Client

from accounts.access import System
from accounts.administration import create_account
from accounts.models import User
from audit import trail
from audit.append_only import TABLE, TABLE_TRIGGER

PASSWORD = "a long enough sentence"


@pytest.fixture(autouse=True)
def _quick_and_alone(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "LOCATION": uuid.uuid4().hex,
        }
    }
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    settings.SECURE_SSL_REDIRECT = False


@pytest.fixture(autouse=True)
def _entries_beside_roll_back_with_the_test(request, monkeypatch):
    # A test in a transaction would leave them behind for good: entries can't be removed.
    marker = request.node.get_closest_marker("django_db")
    if marker and not marker.kwargs.get("transaction"):
        monkeypatch.setattr(trail, "_connection_beside", nullcontext)


@pytest.fixture(autouse=True, scope="session")
def _test_databases_may_be_emptied():
    """Let the flush after a transactional test empty the log, which the trigger would refuse."""
    sql_flush = DatabaseOperations.sql_flush

    def without_the_trigger(self, style, tables, **options):
        # django-auditlog's own table, unused, points to accounts and is in no list of Django's.
        options["allow_cascade"] = True
        statements = sql_flush(self, style, tables, **options)
        if TABLE not in tables:
            return statements
        return [
            f"ALTER TABLE {TABLE} DISABLE TRIGGER {TABLE_TRIGGER}",
            *statements,
            f"ALTER TABLE {TABLE} ENABLE ALWAYS TRIGGER {TABLE_TRIGGER}",
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabaseOperations, "sql_flush", without_the_trigger)
        yield


@pytest.fixture
def account_of(db) -> Callable[..., User]:
    """Make an account that holds the named roles."""

    def make(*roles: str, email: str | None = None) -> User:
        address = email or f"{'.'.join(roles) or 'nobody'}@example.org"
        made = create_account(address, password=PASSWORD, roles=roles, by=System("tests"))
        return User.objects.get(pk=made.pk)

    return make


@pytest.fixture
def client_of(account_of) -> Callable[..., Client]:
    """Make a browser in which a new account with the named roles is signed in."""

    def make(*roles: str) -> Client:
        client = Client()
        client.force_login(account_of(*roles))
        return client

    return make
