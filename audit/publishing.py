"""Checkpoints to places that this database's owner can't change.

Whoever rewrites the log has to sign it anew; a checkpoint that is already elsewhere gives it away.
AUDIT_PUBLISH_TO names where the newest one goes:

    file:///FOLDER                    checkpoint-SIZE.txt and latest
    s3://BUCKET/PREFIX                an object that is locked for AUDIT_RETENTION_DAYS
    https://HOST/PATH                 a webhook: the checkpoint as text, signed (audit.posting)
    witness+https://HOST/?key=VKEY    a witness (C2SP tlog-witness), which cosigns

What arrived becomes a row of Publication, with what was answered.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from audit.destinations import (
    DeliveryFault,
    attempt,
    destinations,
    note_arrival,
    place,
    webhook_name,
)
from audit.leaves import StoredHashes
from audit.merkle import MissingHash, consistency_path
from audit.models import Checkpoint, Destination, Publication
from audit.posting import Answer, post, post_signed
from audit.verify import (
    COSIGNATURE,
    Note,
    NoteError,
    VerifierKey,
    parse_decimal,
)
from chatbot.durable_files import replace_file

TEXT = "text/plain; charset=utf-8"
_AWS_SECONDS = 10


class Publisher(Protocol):
    """A destination of checkpoints."""

    @property
    def name(self) -> str:
        """Its name, without credentials."""

    def publish(self, checkpoint: Checkpoint) -> str:
        """Bring it there; return what to keep of the answer. Raises DeliveryFault."""


def configured_publishers() -> dict[str, Publisher]:
    """Return the destinations of AUDIT_PUBLISH_TO by name. Raises ImproperlyConfigured."""
    kinds: Mapping[str, Callable[[SplitResult], Publisher]] = {
        "file": Folder.at,
        "s3": LockedBucket.at,
        "https": Webhook.at,
        "http": Webhook.at,
        "witness+https": Witness.at,
        "witness+http": Witness.at,
    }
    return destinations("AUDIT_PUBLISH_TO", kinds)


def publish_to(name: str) -> None:
    """Bring the newest checkpoint to a destination; nothing for a name that is gone."""
    if publisher := configured_publishers().get(name):
        attempt(Destination.Purpose.PUBLICATION, name, lambda state: _publish(publisher, state))


def _publish(publisher: Publisher, state: Destination) -> None:
    checkpoint = Checkpoint.objects.order_by("number").last()
    if checkpoint is None or _is_published(checkpoint, publisher.name):
        return
    answer = publisher.publish(checkpoint)
    with transaction.atomic():
        Publication.objects.bulk_create(
            [Publication(checkpoint=checkpoint, destination=publisher.name, answer=answer)],
            ignore_conflicts=True,
        )
        note_arrival(state, checkpoint.size, checkpoint.origin)


def _is_published(checkpoint: Checkpoint, name: str) -> bool:
    return Publication.objects.filter(checkpoint=checkpoint, destination=name).exists()


# --- folders ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Folder:
    """A folder, perhaps of another machine, which something else keeps from being changed."""

    path: Path

    @classmethod
    def at(cls, parts: SplitResult) -> "Folder":
        """Raises ValueError."""
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError("a folder is written file:///its/whole/path.")
        return cls(Path(unquote(parts.path)))

    @property
    def name(self) -> str:
        return f"file://{self.path}"

    def publish(self, checkpoint: Checkpoint) -> str:
        """Write it beside the others, and as `latest`. Raises DeliveryFault."""
        # A folder made here would hide that a disk is not mounted.
        if not self.path.is_dir():
            raise DeliveryFault("There is no such folder.")
        try:
            written = self._keep(checkpoint)
            _replace(self.path / "latest", checkpoint.note)
        except OSError as error:
            raise DeliveryFault(f"The folder can't be written: {error.strerror}.") from error
        return written.name

    def _keep(self, checkpoint: Checkpoint) -> Path:
        """Write it where nothing lies yet; a changed key signs the same size once more."""
        by_size = self.path / f"checkpoint-{checkpoint.size}.txt"
        if not by_size.exists() or by_size.read_text(encoding="utf-8") == checkpoint.note:
            _replace(by_size, checkpoint.note)
            return by_size
        by_number = self.path / f"checkpoint-{checkpoint.size}-{checkpoint.number}.txt"
        _replace(by_number, checkpoint.note)
        return by_number


def _replace(path: Path, text: str) -> None:
    # Others than this account read what is published.
    replace_file(path, text.encode(), mode=0o644)


# --- S3 --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LockedBucket:
    """A bucket of S3, or of what speaks like it, that was made with object lock."""

    bucket: str
    prefix: str

    @classmethod
    def at(cls, parts: SplitResult) -> "LockedBucket":
        """Raises ValueError."""
        if not parts.netloc or "@" in parts.netloc:
            raise ValueError("a bucket is written s3://BUCKET/PREFIX, without credentials.")
        return cls(parts.netloc, parts.path.strip("/"))

    @property
    def name(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def publish(self, checkpoint: Checkpoint) -> str:
        """Put an object that nobody, not even the account's root, deletes before its time.

        Returns the object's version. Raises DeliveryFault.
        """
        client, faults = _s3()
        key = "/".join(filter(None, [self.prefix, f"checkpoint-{checkpoint.size}.txt"]))
        until = timezone.now() + timedelta(days=settings.AUDIT_RETENTION_DAYS)
        try:
            answer = client.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=checkpoint.note.encode(),
                ContentType=TEXT,
                # Object lock demands a checksum.
                ChecksumAlgorithm="SHA256",
                ObjectLockMode="COMPLIANCE",
                ObjectLockRetainUntilDate=until,
            )
        except faults as error:
            response = getattr(error, "response", {})
            code = response.get("Error", {}).get("Code", type(error).__name__)
            raise DeliveryFault(f"S3 did not take it: {code}.") from error
        return f"{key} version {answer.get('VersionId', '')}"


def _s3() -> tuple[Any, tuple[type[Exception], ...]]:
    """Return a client, with credentials and region as AWS' own tools find them, and its faults."""
    try:
        boto3, errors = import_module("boto3"), import_module("botocore.exceptions")
        config: Any = import_module("botocore.config").Config(
            connect_timeout=_AWS_SECONDS,
            read_timeout=_AWS_SECONDS,
            retries={"total_max_attempts": 1},
        )
    except ImportError as error:
        raise DeliveryFault("boto3 is not installed: install the extra `aws`.") from error
    faults = (errors.BotoCoreError, errors.ClientError)
    try:
        return boto3.client("s3", config=config), faults
    except faults as error:
        raise DeliveryFault(f"AWS is not set up: {type(error).__name__}.") from error


