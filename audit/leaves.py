"""The canonical bytes of an entry, which its leaf is the hash of, and reading them in bulk.

The bytes are JSON as RFC 8785 writes it. Texts of times and digests come from the database, which
is cheaper than to make objects of them first; a payload goes through `rfc8785` only where
orjson's own text could differ from it.

`StoredHashes` reads the hashes of the stored tree, `read_places` its leaves with their entries.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
import rfc8785
from django.db.backends.utils import CursorWrapper

from audit.content import MAX_INTEGER

# A multiple of 256, so that no batch begins within a stored node.
BATCH = 5_120
VERSION = 1

_TIME = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

# The values of `Row`, of an `audit_entry AS entry`.
ROW_SQL = f"""
entry.id, entry.transaction_id, entry.event,
{_TIME.format("entry.occurred_at")}, {_TIME.format("entry.recorded_at")},
entry.actor_kind, entry.actor_id, entry.actor_roles, entry.impersonator_id, entry.token_id,
entry.target_kind, entry.target_id, entry.outcome, entry.reason,
entry.request_id, entry.trace_id, entry.turn_id,
entry.payload::text, encode(entry.personal_digest, 'hex')
"""


class Row(NamedTuple):
    """An entry as the database tells it for its leaf; times in UTC, of 27 characters."""

    entry: int
    transaction: int
    event: str
    occurred_at: str
    recorded_at: str
    actor_kind: str
    actor_id: str
    actor_roles: str
    impersonator_id: str
    token_id: str
    target_kind: str
    target_id: str
    outcome: str
    reason: str
    request_id: str
    trace_id: str
    turn_id: str
    payload: str
    personal_digest: str


def leaf_bytes(row: Row) -> bytes:
    """Return the canonical JSON of an entry."""
    # Keys stand in their canonical order, so that nothing but the payload has to be sorted.
    return orjson.dumps(
        {
            "actor": {
                "id": row.actor_id,
                "impersonator": row.impersonator_id,
                "kind": row.actor_kind,
                "roles": row.actor_roles,
                "token": row.token_id,
            },
            "entry": row.entry,
            "event": row.event,
            "occurred_at": row.occurred_at,
            "outcome": row.outcome,
            "payload": orjson.Fragment(canonical_payload(row.payload)),
            "personal_digest": row.personal_digest,
            "reason": row.reason,
            "recorded_at": row.recorded_at,
            "request_id": row.request_id,
            "target": {"id": row.target_id, "kind": row.target_kind},
            "trace_id": row.trace_id,
            "turn_id": row.turn_id,
            "v": VERSION,
        }
    )


# In the text of a jsonb a number follows a space or a bracket. Fractions and what may exceed the
# safe integers are written differently, and keys beyond the basic plane sorted differently.
_PECULIAR = re.compile(r"[\[ ]-?(?:[0-9]{16}|[0-9]+\.)|[\U00010000-\U0010FFFF]")


def canonical_payload(text: str) -> bytes:
    """Return the text of a jsonb object in the canonical form of RFC 8785."""
    if text == "{}":
        return b"{}"
    if _PECULIAR.search(text) is None:
        return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS)
    return rfc8785.dumps(_floats_again(orjson.loads(text)))


def _floats_again(value: Any) -> Any:
    """Turn integers that no payload holds back into floats: jsonb writes 1e300 in full."""
    if isinstance(value, dict):
        return {name: _floats_again(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_floats_again(item) for item in value]
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return float(value)
    return value


class StoredHashes:
    """The hashes of the tree as they are stored; a range may lack what is missing there."""

    def __init__(self, cursor: CursorWrapper) -> None:
        self._cursor = cursor

    def leaves(self, start: int, stop: int) -> Sequence[bytes]:
        """Return the hashes of the leaves [start, stop)."""
        self._cursor.execute(
            "SELECT hash FROM audit_leaf WHERE index >= %s AND index < %s ORDER BY index",
            [start, stop],
        )
        return [bytes(digest) for (digest,) in self._cursor.fetchall()]

    def nodes(self, level: int, start: int, stop: int) -> Sequence[bytes]:
        """Return the nodes [start, stop) of a level."""
        self._cursor.execute(
            "SELECT hash FROM audit_node WHERE level = %s AND index >= %s AND index < %s"
            " ORDER BY index",
            [level, start, stop],
        )
        return [bytes(digest) for (digest,) in self._cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class Place:
    """A leaf, with the entry of which it is the hash, or None where that is gone."""

    index: int
    entry_id: int
    hash: bytes
    clock_went_back: bool
    row: Row | None


def read_places(cursor: CursorWrapper, start: int, stop: int) -> Iterator[Place]:
    """Yield the leaves of [start, stop) in their order, in constant memory.

    A leaf that is missing from the table is left out. Each BATCH is a statement of its own, so
    that no transaction has to stay open.
    """
    for begin in range(start, stop, BATCH):
        cursor.execute(
            f"SELECT leaf.index, leaf.entry_id, leaf.hash, leaf.clock_went_back, {ROW_SQL}"  # noqa: S608
            " FROM audit_leaf AS leaf LEFT JOIN audit_entry AS entry ON entry.id = leaf.entry_id"
            " WHERE leaf.index >= %s AND leaf.index < %s ORDER BY leaf.index",
            [begin, min(begin + BATCH, stop)],
        )
        for index, entry_id, digest, back, *values in cursor.fetchall():
            row = None if values[0] is None else Row._make(values)
            yield Place(index, entry_id, bytes(digest), back, row)
