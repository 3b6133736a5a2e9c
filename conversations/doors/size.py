"""Bodies that are too large are refused, and nothing of them is kept.

Django stores a whole body before any view sees the request; so this stands before Django.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any

from django.conf import settings

from conversations.doors.chat_completions import error_of
from conversations.doors.problems import MEDIA_TYPE, Problem

DOORS = ("/chat", "/api/", "/v1/")
LINGER_SECONDS = 5.0


class _TooLarge(Exception):
    """More arrived than a request may have."""


def bounded(application: Any) -> Any:
    """Wrap an ASGI application: at the doors for programs no body is larger than Django's limit.

    A body that says its length is refused at once; one that does not, as soon as it is too large.
    """

    async def bounding(scope: Any, receive: Any, send: Any) -> None:
        most: int | None = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        if most is None or not scope["path"].startswith(DOORS):
            await application(scope, receive, send)
            return
        if _said_length(scope) > most:
            await _refuse(scope["path"], receive, send)
            return
        try:
            await application(scope, _counting(receive, most), send)
        except _TooLarge:
            await _refuse(scope["path"], receive, send)

    return bounding


def _said_length(scope: Any) -> int:
    said = dict(scope["headers"]).get(b"content-length", b"")
    return int(said) if said.isdigit() else 0


def _counting(receive: Any, most: int) -> Any:
    read = 0

    async def counting() -> Any:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            raise _TooLarge
        return message

    return counting


async def _refuse(path: str, receive: Any, send: Any) -> None:
    problem = Problem("too_long")
    is_openai = path.startswith("/v1/")
    body = json.dumps(error_of(problem) if is_openai else problem.document()).encode()
    headers = {
        **problem.headers(),
        "Content-Type": "application/json" if is_openai else MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
    }
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.kind.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    # Many clients read no answer before they have sent all: to close on them at once would lose it.
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            await _forget_the_rest(receive)
    await send({"type": "http.response.body"})


async def _forget_the_rest(receive: Any) -> None:
    """Take what is still on its way, and keep nothing of it."""
    while (await receive()).get("more_body"):
        pass
