"""Figures of each version: what its turns came to, by release, arm and UTC day. Sums, of nobody.

    count_turns(turns)                            turns that ended, one statement
    count_turns(turns, sign=-1)                   as if they had not: one of them goes on
    COUNT, turn_values(turns)                     the same in a statement of the caller's
    count_rating(version_id, arm, release_id, day, up=1)
    count_satisfaction(version_id, arm, release_id, 4)

All run in the caller's transaction. The rows stay when the conversations are purged: they hold no
content and no person. Several rows are written in one order by everybody, and before the windows of
a budget, so that no two transactions wait for each other.

What is counted, and for whom: a turn counts for the version that served, on the day on which it
began; one in which another version had to serve counts as `fallbacks` there, and as `missed` for
the version that was to serve. A reply that is continued is one turn: what it came to before is
taken back when it goes on. Tokens and costs are those of all its runs. Trials don't count. A rating
counts on the day on which it was first given, also when it is changed or taken back later.

Times are kept as histograms with buckets whose bounds grow by a factor, so that a quantile is off
by at most RELATIVE_ERROR (DDSketch: Masson, Rim, Lee, PVLDB 12 (2019) 2195).
"""

import json
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from prompts.models import Arm

SHARDS = 8

RELATIVE_ERROR = 0.025
"""A quantile of a histogram is off by at most this part of itself."""

_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GROWTH = math.log(_GROWTH)


# --- histograms --------------------------------------------------------------------------------


def bucket_of(milliseconds: int) -> int:
    """Return the bucket of a time; all below a millisecond is one."""
    return math.ceil(math.log(max(1, milliseconds)) / _LOG_GROWTH)


def middle_of(bucket: int) -> float:
    """Return the milliseconds from which nothing in the bucket is farther than RELATIVE_ERROR."""
    return 2 * _GROWTH**bucket / (_GROWTH + 1)


def quantile(histogram: Mapping[int, int], share: float) -> float | None:
    """Return the milliseconds below which this share lies; None without observations."""
    total = sum(histogram.values())
    if total <= 0:
        return None
    below = 0
    for bucket in sorted(histogram):
        below += histogram[bucket]
        if below >= share * total:
            return middle_of(bucket)
    raise AssertionError("the last bucket reaches the total")


# --- turns -------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where something counts; the order of its rows in a statement."""

    version_id: UUID
    day: date
    release_id: UUID | None
    arm: str
    shard: int


@dataclass(frozen=True, slots=True)
class EndedTurn:
    """A turn that ended: which, by what it was served, and what it came to.

    `missed_by` is the version that was to serve, where another did. Times are milliseconds; `hits`
    are those of the last run, which no row of a reply has.
    """

    reply_id: UUID
    began: datetime
    version_id: UUID
    release_id: UUID | None
    arm: str
    failed: bool
    refused: bool
    completed: bool
    is_fallback: bool = False
    missed_by: UUID | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: Decimal | None = None
    first_token_ms: int | None = None
    duration_ms: int | None = None
    policy_hits: int = 0
    personal_data_hits: int = 0

    def place(self, version_id: UUID) -> Place:
        """Return where the turn counts for a version: always the same, so that it can be undone."""
        day = self.began.astimezone(UTC).date()
        return Place(version_id, day, self.release_id, self.arm, self.reply_id.int % SHARDS)


SUMS = (
    *("turns", "errors", "refusals", "fallbacks", "missed", "tokens_in", "tokens_out"),
    *("cost_usd", "cost_usd_squared", "thumbs_up", "thumbs_down", "satisfaction_count"),
    *("satisfaction_sum", "satisfaction_squared", "policy_hits", "personal_data_hits"),
)
HISTOGRAMS = ("first_token", "duration")
_KEYS = {
    "version_id": "uuid",
    "day": "date",
    "release_id": "uuid",
    "arm": "text",
    "shard": "smallint",
}
_TYPES = {
    **_KEYS,
    **dict.fromkeys(SUMS, "numeric"),
    **dict.fromkeys(HISTOGRAMS, "jsonb"),
}


def _merged(name: str) -> str:
    """Return the SQL that adds the few buckets of what is counted to those of the row."""
    return f"""{name} = figures.{name} || COALESCE((
            SELECT jsonb_object_agg(key, COALESCE((figures.{name} ->> key)::bigint, 0) + value::int)
            FROM jsonb_each_text(EXCLUDED.{name})
        ), '{{}}')"""  # noqa: S608 - our own names


