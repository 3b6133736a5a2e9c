"""Where secrets come from: the environment, a file that it names, or AWS Secrets Manager.

`NAME` holds the value itself; `NAME_FILE` names a file that holds it (Docker and Kubernetes mount
secrets so). `SECRETS_FROM=aws:ID` names a secret of AWS Secrets Manager, by name or ARN: a JSON
object of names and values. `NAME` wins over `NAME_FILE`, and both over AWS; a trailing line break
of a file is not part of the value.
"""

import json
import os
import time
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

from django.core.exceptions import ImproperlyConfigured

AWS_PREFIX = "aws:"
# How long what AWS said is kept, so that an exchanged secret is noticed without a restart.
KEPT_SECONDS = 300.0
_AWS_TIMEOUT_SECONDS = 5

_kept: dict[str, tuple[float, dict[str, str]]] = {}
# So that turns which miss it at the same moment ask once.
_asking = Lock()


def read_secret(name: str, default: str | None = None) -> str:
    """Return the secret `name`. May ask AWS, over the network: not for the event loop.

    Raises ImproperlyConfigured when it is given nowhere and has no default, or when its source
    can't be read.
    """
    if value := os.environ.get(name):
        return value
    if path := os.environ.get(f"{name}_FILE"):
        return _of_file(name, path)
    if (source := os.environ.get("SECRETS_FROM")) and (value := _of_source(source).get(name)):
        return value
    if default is None:
        raise ImproperlyConfigured(
            f"{name} is not set. Give it in the environment, or the path of a file in {name}_FILE."
            " `make up` and `make manage` make one themselves; .env.example explains each variable."
        )
    return default


def _of_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ImproperlyConfigured(
            f"{name}_FILE names {path}, which can't be read: {error.strerror}."
        ) from error


def _of_source(source: str) -> dict[str, str]:
    """Return all secrets of a source, asking it at most every KEPT_SECONDS."""
    if not source.startswith(AWS_PREFIX):
        raise ImproperlyConfigured("SECRETS_FROM is not understood: give aws: and a secret's name.")
    with _asking:
        known = _kept.get(source)
        if known is None or time.monotonic() > known[0]:
            secrets = _of_aws(source.removeprefix(AWS_PREFIX))
            known = _kept[source] = (time.monotonic() + KEPT_SECONDS, secrets)
        return known[1]


def _of_aws(secret_id: str) -> dict[str, str]:
    """Ask AWS Secrets Manager, with region and credentials as AWS' own tools find them.

    No message of ours holds what AWS answered.
    """
    try:
        boto3, errors = import_module("boto3"), import_module("botocore.exceptions")
        config: Any = import_module("botocore.config").Config(
            connect_timeout=_AWS_TIMEOUT_SECONDS, read_timeout=_AWS_TIMEOUT_SECONDS
        )
    except ImportError as error:
        raise ImproperlyConfigured(
            "SECRETS_FROM names AWS, and boto3 is not installed: install the extra `aws`."
        ) from error
    try:
        client = boto3.client("secretsmanager", config=config)
        text = client.get_secret_value(SecretId=secret_id).get("SecretString", "")
    except (errors.BotoCoreError, errors.ClientError) as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
        raise ImproperlyConfigured(
            f"AWS Secrets Manager did not give {secret_id}: {code}."
        ) from error
    return _names_and_values(secret_id, text)


def _names_and_values(secret_id: str, text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    # Without the cause, which would quote the text.
    if not isinstance(found, dict):
        raise ImproperlyConfigured(f"The secret {secret_id} is no JSON object of names and values.")
    return {name: str(value) for name, value in found.items()}
