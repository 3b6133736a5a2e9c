"""Check the log in the database against what was signed."""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from audit.folder import FolderError
from audit.inspection import Report, inspect_log, last_verified, remember_verified


class Command(BaseCommand):
    """Says what does not hold, in plain words; exits with 1 where there is something."""

    help = (
        "Check every entry of the log against its leaf, the signed checkpoints and the head outside"
        " the database, and against checkpoints that were published, if you give any. Exits with 1"
        " when something does not hold."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Name the options."""
        parser.add_argument(
            "--since-last",
            action="store_true",
            help="only what came after the checkpoint up to which the log was last found whole",
        )
        parser.add_argument(
            "--against",
            action="append",
            type=Path,
            default=[],
            metavar="FILE",
            help="a published checkpoint, which the log has to contain; may be given several times",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Check, and say what was found."""
        against = {str(path): _read(path) for path in options["against"]}
        try:
            since = last_verified() if options["since_last"] else None
            report = inspect_log(since, self._progress, against)
            remember_verified(report)
        except FolderError as error:
            raise CommandError(f"AUDIT_FOLDER can't be used: {error}") from error
        self._tell(report, since)
        if not report.holds:
            sys.exit(1)

    def _progress(self, done: int, size: int) -> None:
        self.stderr.write(f"{done:,} of {size:,} leaves", ending="\r" if done < size else "\n")

    def _tell(self, report: Report, since: int | None) -> None:
        for finding in report.findings:
            self.stdout.write(f"{finding.kind.replace('_', ' ')}: {finding.sentence}")
        if report.more:
            self.stdout.write(f"… and {report.more:,} findings more.")
        verdict = "The log holds." if report.holds else "The log does NOT hold."
        after = f" after checkpoint {since}" if since else ""
        forks = f" {report.forks} declared fork(s)." if report.forks else ""
        retired = (
            f" {report.retired:,} entries were removed for their age." if report.retired else ""
        )
        published = (
            f" {report.published} published checkpoint(s) are part of it."
            if report.published
            else ""
        )
        self.stdout.write(
            f"{verdict} Checked{after}: {report.leaves:,} leaves, {report.entries:,} entries,"
            f" {report.checkpoints:,} checkpoints, in {report.seconds:.1f} s."
            f"{published}{forks}{retired}"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"--against {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"--against {path}: this is no text.") from error
