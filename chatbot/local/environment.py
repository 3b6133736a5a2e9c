"""What the application's processes see in one-command mode: the environment, and the secrets.

The shell wins, then `.env` in the project's folder, then what is made up here. Secrets are made
once, rest in `secrets/` of the data folder and travel as NAME_FILE, never as values.
"""

import base64
import ipaddress
import json
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import environ

from chatbot.durable_files import replace_file
from chatbot.local.folder import DataFolder, given
from chatbot.local.servers import Servers

ROOT = Path(__file__).resolve().parents[2]

# Ports where nobody answers: what calls a provider fails at once and reaches nobody.
NO_PROVIDER = "http://127.0.0.1:9/v1"

_MADE_SECRETS: dict[str, Callable[[], str]] = {
    "SECRET_KEY": lambda: secrets.token_urlsafe(50),
    "CONTENT_KEYS": lambda: base64.b64encode(secrets.token_bytes(32)).decode(),
    "METRICS_TOKEN": lambda: secrets.token_urlsafe(32),
    "AUDIT_SIGNING_KEY": lambda: base64.b64encode(secrets.token_bytes(32)).decode(),
}

# What `make manage` must have the same as the `make up` that runs.
_SHARED = (
    *("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", *_MADE_SECRETS),
    *("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL", "PROVIDER_IS_DEMO"),
    *("KEYRING", "REDIS_PREFIX", "ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "HTTPS", "STATIC_ROOT"),
    *("AUDIT_ORIGIN", "AUDIT_FOLDER", "AUDIT_SIGNING_KEY_PREVIOUS"),
    *("AUDIT_STREAM_TO", "AUDIT_PUBLISH_TO", "AUDIT_STREAM_SECRET", "RETRAINING_WEBHOOK"),
    *("EXPORT_FOLDER", "DELETION_UNDO_MINUTES"),
    *("EMAIL_URL", "EMAIL_DIR", "DEFAULT_FROM_EMAIL"),
)


def read_environment(shell: Mapping[str, str], root: Path = ROOT) -> dict[str, str]:
    """The shell's variables over those of `.env`; what is empty there counts as not given."""

    found: dict[str, str] = {}
    if (root / ".env").exists():
        # A class of its own, because read_env fills the mapping of the class it is called on.
        reader: Any = type("DotEnv", (environ.Env,), {"ENVIRON": found})
        reader.read_env(root / ".env")
    return {name: value for name, value in found.items() if value} | dict(shell)


def application_environment(
    folder: DataFolder, env: Mapping[str, str], servers: Servers, host: str
) -> dict[str, str]:
    """Everything the application needs but its provider."""
    data = folder.path
    defaults = {
        "HTTPS": "false",
        "ALLOWED_HOSTS": ",".join(allowed_hosts(host)),
        "STATIC_ROOT": str(data / "static"),
        "KEYRING": str(data / "keyring"),
        "AUDIT_FOLDER": str(data / "audit"),
        "EXPORT_FOLDER": str(data / "exports"),
    }
    if not given(env, "EMAIL_URL"):
        defaults["EMAIL_DIR"] = str(data / "mail")
    for name, make in _MADE_SECRETS.items():
        if not given(env, name):
            defaults[f"{name}_FILE"] = str(folder.secret_file(name.lower(), make))
    for name, address in servers.environ().items():
        if not given(env, name):
            replace_file(data / "secrets" / name.lower(), address.encode())
            defaults[f"{name}_FILE"] = str(data / "secrets" / name.lower())
    # Figures are added up over web and worker alone; commands come and go.
    rest = {name: value for name, value in env.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    return {**defaults, **rest, "DJANGO_SETTINGS_MODULE": "chatbot.settings"}


def allowed_hosts(host: str) -> list[str]:
    """Names under which the page may be asked for when it listens on `host`."""
    names = ["localhost", "127.0.0.1", "[::1]"]
    own = socket.gethostname() if is_wildcard(host) else f"[{host}]" if ":" in host else host
    return names if own in names else [*names, own]


def is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def is_wildcard(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return False


def share(folder: DataFolder, env: Mapping[str, str]) -> None:
    """Leave for `make manage` what it must have in common with what runs."""
    names = (variable for name in _SHARED for variable in (name, f"{name}_FILE"))
    shared = {name: env[name] for name in names if name in env}
    replace_file(folder.path / "run" / "environment.json", json.dumps(shared).encode())


def shared(folder: DataFolder) -> dict[str, str] | None:
    """What a running `make up` has left, or None before it has."""
    try:
        return dict(json.loads((folder.path / "run" / "environment.json").read_text()))
    except FileNotFoundError:
        return None


def unshare(folder: DataFolder) -> None:
    (folder.path / "run" / "environment.json").unlink(missing_ok=True)
