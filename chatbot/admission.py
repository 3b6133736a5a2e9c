"""How many pages a process makes at once: the others wait their turn, or are sent away politely.

A synchronous view holds a thread and a database connection until its page is made. Were all of a
crowd let in, its threads would slow one another down, and those without a connection would fail
after ten seconds, while replies wait for connections too. So half of the connections are for pages.
Who waits here costs no thread, and who waits too long is told when to come again.

Asynchronous views do not pass here: they wait for replies, and ask the database in their own queue
(`chatbot.database`). Nor do bodies that are streamed, once they have begun.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog
from asgiref.sync import iscoroutinefunction
from csp.utils import build_policy
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.urls import Resolver404, resolve

PATIENCE_SECONDS = 15.0
RETRY_AFTER_SECONDS = 5

logger = structlog.get_logger(__name__)


class AdmittingHandler(ASGIHandler):
    """Django's handler, with a queue before its synchronous views."""

    def __init__(self) -> None:
        super().__init__()
        self._places = asyncio.Semaphore(max(1, settings.DATABASE_POOL_SIZE // 2))

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        """Answer a request, once there is a place; with 503 if none comes free in time."""
        if _is_asynchronous(request):
            return await super().get_response_async(request)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            logger.warning("page_not_admitted", path=request.path_info)
            return _too_many_readers()
        try:
            return await _to_the_end(super().get_response_async(request))
        finally:
            self._places.release()


async def _to_the_end(answering: Coroutine[Any, Any, HttpResponseBase]) -> HttpResponseBase:
    """Wait for an answer, also when its reader goes away: its thread can't be stopped."""
    task = asyncio.ensure_future(answering)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _is_asynchronous(request: HttpRequest) -> bool:
    try:
        return iscoroutinefunction(resolve(request.path_info).func)
    except Resolver404:
        return False


def _too_many_readers() -> HttpResponse:
    """Return a page that needs no thread and no database; no middleware will see it."""
    return HttpResponse(
        render_to_string("503.html"),
        status=503,
        headers={
            "Retry-After": str(RETRY_AFTER_SECONDS),
            "Cache-Control": "no-store",
            "Content-Security-Policy": build_policy(),
            "Referrer-Policy": settings.SECURE_REFERRER_POLICY,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": settings.X_FRAME_OPTIONS,
        },
    )
