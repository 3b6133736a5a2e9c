"""Make an API token from the command line."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.access import Denied, System
from accounts.models import ApiToken, User
from accounts.tokens import TooManyTokens, make_token


class Command(BaseCommand):
    """Prints the token and nothing else, so that a script can keep it in a variable."""

    help = "Make an API token for an account, and print it alone. It can't be shown again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Name the options."""
        parser.add_argument("email")
        parser.add_argument(
            "--scope",
            action="append",
            required=True,
            choices=ApiToken.Scope.values,
            help="may be repeated",
        )
        parser.add_argument("--name", default="made on the command line")
        parser.add_argument("--days", type=int, default=90, help="0: it does not expire")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Make the token, or say what speaks against it."""
        if options["days"] < 0:
            raise CommandError("--days can't be negative.")
        user = User.objects.filter(email=options["email"], is_active=True).first()
        if user is None:
            raise CommandError(f"There is no active account {options['email']}.")
        try:
            made = make_token(
                user,
                name=options["name"],
                scopes=options["scope"],
                lasts=timedelta(days=options["days"]) or None,
                by=System("manage.py create_token"),
            )
        except (Denied, TooManyTokens) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(made.secret)
