"""Database work in async code: one function, one transaction, on a thread pool of its own.

Outside of a request everything thread-sensitive in a process shares a single thread, so 50 replies
would wait for one another. `db()` runs on as many threads as the connection pool has connections.
"""

from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from channels.db import database_sync_to_async
from django.conf import settings

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