COUNT = f"""
    INSERT INTO prompts_versionfigures AS figures ({", ".join(_TYPES)})
    SELECT {", ".join(_TYPES)}
    FROM jsonb_to_recordset(%(figures)s::jsonb)
        AS given ({", ".join(f"{name} {kind}" for name, kind in _TYPES.items())})
    ORDER BY {", ".join(_KEYS)}
    ON CONFLICT ({", ".join(_KEYS)}) DO UPDATE SET
        {", ".join(f"{name} = figures.{name} + EXCLUDED.{name}" for name in SUMS)},
        {", ".join(map(_merged, HISTOGRAMS))}
"""  # noqa: S608 - our own names


def turn_values(turns: Iterable[EndedTurn], *, sign: int = 1) -> dict[str, Any]:
    """Return the parameters of COUNT."""
    rows = _Rows()
    for turn in turns:
        rows.add(turn.place(turn.version_id), sign, _counts(turn, sign))
        if turn.missed_by:
            rows.add(turn.place(turn.missed_by), sign, {"missed": 1})
    return rows.values()


def count_turns(turns: Iterable[EndedTurn], *, sign: int = 1) -> None:
    """Count turns that ended; with the sign -1 take them back. One statement."""
    _execute(turn_values(turns, sign=sign))


def _counts(turn: EndedTurn, sign: int) -> dict[str, Any]:
    cost = turn.cost_usd or Decimal(0)
    # What the rules found in a run that is over stays found.
    hits = {"policy_hits": turn.policy_hits, "personal_data_hits": turn.personal_data_hits}
    return {
        "turns": 1,
        "errors": int(turn.failed),
        "refusals": int(turn.refused),
        "fallbacks": int(turn.is_fallback),
        "tokens_in": turn.tokens_in or 0,
        "tokens_out": turn.tokens_out or 0,
        "cost_usd": cost,
        "cost_usd_squared": cost * cost,
        "first_token": _observed(turn.first_token_ms),
        "duration": _observed(turn.duration_ms if turn.completed else None),
        **(hits if sign > 0 else {}),
    }


def _observed(milliseconds: int | None) -> dict[int, int]:
    return {} if milliseconds is None else {bucket_of(milliseconds): 1}


class _Rows:
    """What is to be added, one row for each place: a statement can't change a row twice."""

    def __init__(self) -> None:
        self._rows: dict[Place, dict[str, Any]] = {}

    def add(self, place: Place, sign: int, counts: Mapping[str, Any]) -> None:
        row = self._rows.setdefault(
            place, dict.fromkeys(SUMS, 0) | {name: {} for name in HISTOGRAMS}
        )
        for name, value in counts.items():
            if isinstance(value, dict):
                for bucket, number in value.items():
                    row[name][bucket] = row[name].get(bucket, 0) + sign * number
            else:
                row[name] += sign * value

    def values(self) -> dict[str, Any]:
        rows = [{**place._asdict(), **row} for place, row in self._rows.items()]
        return {"figures": json.dumps(rows, default=str)}


# --- ratings -----------------------------------------------------------------------------------


def count_rating(  # noqa: PLR0913 - the last two are named
    version_id: UUID, arm: str, release_id: UUID | None, day: date, *, up: int = 0, down: int = 0
) -> None:
    """Add thumbs to a day's figures; -1 takes one back. One statement."""
    _count_on(day, version_id, arm, release_id, {"thumbs_up": up, "thumbs_down": down})


def count_satisfaction(version_id: UUID, arm: str, release_id: UUID | None, score: int) -> None:
    """Add an answer of 1 to 5 to today's figures. One statement."""
    counts = {
        "satisfaction_count": 1,
        "satisfaction_sum": score,
        "satisfaction_squared": score * score,
    }
    _count_on(datetime.now(UTC).date(), version_id, arm, release_id, counts)


def _count_on(
    day: date, version_id: UUID, arm: str, release_id: UUID | None, counts: Mapping[str, int]
) -> None:
    rows, shard = _Rows(), random.randrange(SHARDS)  # noqa: S311 - no secret
    rows.add(Place(version_id, day, release_id, arm or Arm.PRODUCTION, shard), 1, counts)
    _execute(rows.values())


def _execute(values: Mapping[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(COUNT, values)
