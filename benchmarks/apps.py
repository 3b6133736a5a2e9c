"""The apps, loaded for what asks no server."""

import os
import secrets
import tempfile


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
