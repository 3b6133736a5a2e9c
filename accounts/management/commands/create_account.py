"""Make an account from the command line: the first administrator's, for instance."""

import secrets
import sys
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from accounts.access import System
from accounts.administration import create_account
from accounts.models import User
from accounts.roles import ROLES


class Command(BaseCommand):
    """Creates one account with its roles."""

    help = "Create an account. Without --password-stdin a password is made and printed, once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Name the options."""
        parser.add_argument("email")
        parser.add_argument(
            "--role", action="append", required=True, choices=ROLES, help="may be repeated"
        )
        parser.add_argument("--name", default="")
        parser.add_argument(
            "--password-stdin", action="store_true", help="read the password from standard input"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Create the account, or say what speaks against it."""
        user = User(email=options["email"], name=options["name"])
        given = sys.stdin.readline().rstrip("\r\n") if options["password_stdin"] else ""
        password = given or secrets.token_urlsafe(15)
        if options["password_stdin"] and not given:
            raise CommandError("No password came on standard input.")
        try:
            user.full_clean(exclude=["password"])
            validate_password(password, user)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        create_account(
            user.email,
            name=user.name,
            password=password,
            roles=options["role"],
            by=System("manage.py create_account"),
        )
        self.stdout.write(f"Created {user.email} ({', '.join(options['role'])}).")
        if not given:
            self.stdout.write(f"Password, shown this once: {password}")
