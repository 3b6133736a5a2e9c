"""How often one may ask: rate limits per person, API token and site, right across processes.

`RATE_LIMITS` names them (`.env.example` explains the form). Each is a moving window in Redis: never
more than its number of turns within any span of its length, counted by one atomic script of the
library `limits`. All that apply must pass. They are looked at before any is counted, so that who is
refused by one spends nothing of the others; only requests that race for the last place may.

While Redis is away nothing can be counted. `RATE_LIMITS_WITHOUT_REDIS` says what holds then: `open`
(the default) lets people go on, and budgets, which live in PostgreSQL, still bound what they spend;
`closed` refuses until Redis is back.
"""

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from weakref import WeakKeyDictionary

import redis.asyncio as aioredis
import structlog
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from limits import RateLimitItem
from limits import parse_many as parse_rates
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.exceptions import RedisError

from accounts.models import User
from accounts.roles import ROLES
from conversations.turn.refusal import Refusal

logger = structlog.get_logger(__name__)

SCOPES = ("token", "user", "site")
CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 2.0
RETRY_WITHOUT_REDIS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Quota:
    """How one limit stands. `reset_seconds` is the time until a place in it becomes free."""

    policy: str
    limit: int
    window_seconds: int
    remaining: int
    reset_seconds: float


class TooMany(Refusal):
    """A limit is reached. `quotas` are all that apply, for the fields of the answer."""

    def __init__(self, reached: Sequence[Quota], quotas: Sequence[Quota]) -> None:
        last = max(reached, key=lambda quota: quota.reset_seconds)
        retry_after = max(1.0, last.reset_seconds)
        whose = "This site takes" if last.policy.startswith("site") else "You may send"
        messages = "message" if last.limit == 1 else "messages"
        super().__init__(
            "too_many",
            "Too many messages in a short time.",
            f"{whose} {last.limit:,} {messages} in {_span(last.window_seconds)}."
            f" You can go on in {_span(math.ceil(retry_after))}; nothing was sent.",
            retry_after=retry_after,
        )
        self.quotas = list(quotas)


# --- what the environment says ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits of `RATE_LIMITS`: by scope, and for people also by the role that they hold."""

    by_scope: dict[str, tuple[RateLimitItem, ...]]
    by_role: dict[str, tuple[RateLimitItem, ...]]

    def of_user(self, user: User) -> Iterable[RateLimitItem]:
        """Return the limits of one person: the most generous that a role of theirs gives.

        A role without limits of its own has the general ones. For each length of window the
        largest number holds; a length that one of the roles does not limit is not limited.
        """
        general = self.by_scope.get("user", ())
        if not self.by_role or not user.roles:
            return general
        offers = [
            {item.get_expiry(): item for item in self.by_role.get(role, general)}
            for role in sorted(user.roles)
        ]
        windows = sorted(set.intersection(*(set(offer) for offer in offers)))
        return [max((o[w] for o in offers), key=lambda item: item.amount) for w in windows]


@lru_cache(maxsize=8)
def parsed_rules(text: str) -> Rules:
    """Read `scope=rate; scope:role=rate; …`. Raises ImproperlyConfigured with a sentence."""
    by_scope: dict[str, tuple[RateLimitItem, ...]] = {}
    by_role: dict[str, tuple[RateLimitItem, ...]] = {}
    for rule in filter(None, (part.strip() for part in text.split(";"))):
        name, _, rate = rule.partition("=")
        scope, _, role = (word.strip() for word in name.partition(":"))
        known = scope in SCOPES and (not role or (scope == "user" and role in ROLES))
        items = _parsed_rates(rate)
        if not known or not items:
            raise ImproperlyConfigured(
                f"RATE_LIMITS: {rule!r} is no limit. Write user=20/minute, token=…, site=… or"
                f" user:ROLE=…, separated by semicolons; roles are {', '.join(ROLES)}."
            )
        into, key = (by_role, role) if role else (by_scope, scope)
        into[key] = (*into.get(key, ()), *items)
    return Rules(by_scope, by_role)


def _parsed_rates(rates: str) -> list[RateLimitItem]:
    try:
        items = parse_rates(rates)
    except ValueError:
        return []
    return items if all(item.amount > 0 for item in items) else []


# A mistake in the variable ends the start of a process, not somebody's turn.
parsed_rules(settings.RATE_LIMITS)


# --- asking -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Applying:
    """A limit that applies to a request, and whose count it is."""

    scope: str
    subject: str
    item: RateLimitItem

    @property
    def policy(self) -> str:
        multiples = f"{self.item.multiples}-" if self.item.multiples > 1 else ""
        return f"{self.scope}-{multiples}{self.item.GRANULARITY.name}"


async def check(user: User, *, token_id: object = None) -> list[Quota]:
    """Count one turn of `user`, made with the API token `token_id` if there is one.

    Returns how each limit stands afterwards; nothing while Redis is away. Raises TooMany, a
    Refusal with `retry_after`. Load the account `with_roles()`. Asks Redis twice and once more for
    each limit but the first, never the database.
    """
    applying = _applying(user, token_id)
    if not applying:
        return []
    try:
        quotas = await _counted(applying)
    except (RedisError, OSError) as error:
        return _without_redis(error)
    _outage.ended()
    return quotas


