"""Where secrets come from: the environment, or a file that the environment names.

`NAME` holds the value itself; `NAME_FILE` names a file that holds it (Docker and Kubernetes mount
secrets so). The value of a file wins over nothing and never over `NAME`; a trailing line break is
not part of it.
"""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


def read_secret(name: str, default: str | None = None) -> str:
    """Return the secret `name`.

    Raises ImproperlyConfigured when it is given nowhere and has no default, or when its file
    can't be read.
    """
    if value := os.environ.get(name):
        return value
    if path := os.environ.get(f"{name}_FILE"):
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise ImproperlyConfigured(
                f"{name}_FILE names {path}, which can't be read: {error.strerror}."
            ) from error
    if default is None:
        raise ImproperlyConfigured(
            f"{name} is not set. Give it in the environment, or the path of a file in {name}_FILE."
            " `make up` and `make manage` make one themselves; .env.example explains each variable."
        )
    return default
