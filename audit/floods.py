"""Counts what happens again and again, so that it is written down once a minute.

Whether its minute is over is known to all processes together, through Redis. A process asks at most
once a minute about each thing, and counts by itself in between: a flood costs Redis nothing. While
Redis is away each process has minutes of its own, so that no refusal waits for another server, and
none is let pass because that server is away.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache

import redis
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from chatbot.away import Away

WINDOW_SECONDS = 60.0
FORGOTTEN_AFTER_SECONDS = 86_400.0
MOST_KEPT = 10_000
PREFIX = "flood:"
# Redis answers in a millisecond. One that does not is not asked again for a while.
REDIS_SECONDS = 0.5
# Threads that may ask at once; others decide by themselves.
_CONNECTIONS = 16

# Hash: until (end of the minute, in milliseconds by Redis' clock), untold.
# ARGV: how often it happened here, minute, how long to remember (ms)
# → {how often it happened since it was told, or 0; milliseconds until one may ask again}
_COUNT = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local h = redis.call('HMGET', KEYS[1], 'until', 'untold')
local till, untold = tonumber(h[1] or 0), tonumber(h[2] or 0)
if now < till then
  redis.call('HINCRBY', KEYS[1], 'untold', ARGV[1])
  return {0, till - now}
end
redis.call('HSET', KEYS[1], 'until', now + ARGV[2], 'untold', 0)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {untold + ARGV[1], tonumber(ARGV[2])}
"""

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Seen:
    """What this process knows of a thing: how often it happened, and until when it only counts."""

    at: float
    quiet_until: float
    untold: int = 0


_seen: OrderedDict[Hashable, _Seen] = OrderedDict()
_lock = threading.Lock()
_away = Away()


def due(what: Hashable, *, now: float | None = None) -> int:
    """Return how often `what` happened since it was told, this time included; 0: not to be told.

    The first time is told at once, then at most once a minute. What other processes have counted
    is included as far as they have asked since. Of more than MOST_KEPT different things the process
    forgets the one that happened longest ago. `now` are monotonic seconds. May ask Redis: not for
    an event loop.
    """
    now = time.monotonic() if now is None else now
    with _lock:
        seen = _met(what, now)
        if now < seen.quiet_until:
            return 0
        # Others who meet it while this thread asks only count.
        count, seen.untold, seen.quiet_until = seen.untold, 0, now + WINDOW_SECONDS
    total, quiet_seconds = _told_by_all(what, count) or (count, WINDOW_SECONDS)
    with _lock:
        seen.quiet_until = now + quiet_seconds
    return total


def _met(what: Hashable, now: float) -> _Seen:
    seen = _seen.get(what)
    if seen is None or now - seen.at >= FORGOTTEN_AFTER_SECONDS:
        seen = _seen[what] = _Seen(at=now, quiet_until=now)
    _seen.move_to_end(what)
    while len(_seen) > MOST_KEPT:
        _seen.popitem(last=False)
    seen.at, seen.untold = now, seen.untold + 1
    return seen


def _told_by_all(what: Hashable, count: int) -> tuple[int, float] | None:
    """Return how often it is to be told (0: not now) and for how many seconds to be quiet.

    None while Redis is away.
    """
    if _away.is_now():
        return None
    # By its digest: it may hold a network.
    name = hashlib.sha256(repr(what).encode()).hexdigest()[:32]
    key = f"{settings.REDIS_PREFIX}{PREFIX}{name}"
    limits = (round(1000 * seconds) for seconds in (WINDOW_SECONDS, FORGOTTEN_AFTER_SECONDS))
    try:
        total, milliseconds = _client(settings.REDIS_URL).eval(_COUNT, 1, key, count, *limits)
    except (RedisError, OSError) as error:
        _away.notice()
        logger.warning("floods_without_redis", error=type(error).__name__)
        return None
    return int(total), milliseconds / 1000


@lru_cache(maxsize=1)
def _client(url: str) -> "redis.Redis":
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=REDIS_SECONDS,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    return redis.Redis.from_pool(pool)


def forget() -> None:
    """Begin counting anew in this process."""
    with _lock:
        _seen.clear()
    _away.forget()
