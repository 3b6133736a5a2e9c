"""A circuit breaker for each model, shared by all processes through Redis.

closed     Requests go out. FAULTS in a row within WINDOW_SECONDS open the breaker; a success begins
           the count anew.
open       Nobody asks for PAUSE seconds.
half-open  One request, the probe, goes out; a success closes the breaker, a fault opens it again. A
           probe that never tells (its process died, its reader left) is replaced after
           PROBE_SECONDS.

What was asked before the breaker opened tells nothing about now: only the probe decides. Every step
is one script in Redis, by Redis' clock, so processes agree without talking. While Redis is away
every breaker counts as closed: a failing model is then asked more often than needed, which harms
less than a site that answers nobody. Which faults count is decided by `prompts.routing`.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any
from weakref import WeakKeyDictionary

import redis.asyncio as aioredis
import structlog
from django.conf import settings
from redis.exceptions import RedisError

from chatbot.away import Away
from prompts.catalogue import Offer

logger = structlog.get_logger(__name__)

WINDOW_SECONDS = 60.0
PROBE_SECONDS = 15.0
REMEMBERED_SECONDS = 600.0
# Redis answers in a millisecond. One that does not is not asked again for a while.
REDIS_SECONDS = 0.5

# Hash: faults, window (end of the window), open (until when), probe (until when), in milliseconds.
_NOW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local h = redis.call('HMGET', KEYS[1], 'faults', 'window', 'open', 'probe')
local faults, window, open, probe = tonumber(h[1]), tonumber(h[2]), tonumber(h[3]), tonumber(h[4])
"""
# → {may ask, milliseconds to wait, what a success would mean: a member of _Stake}
_ENTER = (
    _NOW
    + """
if not open then return {1, 0, faults and 1 or 0} end
if now < open then return {0, open - now, 0} end
if probe and now < probe then return {0, probe - now, 0} end
redis.call('HSET', KEYS[1], 'probe', now + ARGV[1])
return {1, 0, 2}
"""
)
# ARGV: stake, faults that open, window, pause, how long to keep the key (ms) → 1 when it opened
_FAIL = (
    _NOW
    + """
local is_probe = ARGV[1] == '2'
if open and not is_probe then return 0 end
if not open then
  if not window or now >= window then faults, window = 0, now + ARGV[3] end
  faults = faults + 1
  redis.call('HSET', KEYS[1], 'faults', faults, 'window', window)
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  if faults < tonumber(ARGV[2]) then return 0 end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'open', now + ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
"""
)
# ARGV: stake
_SUCCEED = (
    _NOW
    + """
if open and ARGV[1] ~= '2' then return 0 end
return redis.call('DEL', KEYS[1])
"""
)


class _Stake(IntEnum):
    """What hangs on the outcome of a request that was let through."""

    NOTHING = 0
    """No fault before it: a success changes nothing and need not be told."""
    COUNT = 1
    PROBE = 2


class Open(Exception):
    """The breaker is open: nobody may ask for so many seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"open for {retry_after:.1f} s")
        self.retry_after = retry_after


@dataclass(slots=True)
class Breaker:
    """The breaker of one model, for one request: enter, then tell how it went."""

    key: str
    _stake: _Stake = _Stake.NOTHING

    @classmethod
    def of(cls, offer: Offer) -> "Breaker":
        """Return a model's breaker. One that was moved or renamed begins with a closed one."""
        where = "\n".join((offer.base_url, offer.remote_name, offer.secret_name))
        digest = hashlib.sha256(where.encode()).hexdigest()[:16]
        return cls(f"{settings.REDIS_PREFIX}breaker:{offer.slug}:{digest}")

    async def enter(self) -> None:
        """Ask to send a request. Raises Open."""
        answer = await _run(_ENTER, self.key, _ms(PROBE_SECONDS))
        if answer is None:
            return
        admitted, wait_ms, stake = answer
        if not admitted:
            raise Open(wait_ms / 1000)
        self._stake = _Stake(stake)

    async def succeeded(self) -> None:
        """Tell that the model began to answer; free of cost while nothing went wrong before."""
        if self._stake is not _Stake.NOTHING:
            await _run(_SUCCEED, self.key, self._stake)

    async def failed(self) -> None:
        """Tell that the model did not deliver."""
        limits = (settings.PROVIDER_BREAKER_FAULTS, _ms(WINDOW_SECONDS))
        pause = _ms(settings.PROVIDER_BREAKER_SECONDS)
        # Kept long enough that the pause ends in a probe and not in oblivion.
        kept = pause + _ms(REMEMBERED_SECONDS)
        if await _run(_FAIL, self.key, self._stake, *limits, pause, kept):
            logger.warning("breaker_opened", model=self.key.split(":")[-2])


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


_clients: "WeakKeyDictionary[asyncio.AbstractEventLoop, aioredis.Redis]" = WeakKeyDictionary()
_away = Away()


async def _run(script: str, key: str, *arguments: int) -> Any:
    """Run a script and return its answer, or None while Redis is away."""
    if _away.is_now():
        return None
    try:
        return await _client().eval(script, 1, key, *map(int, arguments))
    except (RedisError, OSError) as error:
        _away.notice()
        logger.warning("breaker_without_redis", error=type(error).__name__)
        return None


def _client() -> "aioredis.Redis":
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        pool = aioredis.BlockingConnectionPool.from_url(
            settings.REDIS_URL,
            max_connections=16,
            timeout=REDIS_SECONDS,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
        )
        _clients[loop] = aioredis.Redis.from_pool(pool)
    return _clients[loop]


async def close() -> None:
    """Close this event loop's connections to Redis; they open again when needed."""
    if client := _clients.pop(asyncio.get_running_loop(), None):
        await client.aclose()
