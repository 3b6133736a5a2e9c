"""The apps, loaded: alone for what asks no server, or on servers of their own."""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatbot.local.environment import ROOT, application_environment
from chatbot.local.folder import DataFolder
from chatbot.local.servers import servers


def load_apps() -> None:
    """Set Django up with settings that name no server; what is set already stays."""
    import django

    for name, value in {
        "DJANGO_SETTINGS_MODULE": "chatbot.settings",
        "SECRET_KEY": secrets.token_hex(32),
        "CONTENT_KEYS": "A" * 43 + "=",
        "KEYRING": tempfile.mkdtemp(),
        "DATABASE_URL": "postgres:///none",
        "REDIS_URL": "redis:///0",
    }.items():
        os.environ.setdefault(name, value)
    django.setup()


@contextmanager
def apps_on_servers(*commands: str) -> Iterator[str]:
    """Set Django up on servers that end with the block, after `migrate` and these commands of
    manage.py; yield the address of the database for its owner.

    A process can do it once, because it reads Django's settings.
    """
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        data = Path(folder) / "data"
        given = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with servers(data, given, purpose="the benchmark") as running:
            env = application_environment(DataFolder(data), given, running, "127.0.0.1")
            owned = {**env, "DATABASE_URL": running.database_owner_url}
            for command in ("migrate", *commands):
                manage = [sys.executable, "manage.py", command, "--no-input", "-v", "0"]
                subprocess.run(manage, cwd=ROOT, env=owned, check=True)
            os.environ.update(env)
            import django

            django.setup()
            yield running.database_owner_url
