"""The providers' keys, by the names of their secrets: kept for a minute, never stored or logged."""

import asyncio
import time

import structlog
from django.core.exceptions import ImproperlyConfigured

from chatbot.secrets import read_secret

logger = structlog.get_logger(__name__)

KEPT_SECONDS = 60.0

_kept: dict[str, tuple[float, str]] = {}


async def key_of(secret_name: str) -> str:
    """Return the key, or an empty one where none is given: many local servers need none.

    Files and AWS Secrets Manager are read on a thread, at most once a minute. When they can't be
    read the last key stays good, an empty one at first, and the log says so.
    """
    known = _kept.get(secret_name)
    if known and time.monotonic() < known[0]:
        return known[1]
    try:
        key = await asyncio.to_thread(read_secret, secret_name, "")
    except ImproperlyConfigured as error:
        logger.error("key_unreadable", secret=secret_name, error=str(error))
        key = known[1] if known else ""
    _kept[secret_name] = (time.monotonic() + KEPT_SECONDS, key)
    return key


def forget_key(secret_name: str) -> None:
    """Read the key anew the next time, because a server refused it: it may have been exchanged."""
    _kept.pop(secret_name, None)
