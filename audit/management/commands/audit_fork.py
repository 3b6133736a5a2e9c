"""Declare that the log goes on from another state than the one that was signed."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.access import System
from audit.sealing import ForkNotNeeded, Refused, SealingRefused, declare_fork, seal


class Command(BaseCommand):
    """Writes a signed statement for everybody who verifies the log, and lets sealing go on."""

    help = (
        "Declare a fork of the log, after a restore for instance. What was signed before is not"
        " continued; a signed statement says so and why. Restoring the lost state is better."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Name the options."""
        parser.add_argument("--reason", required=True, help="what happened, in a sentence")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Declare it, sign the first checkpoint, and show the statement."""
        try:
            fork = declare_fork(options["reason"], by=System("manage.py audit_fork"))
        except (SealingRefused, ForkNotNeeded) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(fork.statement)
        result = seal()
        if isinstance(result, Refused):
            raise CommandError(f"The fork is declared, but: {result.sentence}")
