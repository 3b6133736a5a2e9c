"""The cache, which may be away: what it holds can be had elsewhere, so nothing waits for it."""

from collections.abc import Callable
from typing import Any, ClassVar

import structlog
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from redis.exceptions import RedisError

logger = structlog.get_logger(__name__)


class _Client(RedisCacheClient):
    """Keeps its connections for the process: Django makes a cache for every request's thread, and
    connecting anew costs ten times as much as asking for a session."""

    _of_process: ClassVar[dict[tuple[str, ...], dict[int, Any]]] = {}

    def __init__(self, servers: list[str], *arguments: Any, **options: Any) -> None:
        super().__init__(servers, *arguments, **options)
        # The pools may be shared by threads, and connect anew behind a fork.
        self._pools = self._of_process.setdefault(tuple(servers), {})


class TolerantRedisCache(RedisCache):
    """Django's Redis cache that is empty, instead of an error, while Redis is away.

    Sessions are then read from PostgreSQL. Limits on sign-in attempts count nothing meanwhile:
    people can go on working, and the password hash still makes guessing slow.
    """

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = _Client

    def _or(self, without: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except (RedisError, OSError) as error:
            logger.warning("cache_away", error=type(error).__name__)
            return without

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return the value, or `default` when it is not there or Redis is away."""
        return self._or(default, super().get, key, default, version)

    def set(self, *args: Any, **kwargs: Any) -> None:
        """Keep the value, if Redis is there."""
        self._or(None, super().set, *args, **kwargs)

    def add(self, *args: Any, **kwargs: Any) -> bool:
        """Keep the value unless there is one; True, as if nothing had been there, without Redis."""
        return bool(self._or(True, super().add, *args, **kwargs))

    def touch(self, *args: Any, **kwargs: Any) -> bool:
        """Give the value more time; False without Redis."""
        return bool(self._or(False, super().touch, *args, **kwargs))

    def delete(self, *args: Any, **kwargs: Any) -> bool:
        """Forget the value; False without Redis."""
        return bool(self._or(False, super().delete, *args, **kwargs))
