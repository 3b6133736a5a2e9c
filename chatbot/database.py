"""Database work in async code: one function, one transaction, on a thread pool of its own.

Outside of a request everything thread-sensitive in a process shares a single thread, so 50 replies
would wait for one another. `db()` runs on as many threads as the connection pool has connections.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import structlog
from channels.db import database_sync_to_async
from django.conf import settings
from django.db import DatabaseError, InterfaceError

logger = structlog.get_logger(__name__)

DATABASE_FAULTS = (DatabaseError, InterfaceError)
PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.5

P = ParamSpec("P")
R = TypeVar("R")

_threads: ThreadPoolExecutor | None = None


def _pool() -> ThreadPoolExecutor:
    global _threads  # noqa: PLW0603 - made at first use, so that importing starts no thread
    if _threads is None:
        _threads = ThreadPoolExecutor(settings.DATABASE_POOL_SIZE, thread_name_prefix="db")
    return _threads


def db(function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Make a synchronous function awaitable; its connection goes back to the pool afterwards."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        run = database_sync_to_async(function, thread_sensitive=False, executor=_pool())
        return await run(*args, **kwargs)

    return call


def db_patiently(function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """The same for what must not get lost: tried again for two minutes while the database is away.

    An answer may get lost as well, so `function` must be safe to call twice.
    """

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await db(function)(*args, **kwargs)
            except DATABASE_FAULTS as error:
                if time.monotonic() > give_up_at:
                    raise
                logger.warning("database_awaited", error=type(error).__name__)
                await asyncio.sleep(_PAUSE_SECONDS)

    return call
