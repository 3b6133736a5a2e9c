#!/usr/bin/env python
"""Django's commands. Those that change the schema run as the owner of the database."""

import os
import shlex
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line

from chatbot.secrets import read_secret

# The application's own role reads and writes rows, and nothing else.
NEED_THE_OWNER = {"createcachetable", "flush", "migrate"}


def main() -> None:
    """Run the command; what is missing in the environment is said without a traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatbot.settings")
    try:
        owner = read_secret("DATABASE_OWNER_URL", default="")
        if owner and NEED_THE_OWNER.intersection(sys.argv[1:2]):
            os.environ["DATABASE_URL"] = owner
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        command = shlex.join(sys.argv[1:]) or "help"
        sys.exit(f"{error}\nOn the data of `make up`: make manage CMD={shlex.quote(command)}")


if __name__ == "__main__":
    main()
