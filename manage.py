#!/usr/bin/env python
"""Django's commands. Those that change the schema run as the owner of the database."""

import os
import shlex
import sys

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management import ManagementUtility
from django.core.management.base import BaseCommand

from chatbot.secrets import read_secret

# The application's own role reads and writes rows, and nothing else.
NEED_THE_OWNER = {"createcachetable", "flush", "migrate"}


class Commands(ManagementUtility):
    """Django's commands, each of which acts as the system under its own name."""

    def fetch_command(self, subcommand: str) -> BaseCommand:
        """Return the command; what it records is done by `manage.py <command>`."""
        command = super().fetch_command(subcommand)
        if apps.ready:  # not where Django runs a command before it has read our models
            from accounts.access import System
            from audit.acting import acting_as

            command.execute = acting_as(System(f"manage.py {subcommand}"))(command.execute)  # type: ignore[method-assign]
        return command


def main() -> None:
    """Run the command; what is missing in the environment is said without a traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatbot.settings")
    try:
        owner = read_secret("DATABASE_OWNER_URL", default="")
        if owner and NEED_THE_OWNER.intersection(sys.argv[1:2]):
            os.environ["DATABASE_URL"] = owner
        Commands(sys.argv).execute()
    except ImproperlyConfigured as error:
        command = shlex.join(sys.argv[1:]) or "help"
        sys.exit(f"{error}\nOn the data of `make up`: make manage CMD={shlex.quote(command)}")


if __name__ == "__main__":
    main()
