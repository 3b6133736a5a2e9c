"""Accounts for the tests of this folder, made by the verb that administrators use."""

import uuid
from collections.abc import Callable

import pytest
from django.test import Client

from accounts.access import System
from accounts.administration import create_account
from accounts.models import User

PASSWORD = "a long enough sentence"


@pytest.fixture(autouse=True)
def _counts_and_mails_of_its_own(settings):
    # Rate limits count in the cache: one test's failed sign-ins must not pause another's.
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "LOCATION": uuid.uuid4().hex,
        }
    }
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"


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
