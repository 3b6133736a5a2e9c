"""The cache, which may be away: what it holds can be had elsewhere, so nothing waits for it."""

from collections.abc import Callable
from typing import Any

import structlog
from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError

logger = structlog.get_logger(__name__)


class TolerantRedisCache(RedisCache):
    """Django's Redis cache that is empty, instead of an error, while Redis is away.

    Sessions are then read from PostgreSQL. Limits on sign-in attempts count nothing meanwhile:
    people can go on working, and the password hash still makes guessing slow.
    """

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
