"""Delete what is due now, without waiting for the next hour."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.access import System
from conversations.models import PurgeRun
from conversations.retention.purge import confirm, purge


class Command(BaseCommand):
    """What the worker does each hour; safe to interrupt and to repeat."""

    help = (
        "Delete what is due now. A purge that stopped to ask goes on with --confirm and its number."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the number of a run."""
        parser.add_argument("--confirm", type=int, metavar="RUN", help="let this run go on")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Purge, and say what came of it."""
        if options["confirm"]:
            self._confirm(options["confirm"])
        run = purge(datetime.now(UTC))
        if run is None:
            raise CommandError("Another process is purging. Nothing was done here.")
        if run.state == PurgeRun.State.ASKING:
            raise CommandError(
                f"Purge {run.pk} would delete {run.due:,} messages, an unusual share of all."
                " Nothing was deleted. Look whether the clock and the policies are right; then"
                f" `manage.py purge --confirm {run.pk}`."
            )
        self.stdout.write(
            f"Purge {run.pk}: {run.counts['messages']:,} messages deleted,"
            f" {len(run.key_days)} day keys destroyed, {run.held:,} messages held,"
            f" {run.skipped:,} skipped."
        )

    def _confirm(self, number: int) -> None:
        run = PurgeRun.objects.filter(pk=number).first()
        if run is None or confirm(run, by=System("purge --confirm"), now=datetime.now(UTC)) is None:
            raise CommandError(f"There is no purge {number} that asks. Nothing was deleted.")
