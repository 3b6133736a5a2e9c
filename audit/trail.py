"""Writing the log: who did what to what, and how it ended.

    record(user, "role.granted", target, role="operator")      with the caller's transaction
    record_outside(user, "access.denied", target, …)           whatever becomes of the caller's

An entry that is recorded with the caller's transaction exists exactly if the change exists. What
was denied or has failed rolls back, so its entry is written beside, on a connection of its own.

`acting_as(actor)` says who acts in code that no request runs (sockets, tasks, commands); inside it
`None` stands for that actor. Recording without any actor is an error, never "unknown".

Each call is one statement and one round trip, and asks nothing but the roles of an account that
came without them. No personal value gets into the entry: labels, network and browser go to the
erasable `PersonalDetails`, to which the entry commits by a salted digest.
"""

import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.contrib.auth.models import AnonymousUser
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from psycopg.types.json import Jsonb

from accounts.access import Actor, System
from accounts.http import client_address
from accounts.models import User
from audit.content import canonical, clean, family_of, network_of, storable
from audit.events import known
from audit.models import ActorKind, Outcome
from chatbot.database import db
from chatbot.telemetry import current_ids

__all__ = [
    "ANONYMOUS",
    "Actor",
    "MissingActorError",
    "System",
    "acting_as",
    "acting_as_the_signed_in",
    "arecord",
    "arecord_outside",
    "current_actor",
    "record",
    "record_outside",
]

ANONYMOUS = AnonymousUser()
SALT_BYTES = 16

# A row, or the kind and the id of something that has none.
Target = models.Model | tuple[str, str] | None


class MissingActorError(RuntimeError):
    """Something was recorded, and nobody said who did it."""

    def __init__(self, event: str) -> None:
        super().__init__(
            f"{event} was recorded without an actor. Name one, or wrap the work in acting_as()."
        )


@dataclass(frozen=True, slots=True)
class _Acting:
    actor: Actor
    address: str = ""
    user_agent: str = ""
    impersonator_id: str = ""


_acting: ContextVar[_Acting | None] = ContextVar("acting", default=None)


@contextmanager
def acting_as(
    actor: Actor, *, address: str = "", user_agent: str = "", impersonator: User | None = None
) -> Iterator[None]:
    """Let everything recorded inside be done by `actor`; nests, and ends with the block.

    `address` and `user_agent` are the client's, where there is one. `impersonator` is who really
    sits there when somebody acts in another's name.
    """
    impersonator_id = str(impersonator.pk) if impersonator else ""
    token = _acting.set(_Acting(actor, address, user_agent, impersonator_id))
    try:
        yield
    finally:
        _acting.reset(token)


def current_actor() -> Actor | None:
    """Return who acts here, or None where nobody said."""
    acting = _acting.get()
    return acting.actor if acting else None


def record(  # noqa: PLR0913 - the last four are rare, and named
    actor: Actor | None,
    event: str,
    target: Target = None,
    *,
    outcome: str = Outcome.SUCCEEDED,
    reason: str = "",
    target_label: str = "",
    **payload: Any,
) -> int:
    """Write an entry with the caller's transaction; return its id.

    `payload` holds figures, ids and names of kinds, never what people say. `target_label` is a
    personal name of the target, kept erasable; an account as target brings its own.
    Raises UnknownEventError, MissingActorError, and TypeError for a payload that is no JSON.
    """
    row = _row(actor, event, _Fact(target, outcome, reason, target_label, payload))
    return _insert(connections[DEFAULT_DB_ALIAS], row)


def record_outside(  # noqa: PLR0913 - as record
    actor: Actor | None,
    event: str,
    target: Target = None,
    *,
    outcome: str,
    reason: str = "",
    target_label: str = "",
    **payload: Any,
) -> int:
    """Write an entry that stays when the caller's transaction rolls back; return its id."""
    row = _row(actor, event, _Fact(target, outcome, reason, target_label, payload))
    connection = connections[DEFAULT_DB_ALIAS]
    if not connection.in_atomic_block:
        return _insert(connection, row)
    with _connection_beside(connection) as beside:
        return _insert(beside, row)


arecord = db(record)
arecord_outside = db(record_outside)


@contextmanager
def _connection_beside(connection: BaseDatabaseWrapper) -> Iterator[BaseDatabaseWrapper]:
    # Not from the pool: callers who hold all its connections would wait here for each other.
    beside = connection.copy()
    beside.settings_dict["OPTIONS"].pop("pool", None)
    try:
        yield beside
    finally:
        beside.close()


# --- the row ---------------------------------------------------------------------------------

_ENTRY_COLUMNS = (
    "event",
    "occurred_at",
    "actor_kind",
    "actor_id",
    "actor_roles",
    "impersonator_id",
    "target_kind",
    "target_id",
    "outcome",
    "reason",
    "request_id",
    "trace_id",
    "turn_id",
    "payload",
    "personal_digest",
)
_PERSONAL_COLUMNS = ("salt", "actor_label", "target_label", "network", "user_agent")


