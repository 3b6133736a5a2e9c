"""What it costs to count a turn: `python -m benchmarks.figures`.

Turns that are open are closed, every second one with the count left out of the statement that
closes it: one after the other, and four at once, all of one version.
"""

import platform
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest import mock

from benchmarks.accounting import median, percentile
from benchmarks.apps import apps_on_servers
from benchmarks.report import Table, number

TURNS, AT_ONCE = 300, 4


def _open_turns(count: int) -> list[Any]:
    """Begin turns of several people, each in a conversation of its own."""
    from django.db.models.functions import Now  # noqa: PLC0415 - after Django's setup

    from accounts.models import RoleGrant, User  # noqa: PLC0415
    from conversations.models import Runner  # noqa: PLC0415
    from conversations.turn import start_turn  # noqa: PLC0415

    runner = Runner.objects.create(host="here", pid=1, beat_at=Now())
    people = [User.objects.create_user(f"{uuid.uuid4().hex}@parley.example") for _ in range(50)]
    RoleGrant.objects.bulk_create(RoleGrant(user=person, role_id="member") for person in people)
    asking = [User.objects.with_roles().get(pk=person.pk) for person in people]
    return [
        start_turn(
            uuid.uuid4(),
            by=asking[at % len(asking)],
            text="What does it cost?",
            key=uuid.uuid4().hex,
            runner_id=runner.pk,
        )
        for at in range(count)
    ]


def _close(turn: Any) -> float:
    """Close a turn; return how many milliseconds that took."""
    from conversations.models import Message  # noqa: PLC0415
    from conversations.turn import Progress, TurnEnded, close_reply  # noqa: PLC0415
    from prompts.provider import Usage  # noqa: PLC0415

    milliseconds = turn.reply.pk.int % 3_000
    ended = TurnEnded(
        Message.State.COMPLETED,
        usage=Usage(300, 0, 200),
        first_token_ms=300 + milliseconds // 10,
        duration_ms=1_000 + milliseconds,
    )
    began = time.perf_counter()
    assert close_reply(turn.reply, Progress("It costs nothing. " * 40, "", 50), ended)
    return (time.perf_counter() - began) * 1000


@contextmanager
def _uncounted() -> Iterator[None]:
    from conversations.turn import closing  # noqa: PLC0415

    with mock.patch.object(closing, "ended_turn", return_value=None):
        yield


def _one_by_one(turns: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Return the times with and without the count, taken in turns."""
    counted, uncounted = [], []
    for at, turn in enumerate(turns):
        if at % 2:
            counted.append(_close(turn))
        else:
            with _uncounted():
                uncounted.append(_close(turn))
    return counted, uncounted


def _at_once(turns: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Return the times with and without the count, taken block by block."""
    size = len(turns) // 8
    counted, uncounted = [], []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for at in range(8):
            block = turns[at * size : (at + 1) * size]
            if at % 2:
                counted += threads.map(_close, block)
            else:
                with _uncounted():
                    uncounted += list(threads.map(_close, block))
    return counted, uncounted


def measure() -> list[Table]:
    """Measure in one process."""
    table = Table(
        "What counting a turn costs",
        ["closing a reply", "counted, p10", "p50", "not counted, p10", "p50"],
        note="Milliseconds, the whole transaction. Counting is a part of the statement that closes"
        f" the reply, so a turn has no statement more. {TURNS} turns each of one version, its rows"
        " in eight shards. p10 is what it takes when little else is in the way. In the first line"
        " the two take turns, in the second block by block."
        f" {platform.machine()}, CPython {platform.python_version()}.",
    )
    with apps_on_servers():
        from django.db import connection  # noqa: PLC0415 - after Django's setup

        turns = _open_turns(TURNS * 4)
        half = len(turns) // 2
        _add(table, "one after the other", *_one_by_one(turns[:half]))
        connection.close()  # the threads need those of the pool
        _add(table, "four at once", *_at_once(turns[half:]))
    return [table]


def _add(table: Table, name: str, *kinds: Sequence[float]) -> None:
    figures = [number(each, 2) for one in kinds for each in (percentile(one, 0.1), median(one))]
    table.rows.append([name, *figures])


def main() -> int:
    """Measure and print."""
    for table in measure():
        print(table.as_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
