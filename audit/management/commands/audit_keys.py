"""Show the public keys that the log was signed with."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from audit.models import SigningKey


class Command(BaseCommand):
    """Prints what verifiers and witnesses are given as the log's key, the present one last."""

    help = "Show the public keys of the log, a line each, the present one last."

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Print the keys as C2SP signed-note writes them."""
        keys = SigningKey.objects.order_by("id").values_list("vkey", flat=True)
        if not keys:
            raise CommandError("The log has not been signed yet: its worker signs the first entry.")
        for vkey in keys:
            self.stdout.write(vkey)
