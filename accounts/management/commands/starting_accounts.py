"""Make the accounts of a fresh installation. Those that exist stay as their people made them."""

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from accounts.access import System
from accounts.administration import create_account
from accounts.models import User
from accounts.roles import ROLES

BY = System("manage.py starting_accounts")


class Command(BaseCommand):
    """Reads `{role: {"email": …, "password": …}}` as JSON; prints what was done as JSON."""

    help = __doc__

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Create what is missing. Safe to repeat."""
        wanted = _parsed(sys.stdin.read())
        with transaction.atomic():
            done = {role: _ensure(role, **account) for role, account in wanted.items()}
        self.stdout.write(json.dumps(done))


def _parsed(text: str) -> dict[str, dict[str, str]]:
    try:
        wanted: dict[str, dict[str, str]] = json.loads(text)
        complete = all({"email", "password"} == set(account) for account in wanted.values())
    except (ValueError, AttributeError, TypeError) as error:
        raise CommandError("Standard input holds no JSON object of roles.") from error
    if unknown := sorted(set(wanted) - set(ROLES)):
        raise CommandError(f"No such role: {', '.join(unknown)}.")
    if not complete:
        raise CommandError("Each role needs an email and a password, and nothing else.")
    return wanted


def _ensure(role: str, *, email: str, password: str) -> dict[str, str]:
    user = User.objects.filter(email=email).first()
    if user:
        return {"email": user.email, "state": "kept"}
    create_account(email, name=ROLES[role].label, password=password, roles=[role], by=BY)
    return {"email": email, "state": "created"}