def _applying(user: User, token_id: object) -> list[_Applying]:
    rules = parsed_rules(settings.RATE_LIMITS)
    of_token = rules.by_scope.get("token", ()) if token_id is not None else ()
    # The site's last: what is refused by a narrower limit must not count against everybody.
    return [
        *(_Applying("token", str(token_id), item) for item in of_token),
        *(_Applying("user", str(user.pk), item) for item in rules.of_user(user)),
        *(_Applying("site", "", item) for item in rules.by_scope.get("site", ())),
    ]


async def _counted(applying: Sequence[_Applying]) -> list[Quota]:
    limiter = _limiter()
    quotas = await asyncio.gather(*(_quota(limiter, one) for one in applying))
    if reached := [quota for quota in quotas if quota.remaining < 1]:
        raise TooMany(reached, quotas)
    for number, one in enumerate(applying):
        if not await limiter.hit(one.item, one.scope, one.subject):
            quotas[number] = await _quota(limiter, one)  # another request was quicker
            raise TooMany([quotas[number]], quotas)
    return [replace(quota, remaining=quota.remaining - 1) for quota in quotas]


async def _quota(limiter: MovingWindowRateLimiter, one: _Applying) -> Quota:
    stats = await limiter.get_window_stats(one.item, one.scope, one.subject)
    window = one.item.get_expiry()
    wait = min(max(stats.reset_time - time.time(), 0.0), float(window))
    return Quota(one.policy, one.item.amount, window, max(stats.remaining, 0), wait)


def _limiter() -> MovingWindowRateLimiter:
    """Return the limiter of this event loop, to which its connections belong."""
    known = _limiters.setdefault(asyncio.get_running_loop(), {})
    if settings.REDIS_URL not in known:
        pool = aioredis.BlockingConnectionPool.from_url(
            settings.REDIS_URL,
            max_connections=16,
            timeout=None,  # a crowd waits for a connection; only a silent Redis is given up
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
        )
        storage = RedisStorage(
            "redis://",  # where it is, the pool knows
            implementation="redispy",
            key_prefix=f"{settings.REDIS_PREFIX}rate",
            connection_pool=pool,  # type: ignore[arg-type]  # it takes more than it declares
        )
        known[settings.REDIS_URL] = (MovingWindowRateLimiter(storage), pool)
    return known[settings.REDIS_URL][0]


_Connected = tuple[MovingWindowRateLimiter, aioredis.ConnectionPool]
_limiters: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Connected]]"
_limiters = WeakKeyDictionary()


async def close_limiters() -> None:
    """Close this event loop's connections; they open again when asked."""
    for _, pool in _limiters.pop(asyncio.get_running_loop(), {}).values():
        await pool.disconnect()


# --- without Redis ----------------------------------------------------------------------------


class _Outage:
    """Says once that limits can't be counted, and once that they can be again."""

    def __init__(self) -> None:
        self._lasts = False

    def noticed(self, error: Exception) -> None:
        if not self._lasts:
            logger.warning(
                "rate_limits_away",
                error=type(error).__name__,
                meanwhile=settings.RATE_LIMITS_WITHOUT_REDIS,
            )
        self._lasts = True

    def ended(self) -> None:
        if self._lasts:
            logger.warning("rate_limits_back")
        self._lasts = False


_outage = _Outage()


def _without_redis(error: Exception) -> list[Quota]:
    _outage.noticed(error)
    if settings.RATE_LIMITS_WITHOUT_REDIS == "open":
        return []
    raise Refusal(
        "limits_away",
        "Messages can't be taken at the moment.",
        "A part of the server is away. Nothing was sent; try again in a few seconds.",
        retry_after=RETRY_WITHOUT_REDIS_SECONDS,
    ) from error


# --- telling ----------------------------------------------------------------------------------


def rate_limit_fields(
    quotas: Sequence[Quota], *, retry_after: float | None = None
) -> dict[str, str]:
    """Return the fields of an answer that tell how the limits stand.

    `RateLimit-Policy` and `RateLimit` are lists of structured fields (RFC 9651) as in
    draft-ietf-httpapi-ratelimit-headers-11; `Retry-After` has whole seconds (RFC 9110, 10.2.3),
    rounded up.
    """
    fields = {}
    if quotas:
        fields["RateLimit-Policy"] = ", ".join(
            f'"{quota.policy}";q={quota.limit};w={quota.window_seconds}' for quota in quotas
        )
        fields["RateLimit"] = ", ".join(
            f'"{quota.policy}";r={quota.remaining};t={math.ceil(quota.reset_seconds)}'
            for quota in quotas
        )
    if retry_after is not None:
        fields["Retry-After"] = str(max(1, math.ceil(retry_after)))
    return fields


_UNITS = ((86_400, "day", "a"), (3_600, "hour", "an"), (60, "minute", "a"), (1, "second", "a"))


def _span(seconds: int) -> str:
    """Return a length of time in words, in the largest unit that fits, rounded up."""
    for size, unit, article in _UNITS:
        if seconds >= size:
            number = math.ceil(seconds / size)
            return f"{article} {unit}" if number == 1 else f"{number} {unit}s"
    return "a moment"
