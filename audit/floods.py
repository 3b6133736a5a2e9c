"""Counts what happens again and again, so that it is written down once a minute.

The counts live in this process: no refusal waits for another server, and none is lost or let pass
because that server is away.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
FORGOTTEN_AFTER_SECONDS = 86_400.0
MOST_KEPT = 10_000


@dataclass(slots=True)
class _Seen:
    told_at: float
    untold: int = 0


_seen: OrderedDict[Hashable, _Seen] = OrderedDict()
_lock = threading.Lock()


def due(what: Hashable, *, now: float | None = None) -> int:
    """Return how often `what` happened since it was told, this time included; 0: not to be told.

    The first time is told at once, then at most once a minute. Of more than MOST_KEPT different
    things the one that happened longest ago is forgotten. `now` are monotonic seconds.
    """
    now = time.monotonic() if now is None else now
    with _lock:
        seen = _seen.get(what)
        if seen is None or now - seen.told_at >= FORGOTTEN_AFTER_SECONDS:
            seen = _seen[what] = _Seen(told_at=-math.inf)
        _seen.move_to_end(what)
        while len(_seen) > MOST_KEPT:
            _seen.popitem(last=False)
        seen.untold += 1
        if now - seen.told_at < WINDOW_SECONDS:
            return 0
        count, seen.untold, seen.told_at = seen.untold, 0, now
        return count


def forget() -> None:
    """Begin counting anew."""
    with _lock:
        _seen.clear()
