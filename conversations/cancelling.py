"""Ending tasks for good."""

import asyncio
from collections.abc import Iterable
from typing import Any


async def cancelled(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel tasks and return when they have ended.

    redis-py sends inside `asyncio.wait_for`, and that of Python 3.11 loses a cancellation which
    comes at the moment the sending is done; so one may not be enough.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.05)
