"""What `make check` asks with Django's help: types, complete migrations, fitness for deployment.

It asks with the settings of a deployment (HTTPS, a public name), on servers that live as long as
the question and know nothing of anybody's data.
"""

import os
import sys
import tempfile

from chatbot.local.children import StartError
from chatbot.local.manage import command_environment, run
from chatbot.local.schema import PACKAGES

QUESTIONS = (
    # Its plugin reads the settings, which want a complete environment.
    ["-m", "mypy", *PACKAGES],
    ["manage.py", "makemigrations", "--check", "--dry-run"],
    ["manage.py", "check", "--deploy", "--fail-level", "WARNING"],
)
DEPLOYMENT = {"HTTPS": "true", "ALLOWED_HOSTS": "chat.example.org"}


def main() -> int:
    """Ask every question and return the first status that is not 0."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="parley-check-") as data,
            command_environment({**kept, **DEPLOYMENT, "DATA": data}) as env,
        ):
            statuses = [run([sys.executable, *asked], env) for asked in QUESTIONS]
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main())
