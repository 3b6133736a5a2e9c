"""Writing the log: who did what to what, and how it ended.

    record(user, "role.granted", target, role="operator")      with the caller's transaction
    record_outside(user, "access.denied", target, …)           whatever becomes of the caller's
    record_sparingly(user, "turn.refused", target, …)          the same, once a minute with a count

An entry that is recorded with the caller's transaction exists exactly if the change exists. What
was denied or has failed rolls back, so its entry is written beside, on a connection of its own.

`acting_as(actor)` says who acts in code that no request runs (sockets, tasks, commands); inside it
`None` stands for that actor. Recording without any actor is an error, never "unknown".

What can be repeated at will, a refusal above all, must not become a flood of entries that nobody
can remove: `record_sparingly` writes at most one a minute, and counts.

Each call is one statement and one round trip, and asks nothing but the roles of an account that
came without them. No personal value gets into the entry: labels, network and browser go to the
erasable `PersonalDetails`, to which the entry commits by a salted digest.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone
from psycopg.types.json import Jsonb

from accounts.access import Actor, System
from accounts.models import User
from audit import floods
from audit.acting import Acting, acting_as, acting_as_the_signed_in, current_acting, current_actor
from audit.content import canonical, clean, family_of, network_of, storable
from audit.events import known
from audit.models import ActorKind, Outcome
from chatbot.database import db
from chatbot.telemetry import ID_NAMES, current_ids

__all__ = [
    "ANONYMOUS",
    "Actor",
    "MissingActorError",
    "System",
    "acting_as",
    "acting_as_the_signed_in",
    "arecord",
    "arecord_outside",
    "arecord_sparingly",
    "current_actor",
    "record",
    "record_outside",
    "record_sparingly",
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


def record(  # noqa: PLR0913 - the last four are rare, and named
    actor: Actor | None,
    event: str,
    target: Target = None,
    *,
    outcome: str = Outcome.SUCCEEDED,
    reason: str = "",
    target_label: str = "",
    turn: object = "",
    **payload: Any,
) -> int:
    """Write an entry with the caller's transaction; return its id.

    `payload` holds figures, ids and names of kinds, never what people say. `target_label` is a
    personal name of the target, kept erasable; an account as target brings its own. `turn` is the
    id of the reply that this belongs to, where no one is bound (`chatbot.telemetry.bind`).
    Raises UnknownEventError, MissingActorError, and TypeError for a payload that is no JSON.
    """
    row = _row(actor, event, _Fact(target, outcome, reason, target_label, str(turn), payload))
    return _insert(connections[DEFAULT_DB_ALIAS], row)


def record_outside(  # noqa: PLR0913 - as record
    actor: Actor | None,
    event: str,
    target: Target = None,
    *,
    outcome: str,
    reason: str = "",
    target_label: str = "",
    turn: object = "",
    **payload: Any,
) -> int:
    """Write an entry that stays when the caller's transaction rolls back; return its id."""
    row = _row(actor, event, _Fact(target, outcome, reason, target_label, str(turn), payload))
    connection = connections[DEFAULT_DB_ALIAS]
    if not connection.in_atomic_block:
        return _insert(connection, row)
    with _connection_beside(connection) as beside:
        return _insert(beside, row)


def record_sparingly(  # noqa: PLR0913 - as record
    actor: Actor | None,
    event: str,
    target: Target = None,
    *,
    outcome: str,
    reason: str,
    each: str = "",
    target_label: str = "",
    **payload: Any,
) -> int | None:
    """Write an entry as `record_outside` does, or only count; return its id if there is one.

    There is one entry a minute for each actor (a stranger: each network), event, reason and `each`.
    Its `count` says how often it happened since the entry before, this time included: in all web
    processes, as far as they have asked since (`audit.floods`). What was counted after the last
    entry is told by the next one, within a day, or lost.
    """
    who = _resolved(actor, event)
    if count := floods.due((event, _whose(who), reason, each)):
        payload |= {"count": count, "outcome": outcome, "reason": reason}
        return record_outside(who, event, target, target_label=target_label, **payload)
    return None


