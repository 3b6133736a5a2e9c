"""Accounts for the tests of this folder, made by the verb that administrators use."""

from collections.abc import Callable

import pytest

from accounts.access import System
from accounts.administration import create_account
from accounts.models import User


@pytest.fixture
def account_of(db) -> Callable[..., User]:
    """Make an account that holds the named roles."""

    def make(*roles: str, email: str | None = None) -> User:
        address = email or f"{'.'.join(roles) or 'nobody'}@example.org"
        made = create_account(address, password="a sentence", roles=roles, by=System("tests"))
        return User.objects.get(pk=made.pk)

    return make