def _statement() -> str:
    entry = ", ".join(_ENTRY_COLUMNS)
    personal = ", ".join(_PERSONAL_COLUMNS)
    entry_values = ", ".join(f"%({name})s" for name in _ENTRY_COLUMNS)
    personal_values = ", ".join(f"%({name})s" for name in _PERSONAL_COLUMNS)
    return (
        f"WITH entry AS (INSERT INTO audit_entry ({entry}) VALUES ({entry_values}) RETURNING id)"  # noqa: S608
        f" INSERT INTO audit_personaldetails (entry_id, {personal})"
        f" SELECT id, {personal_values} FROM entry RETURNING entry_id"
    )


_INSERT = _statement()


def personal_digest(salt: bytes, personal: dict[str, str]) -> bytes:
    """Return the 32 bytes by which an entry commits to its personal values.

    SHA-256 over the salt and the canonical JSON of actor_label, network, target_label, user_agent.
    """
    return hashlib.sha256(salt + canonical(personal)).digest()


def _insert(connection: BaseDatabaseWrapper, row: dict[str, Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, row)
        return int(cursor.fetchone()[0])


@dataclass(frozen=True, slots=True)
class _Fact:
    target: Target
    outcome: str
    reason: str
    target_label: str
    payload: dict[str, Any]


def _row(actor: Actor | None, event: str, fact: _Fact) -> dict[str, Any]:
    acting = _acting.get()
    who = _resolved(actor if actor is not None else current_actor(), known(event))
    kind, actor_id, roles, actor_label = _described(who)
    target_kind, target_id, label = _located(fact.target)
    ids = current_ids()
    personal = {
        "actor_label": clean(actor_label, 254),
        "target_label": clean(fact.target_label or label, 254),
        "network": network_of(acting.address) if acting else "",
        "user_agent": family_of(acting.user_agent) if acting else "",
    }
    salt = os.urandom(SALT_BYTES)
    now: datetime = timezone.now()
    return {
        "event": event,
        "occurred_at": now,
        "actor_kind": kind,
        "actor_id": clean(actor_id, 64),
        "actor_roles": roles,
        "impersonator_id": acting.impersonator_id if acting else "",
        "target_kind": clean(target_kind, 64),
        "target_id": clean(target_id, 64),
        "outcome": Outcome(fact.outcome).value,
        "reason": clean(fact.reason, 500),
        **{name: clean(ids.get(name, ""), 64) for name in ("request_id", "trace_id", "turn_id")},
        "payload": Jsonb(storable(fact.payload)),
        "personal_digest": personal_digest(salt, personal),
        "salt": salt,
        **personal,
    }


def _resolved(actor: Actor | None, event: str) -> Actor:
    if actor is None:
        raise MissingActorError(event)
    return actor


def _described(actor: Actor) -> tuple[str, str, str, str]:
    """Return kind, id, roles and personal label of an actor."""
    if isinstance(actor, System):
        return ActorKind.SYSTEM.value, actor.name, "", ""
    if isinstance(actor, User):
        roles = ",".join(sorted(actor.roles))
        return ActorKind.USER.value, str(actor.pk), roles, actor.email
    return ActorKind.ANONYMOUS.value, "", "", ""


def _located(target: Target) -> tuple[str, str, str]:
    """Return kind, id and personal label of a target."""
    if target is None:
        return "", "", ""
    if isinstance(target, tuple):
        return target[0], target[1], ""
    label = target.email if isinstance(target, User) else ""
    return target._meta.label_lower, str(target.pk), label


# --- requests --------------------------------------------------------------------------------


def acting_as_the_signed_in(
    get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]
    | Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], Any]:
    """Middleware: what a request records is done by whoever is signed in with it.

    Who that is gets looked up when something is recorded in their name, not before.
    """
    if iscoroutinefunction(get_response):

        async def asynchronous(request: HttpRequest) -> HttpResponseBase:
            with _acting_in(request):
                response: HttpResponseBase = await get_response(request)
                return response

        return markcoroutinefunction(asynchronous)

    def synchronous(request: HttpRequest) -> HttpResponseBase:
        with _acting_in(request):
            response: HttpResponseBase = get_response(request)  # type: ignore[assignment]
            return response

    return synchronous


acting_as_the_signed_in.sync_capable = True  # type: ignore[attr-defined]
acting_as_the_signed_in.async_capable = True  # type: ignore[attr-defined]


def _acting_in(request: HttpRequest) -> Any:
    # A new lazy object: sign-in and sign-out exchange `request.user` within the request.
    return acting_as(
        SimpleLazyObject(lambda: request.user),  # type: ignore[arg-type]
        address=client_address(request),
        user_agent=request.headers.get("User-Agent", ""),
    )
