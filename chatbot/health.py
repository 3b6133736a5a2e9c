"""Health and figures.

`/health/live` says that the process answers, `/health/ready` that it may get traffic, `/health` how
each part is, with details for operators alone. All parts are asked at once, each within a time
limit of its own.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import Any

import structlog
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden, JsonResponse
from django.utils import timezone
from django_prometheus.exports import ExportToDjangoView
from redis.exceptions import RedisError

from accounts.access import allowed
from audit import figures, sealing
from audit.tasks import last_refusal
from chatbot.database import DATABASE_FAULTS, db
from conversations.reply.log import REDIS_FAULTS, connect
from conversations.retention import holds, purge
from prompts.provider import configured_provider

logger = structlog.get_logger(__name__)

LIMIT_SECONDS = 2.0
WORKER_SILENT_AFTER_SECONDS = 45
# Sealing runs every five seconds; a transaction that lasts may hold it up for a while.
UNSEALED_AFTER_SECONDS = 120
PROVIDER_ASKED_EVERY_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Part:
    """How one part is. `needed` parts decide between 200 and 503."""

    ok: bool
    detail: str
    milliseconds: int
    needed: bool


async def _database() -> str:
    def version() -> str:
        with connection.cursor() as cursor:
            cursor.execute("show server_version")
            return str(cursor.fetchone()[0])

    return f"PostgreSQL {await db(version)()}"


async def _redis() -> str:
    client = connect()
    try:
        info: dict[str, Any] = await client.info("server")
        return f"Redis {info['redis_version']}"
    finally:
        await client.aclose()


async def _worker() -> str:
    seen = await cache.aget("worker_beat")
    if seen is None:
        raise PartDown("no sign of life yet")
    age = time.time() - seen
    if age > WORKER_SILENT_AFTER_SECONDS:
        raise PartDown(f"silent for {age:.0f} s")
    return f"seen {age:.0f} s ago"


async def _audit_log() -> str:
    """Whether entries get sealed: what the last run said, and how long the oldest waits."""
    refused, waiting = await db(lambda: (last_refusal(), sealing.state()))()
    if refused:
        raise PartDown(f"sealing refuses ({refused.code}): {refused.sentence}")
    if waiting.oldest_seconds > UNSEALED_AFTER_SECONDS:
        raise PartDown(f"entries have waited {waiting.oldest_seconds:.0f} s to be sealed")
    return f"{waiting.unsealed} entries wait to be sealed"


async def _audit_copies() -> str:
    """Whether streams and publications keep up, with the fault of those that do not."""
    found = await db(figures.copies)()
    late = [f"{lag.name} lacks {lag.entries} entries. {lag.fault}" for lag in found if lag.is_late]
    if late:
        raise PartDown(" ".join(late))
    return f"{len(found)} destinations keep up"


class PartDown(Exception):
    """A part does not do its work; the message says why."""


_provider_seen: tuple[float, bool] = (0.0, False)


async def _provider() -> str:
    """Ask the provider at most every few seconds, however often health is asked for."""
    global _provider_seen  # noqa: PLW0603 - one answer for the process
    asked_at, answers = _provider_seen
    if time.monotonic() - asked_at > PROVIDER_ASKED_EVERY_SECONDS or not answers:
        answers = await configured_provider().answers(within_seconds=LIMIT_SECONDS)
        _provider_seen = (time.monotonic(), answers)
    if not answers:
        raise PartDown("does not answer")
    return "demo replies: no AI is connected" if settings.PROVIDER_IS_DEMO else "answers"


# Without the provider or the worker people can still read, and an entry that is not sealed yet is
# still written: they are reported, not decisive.
PARTS: dict[str, tuple[Callable[[], Awaitable[str]], bool]] = {
    "database": (_database, True),
    "redis": (_redis, True),
    "worker": (_worker, False),
    "audit log": (_audit_log, False),
    "audit copies": (_audit_copies, False),
    "provider": (_provider, False),
}


async def _look_at(check: Callable[[], Awaitable[str]], needed: bool) -> Part:
    began = time.monotonic()
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            ok, detail = True, await check()
    except TimeoutError:
        ok, detail = False, f"no answer within {LIMIT_SECONDS:.0f} s"
    except PartDown as down:
        ok, detail = False, str(down)
    except (*DATABASE_FAULTS, *REDIS_FAULTS, RedisError) as error:
        ok, detail = False, type(error).__name__
    return Part(ok, detail, round((time.monotonic() - began) * 1000), needed)


async def _parts(names: set[str]) -> dict[str, Part]:
    chosen = {name: PARTS[name] for name in PARTS if name in names}
    found = await asyncio.gather(*(_look_at(*part) for part in chosen.values()))
    return dict(zip(chosen, found, strict=True))


async def live(_request: HttpRequest) -> HttpResponse:
    """The process answers."""
    return JsonResponse({"status": "ok"})


async def ready(_request: HttpRequest) -> HttpResponse:
    """What a turn can't do without is there."""
    parts = await _parts({"database", "redis"})
    ok = all(part.ok for part in parts.values())
    return JsonResponse({"status": "ok" if ok else "unavailable"}, status=200 if ok else 503)


async def overview(request: HttpRequest) -> HttpResponse:
    """Each part's state; how and why only for those who operate the site."""
    parts = await _parts(set(PARTS))
    ok = all(part.ok for part in parts.values() if part.needed)
    degraded = not all(part.ok for part in parts.values())
    answer: dict[str, Any] = {
        "status": "unavailable" if not ok else "degraded" if degraded else "ok",
        "provider": "demo" if settings.PROVIDER_IS_DEMO else "connected",
        "parts": {name: {"ok": part.ok} for name, part in parts.items()},
    }
    if parts["database"].ok and await _may_see_details(request):
        answer["parts"] = {name: asdict(part) for name, part in parts.items()}
    return JsonResponse(answer, status=200 if ok else 503)


async def _may_see_details(request: HttpRequest) -> bool:
    if _has_metrics_token(request):
        return True
    user = await request.auser()
    return await db(allowed)(user, "health.details")


def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus' figures of all processes; for loopback, or with METRICS_TOKEN as bearer."""
    if not (_has_metrics_token(request) or _is_loopback(request)):
        return HttpResponseForbidden("Metrics are for loopback or a bearer of METRICS_TOKEN.\n")
    _refresh_figures()
    response: HttpResponse = ExportToDjangoView(request)
    return response


def _refresh_figures() -> None:
    try:
        figures.refresh()
        holds.refresh_figures()
        purge.refresh_figures(timezone.now())
    except DATABASE_FAULTS as error:
        # The other figures are asked for all the more while the database is away.
        logger.warning("figures_unknown", fault=type(error).__name__)


def _has_metrics_token(request: HttpRequest) -> bool:
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return bool(settings.METRICS_TOKEN) and hmac.compare_digest(
        given.encode(), settings.METRICS_TOKEN.encode()
    )


def _is_loopback(request: HttpRequest) -> bool:
    """Whether the request came straight from this machine, not through a proxy on it."""
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    try:
        return ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False
