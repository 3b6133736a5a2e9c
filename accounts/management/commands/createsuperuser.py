"""Stands in for Django's command of this name, which would have nothing to set."""

from argparse import ArgumentParser
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    """Says what to do instead."""

    help = "There are no superusers: use create_account EMAIL --role administrator."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take what people give to Django's command, so that they read our sentence."""
        parser.add_argument("--email")
        parser.add_argument("--noinput", "--no-input", action="store_true")

    def handle(self, *_args: Any, **_options: Any) -> NoReturn:
        """Refuse."""
        raise CommandError(
            "No account is a superuser here; what people may do follows from their roles."
            " Use: create_account EMAIL --role administrator"
        )
