"""Places outside that get copies of the log: their names, their turns, and how far each is.

Streams get every sealed entry, publications every newest checkpoint. Both are told by a setting,
addresses with commas between. Each destination has a row of its own here, so that one that fails
holds no other, and is tried again after a growing pause. Whatever may hold credentials (user,
password, path and query of an HTTP address) is left out of a destination's name; the name is what
the database, logs, figures and pages show.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar
from urllib.parse import SplitResult, urlsplit

import structlog
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.utils import timezone

from audit.models import Checkpoint, Destination
from chatbot.telemetry import audit_delivery_faults

logger = structlog.get_logger(__name__)

FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=5)
MAX_NAME = 255
# Longer than both kinds need when all is well: a run is due every few seconds.
LATE_AFTER = timedelta(minutes=2)


class DeliveryFault(Exception):
    """A destination did not take what it should have; a sentence without credentials."""


class Named(Protocol):
    """What a destination is made of says how it is called."""

    @property
    def name(self) -> str:
        """The address without what may be secret."""


N = TypeVar("N", bound=Named)


# --- addresses -------------------------------------------------------------------------------


def destinations(setting: str, kinds: Mapping[str, Callable[[SplitResult], N]]) -> dict[str, N]:
    """Return what a setting names, by name; `kinds` makes a destination of each scheme.

    Raises ImproperlyConfigured with a sentence that quotes no credentials.
    """
    addresses = [text.strip() for text in str(getattr(settings, setting)).split(",")]
    found: dict[str, N] = {}
    for number, address in enumerate(filter(None, addresses), start=1):
        try:
            made = _made(address, kinds)
        except ValueError as error:
            raise ImproperlyConfigured(f"{setting}, address {number}: {error}") from None
        if made.name in found:
            raise ImproperlyConfigured(f"{setting} names {made.name} twice.")
        found[made.name] = made
    return found


def _made(address: str, kinds: Mapping[str, Callable[[SplitResult], N]]) -> N:
    """Raises ValueError, whose message quotes nothing but the scheme."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        raise ValueError("this is no address.") from None
    if parts.scheme not in kinds:
        known = ", ".join(sorted(f"{scheme}:" for scheme in kinds))
        raise ValueError(f"it has to begin with one of {known}")
    made = kinds[parts.scheme](parts)
    if len(made.name) > MAX_NAME:
        raise ValueError("it is too long.")
    return made


def place(parts: SplitResult) -> str:
    """Return scheme, host and port of an address. Raises ValueError where there is no host."""
    if not parts.hostname:
        raise ValueError("it names no host.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def webhook_name(parts: SplitResult) -> str:
    """Return a name for an HTTPS address; many receivers have their token in the path.

    Raises ValueError where it is not encrypted on its way, except to this machine.
    """
    if parts.scheme != "https" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        raise ValueError("a webhook on another machine has to begin with https:")
    rest = f"{parts.path}?{parts.query}"
    if rest in {"?", "/?"}:
        return place(parts)
    return f"{place(parts)}/~{hashlib.sha256(rest.encode()).hexdigest()[:8]}"


# --- turns -----------------------------------------------------------------------------------


def attempt(purpose: str, name: str, work: Callable[[Destination], None]) -> None:
    """Let `work` bring a destination what it lacks, unless another does so or it rests.

    DeliveryFault of `work` is noted, and the next attempt waits; other exceptions are errors.
    """
    with _alone(f"{purpose} {name}") as alone:
        if not alone:
            return
        state, _ = Destination.objects.get_or_create(purpose=purpose, name=name)
        if state.retry_at is not None and state.retry_at > timezone.now():
            return
        try:
            work(state)
        except DeliveryFault as fault:
            _note_fault(state, str(fault))


@contextmanager
def _alone(subject: str) -> Iterator[bool]:
    """Hold a lock of the connection, so that no transaction is open while the network is slow.

    It ends with the connection, so also with a process that is killed.
    """
    key = int.from_bytes(hashlib.sha256(f"audit {subject}".encode()).digest()[:8], signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [key])
        (alone,) = cursor.fetchone()
    try:
        yield alone
    finally:
        if alone:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [key])


def note_arrival(state: Destination, position: int, origin: str) -> None:
    """Remember that the leaves below `position` of the log `origin` are there."""
    state.position, state.origin, state.arrived_at = position, origin, timezone.now()
    state.failures, state.fault, state.retry_at = 0, "", None
    state.save()


def _note_fault(state: Destination, fault: str) -> None:
    state.failures += 1
    state.fault = fault[:500]
    state.retry_at = timezone.now() + pause_after(state.failures)
    state.save()
    audit_delivery_faults.labels(state.purpose, state.name).inc()
    logger.warning(
        "audit_delivery_fault",
        purpose=state.purpose,
        destination=state.name,
        failures=state.failures,
        fault=state.fault,
    )


def pause_after(failures: int) -> timedelta:
    """Return how long a destination rests after so many failures in a row: doubling, by chance."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(failures - 1, 20)))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


# --- how far ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lag:
    """What a destination lacks: leaves, and for how many seconds the first of them is sealed."""

    purpose: str
    name: str
    entries: int
    seconds: float
    fault: str

    @property
    def is_late(self) -> bool:
        return self.seconds > LATE_AFTER.total_seconds()


def lags(names: Mapping[str, Iterable[str]]) -> list[Lag]:
    """Return how far behind each destination is, given the names for each purpose."""
    head = Checkpoint.objects.order_by("number").last()
    if head is None:
        return []
    known = {(row.purpose, row.name): row for row in Destination.objects.all()}
    rows = [
        known.get((purpose, name), Destination(purpose=purpose, name=name))
        for purpose, of_purpose in names.items()
        for name in of_purpose
    ]
    signed = _signed_behind(head, {_arrived(row, head) for row in rows})
    return [_lag(row, head, signed) for row in rows]


def _lag(row: Destination, head: Checkpoint, signed: Mapping[int, datetime]) -> Lag:
    position = _arrived(row, head)
    waits = timezone.now() - signed[position] if position in signed else timedelta()
    return Lag(
        row.purpose,
        row.name,
        max(0, head.size - position),
        max(0.0, waits.total_seconds()),
        row.fault,
    )


def _arrived(row: Destination, head: Checkpoint) -> int:
    # Before a fork the same numbers may have meant other leaves.
    return row.position if row.origin == head.origin else 0


def _signed_behind(head: Checkpoint, positions: Iterable[int]) -> dict[int, datetime]:
    """Return for each position when the first checkpoint beyond it was signed, if there is one."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT position, (SELECT signed_at FROM audit_checkpoint"
            " WHERE origin = %s AND size > position ORDER BY size LIMIT 1)"
            " FROM unnest(%s::bigint[]) AS position",
            [head.origin, sorted(positions)],
        )
        return {position: signed_at for position, signed_at in cursor.fetchall() if signed_at}
