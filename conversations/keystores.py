"""Where wrapped keys rest: a folder, or AWS Secrets Manager. Never the database, nor its backups.

A store holds small values under names such as `1/2026-11-22`. It knows nothing of what they are.
`KEYRING` names it: a folder's path, or `aws:` and a prefix.
"""

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from django.core.exceptions import ImproperlyConfigured

from chatbot.durable_files import make_private_folder, sync_folder, written_beside

AWS_PREFIX = "aws:"


class KeyStore(Protocol):
    """Small values under names, shared by all processes. Each verb is durable when it returns."""

    def read(self, name: str) -> bytes | None:
        """Return the value, or None where there is none."""

    def add(self, name: str, value: bytes) -> bytes:
        """Store a value under a new name; return what stands there, if somebody was quicker."""

    def replace(self, name: str, value: bytes) -> None:
        """Exchange the value of a name that exists."""

    def remove(self, name: str) -> None:
        """Destroy the value for good; fine when there is none."""

    def names(self) -> list[str]:
        """Return all names, sorted."""


def store_at(configured: str) -> KeyStore:
    """Return the store that `KEYRING` names. Raises ImproperlyConfigured."""
    if configured.startswith(AWS_PREFIX):
        return SecretsManagerStore(configured.removeprefix(AWS_PREFIX).strip("/"))
    return FolderStore(Path(configured))


class FolderStore:
    """One file for each name, below a folder that only its owner can enter.

    Several machines share it as a mounted volume. Whatever is written has reached the disk before
    it gets its name, so a crash leaves no half key.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _said(folder):
            make_private_folder(folder)

    def read(self, name: str) -> bytes | None:
        """Return the value, or None where there is none."""
        with _said(self._folder):
            try:
                return self._path(name).read_bytes()
            except FileNotFoundError:
                return None

    def add(self, name: str, value: bytes) -> bytes:
        """Store a value under a new name; return what stands there, if somebody was quicker."""
        path = self._path(name)
        with _said(self._folder), written_beside(path, value) as written:
            try:
                os.link(written, path)
            except FileExistsError:
                return path.read_bytes()
            sync_folder(path.parent)
        return value

    def replace(self, name: str, value: bytes) -> None:
        """Exchange the value of a name that exists."""
        path = self._path(name)
        with _said(self._folder), written_beside(path, value) as written:
            # One that was removed meanwhile must not come back.
            if path.exists():
                written.replace(path)
                sync_folder(path.parent)

    def remove(self, name: str) -> None:
        """Destroy the value for good; fine when there is none."""
        path = self._path(name)
        with _said(self._folder), suppress(FileNotFoundError):
            path.unlink()
            sync_folder(path.parent)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        with _said(self._folder):
            found = self._folder.rglob("*.key")
            return sorted(str(path.relative_to(self._folder).with_suffix("")) for path in found)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.key"


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    """Turn an error of the disk into a sentence for the operator."""
    try:
        yield
    except OSError as error:
        raise ImproperlyConfigured(
            f"The keyring at {folder} can't be used: {error.strerror}. KEYRING must name a folder"
            " that this process can read and write, the same one for all processes."
        ) from error


class SecretsManagerStore:
    """One secret for each name, in AWS Secrets Manager, below a prefix.

    Region and credentials are found as AWS' own tools find them. A removed secret is removed
    without AWS' recovery window, since a key that can be recovered is not destroyed.
    """

    def __init__(self, prefix: str) -> None:
        if not prefix:
            raise ImproperlyConfigured("KEYRING=aws: needs a prefix, such as aws:parley/keyring.")
        try:
            boto3, errors = import_module("boto3"), import_module("botocore.exceptions")
        except ImportError as error:
            raise ImproperlyConfigured(
                "KEYRING names AWS, and boto3 is not installed: install the extra `aws`."
            ) from error
        self._prefix = prefix
        self._client: Any = boto3.client("secretsmanager")
        self._error: type[Exception] = errors.ClientError

    def read(self, name: str) -> bytes | None:
        """Return the value, or None where there is none."""
        answer = self._asked("get_secret_value", SecretId=self._id(name))
        return base64.b64decode(answer["SecretString"]) if answer else None

    def add(self, name: str, value: bytes) -> bytes:
        """Store a value under a new name; return what stands there, if somebody was quicker."""
        made = self._asked("create_secret", Name=self._id(name), SecretString=_text(value))
        return value if made else self.read(name) or value

    def replace(self, name: str, value: bytes) -> None:
        """Exchange the value of a name that exists."""
        self._asked("put_secret_value", SecretId=self._id(name), SecretString=_text(value))

    def remove(self, name: str) -> None:
        """Destroy the value for good; fine when there is none."""
        self._asked("delete_secret", SecretId=self._id(name), ForceDeleteWithoutRecovery=True)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        pages = self._client.get_paginator("list_secrets").paginate(
            Filters=[{"Key": "name", "Values": [f"{self._prefix}/"]}]
        )
        found = (secret["Name"] for page in pages for secret in page["SecretList"])
        return sorted(name.removeprefix(f"{self._prefix}/") for name in found)

    def _id(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _asked(self, verb: str, **arguments: Any) -> dict[str, Any] | None:
        """Return AWS' answer; None where the name is not there, or is there already."""
        try:
            answer: dict[str, Any] = getattr(self._client, verb)(**arguments)
        except self._error as error:
            code = error.response["Error"]["Code"]  # type: ignore[attr-defined]
            if code in {"ResourceNotFoundException", "ResourceExistsException"}:
                return None
            raise ImproperlyConfigured(
                f"AWS Secrets Manager did not {verb.replace('_', ' ')} of the keyring: {code}."
            ) from error
        return answer


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
