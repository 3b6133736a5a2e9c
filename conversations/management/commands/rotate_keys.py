"""Wrap the keys of days by the newest master key."""

from typing import Any

from django.core.management.base import BaseCommand

from accounts.access import System
from audit.trail import record
from conversations.keyring import keyring


class Command(BaseCommand):
    """Safe while Parley runs, and to repeat when it was interrupted."""

    help = (
        "Wrap all keys of the keyring by the first of CONTENT_KEYS. First give every process the"
        " new key in front of the old one; when this has ended, the old one can go."
    )

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Wrap, tell how far it is, and leave an entry in the audit log."""
        changed = keyring().rewrap(self._tell)
        record(System("rotate_keys"), "keyring.rotated", rewrapped=changed)
        self.stdout.write(
            f"{changed} keys were wrapped anew; the others had the newest master key."
        )

    def _tell(self, done: int, of: int) -> None:
        if done == of or done % 50 == 0:
            self.stderr.write(f"{done} of {of} keys looked at")