# --- webhooks --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Webhook:
    """Takes the checkpoint by POST."""

    name: str
    _url: str = field(repr=False)

    @classmethod
    def at(cls, parts: SplitResult) -> "Webhook":
        """Raises ValueError."""
        return cls(webhook_name(parts), parts.geturl())

    def publish(self, checkpoint: Checkpoint) -> str:
        """Raises DeliveryFault."""
        post_signed(self._url, checkpoint.note.encode(), TEXT)
        return ""


# --- witnesses -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Witness:
    """Somebody else's machine that keeps the last checkpoint and cosigns what continues it."""

    name: str
    url: str
    key: VerifierKey

    @classmethod
    def at(cls, parts: SplitResult) -> "Witness":
        """Raises ValueError."""
        # By hand: a query's plus would become a space, and keys are full of them.
        name, _, key = parts.query.partition("=")
        if name != "key" or not key:
            raise ValueError("a witness is written witness+https://HOST:PORT/?key=ITS-KEY.")
        try:
            known = VerifierKey.parse(unquote(key))
        except NoteError as error:
            raise ValueError(f"the key of the witness can't be used: {error}") from None
        if known.kind != COSIGNATURE:
            raise ValueError("this is a log's key, and not the key of a witness.")
        if parts.username or parts.password:
            raise ValueError("a witness takes no user and password.")
        shown = place(parts) + parts.path.rstrip("/")
        return cls(shown, shown.removeprefix("witness+"), known)

    def publish(self, checkpoint: Checkpoint) -> str:
        """Return the cosignature, checked, as the line below a note. Raises DeliveryFault."""
        # More than there is now, after a loss: the witness says itself what it has seen.
        size = min(self._last_size(checkpoint), checkpoint.size)
        answer = self._ask(checkpoint, size)
        if answer.status == 409:
            size = _size_of(answer)
            if size > checkpoint.size:
                raise DeliveryFault(
                    f"The witness has seen this log with {size} leaves, and the database has"
                    f" {checkpoint.size}: it lost its end, or somebody else signs in its name."
                )
            answer = self._ask(checkpoint, size)
        if answer.status != 200:
            raise DeliveryFault(_refusal(answer.status))
        return self._cosignature(checkpoint, answer)

    def _last_size(self, checkpoint: Checkpoint) -> int:
        """Return the size that the witness cosigned last, as far as we know; 0 for none."""
        published = Publication.objects.filter(
            destination=self.name, checkpoint__origin=checkpoint.origin
        )
        sizes = published.order_by("checkpoint_id").values_list("checkpoint__size", flat=True)
        return sizes.last() or 0

    def _ask(self, checkpoint: Checkpoint, size: int) -> Answer:
        try:
            with connection.cursor() as cursor:
                path = consistency_path(StoredHashes(cursor), size, checkpoint.size)
        except MissingHash as error:
            raise DeliveryFault(f"There is no proof for the witness: {error}") from error
        proof = "".join(f"{base64.b64encode(node).decode()}\n" for node in path)
        body = f"old {size}\n{proof}\n{checkpoint.note}"
        return post(f"{self.url}/add-checkpoint", body.encode(), TEXT)

    def _cosignature(self, checkpoint: Checkpoint, answer: Answer) -> str:
        try:
            note = Note.parse(checkpoint.note + answer.text)
            note.verified([self.key])
        except NoteError as error:
            raise DeliveryFault(
                f"The answer holds no cosignature of the witness: {error}"
            ) from error
        return next(
            line.line
            for line in note.signatures
            if (line.name, line.key_id) == (self.key.name, self.key.key_id)
        )


_REFUSALS = {
    400: "does not understand the request",
    403: "does not accept the log's signature: give it the log's present key",
    404: "does not know this log: give it the log's name and key",
    409: "changed what it has seen while it was asked",
    422: "refuses: the log does not continue what it has seen before",
}


def _refusal(status: int) -> str:
    return f"The witness {_REFUSALS.get(status, 'failed')} (HTTP status {status})."


def _size_of(conflict: Answer) -> int:
    try:
        return parse_decimal(conflict.text.removesuffix("\n"))
    except NoteError as error:
        raise DeliveryFault("The witness names no size that it has seen.") from error