def _whose(actor: Actor) -> str:
    kind, actor_id, _, _ = _described(actor)
    return actor_id or f"{kind} {_network(current_acting())}"


arecord = db(record)
arecord_outside = db(record_outside)
arecord_sparingly = db(record_sparingly)


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
    "token_id",
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
    turn: str
    payload: dict[str, Any]


def _row(actor: Actor | None, event: str, fact: _Fact) -> dict[str, Any]:
    who = _resolved(actor, known(event))
    # The address at hand is that of a person, also where the system works on from a request.
    acting = None if isinstance(who, System) else current_acting()
    kind, actor_id, roles, actor_label = _described(who)
    target_kind, target_id, label = _located(fact.target)
    personal = {
        "actor_label": clean(actor_label, 254),
        "target_label": clean(fact.target_label or label, 254),
        "network": _network(acting),
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
        "token_id": _token_of(who),
        "target_kind": clean(target_kind, 64),
        "target_id": clean(target_id, 64),
        "outcome": Outcome(fact.outcome).value,
        "reason": clean(fact.reason, 500),
        **_ids(fact.turn),
        "payload": Jsonb(storable(fact.payload)),
        "personal_digest": personal_digest(salt, personal),
        "salt": salt,
        **personal,
    }


def _resolved(actor: Actor | None, event: str) -> Actor:
    who = current_actor() if actor is None else actor
    if who is None:
        raise MissingActorError(event)
    return who


def _described(actor: Actor) -> tuple[str, str, str, str]:
    """Return kind, id, roles and personal label of an actor."""
    if isinstance(actor, System):
        return ActorKind.SYSTEM.value, actor.name, "", ""
    if isinstance(actor, User):
        roles = ",".join(sorted(actor.roles))
        kind = ActorKind.TOKEN if _token_of(actor) else ActorKind.USER
        return kind.value, str(actor.pk), roles, actor.email
    return ActorKind.ANONYMOUS.value, "", "", ""


def _token_of(actor: Actor) -> str:
    """Return the id of the API token with which an account acts here, or an empty string."""
    acting = current_acting()
    return acting.token_of(actor) if acting and isinstance(actor, User) else ""


def _network(acting: Acting | None) -> str:
    return network_of(acting.address, *ip_prefixes()) if acting else ""


def _ids(turn: str) -> dict[str, str]:
    ids = current_ids() | ({"turn_id": turn} if turn else {})
    return {name: clean(ids.get(name, ""), 64) for name in ID_NAMES}


@lru_cache(maxsize=4)
def _parsed_prefixes(text: str) -> tuple[int, int]:
    numbers = [int(part) if part.strip().isdecimal() else -1 for part in text.split("/")]
    if len(numbers) != 2 or not 0 <= numbers[0] <= 32 or not 0 <= numbers[1] <= 128:
        raise ImproperlyConfigured(
            f"AUDIT_IP_PREFIX: {text!r} is no pair of lengths. Write how many bits of IPv4 and of"
            " IPv6 are kept: 24/56, 32/128 for whole addresses, 0/0 for none."
        )
    return numbers[0], numbers[1]


def ip_prefixes() -> tuple[int, int]:
    """Return how many bits of IPv4 and of IPv6 addresses are kept, from AUDIT_IP_PREFIX.

    Raises ImproperlyConfigured.
    """
    return _parsed_prefixes(settings.AUDIT_IP_PREFIX)


def _located(target: Target) -> tuple[str, str, str]:
    """Return kind, id and personal label of a target."""
    if target is None:
        return "", "", ""
    if isinstance(target, tuple):
        return target[0], target[1], ""
    label = target.email if isinstance(target, User) else ""
    return target._meta.label_lower, str(target.pk), label
