"""What each process reads from the database now and then, so that a turn costs no query for it.

What was changed holds at once in the process that changed it, in all others within KEPT_SECONDS.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db import transaction

KEPT_SECONDS = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Read(Generic[T]):
    value: T
    until: float


class Kept(Generic[T]):
    """The value that `load` gives, at most KEPT_SECONDS old.

    `load` gets the value that is now too old, or None. Several threads may load at once: one that
    waited for another's query, with a connection in hand, could wait for ever.
    """

    def __init__(self, load: Callable[[T | None], T]) -> None:
        self._load = load
        self._read: _Read[T] | None = None
        self._forgotten = 0

    def get(self) -> T:
        """Return the value; raises what `load` raises."""
        read, forgotten = self._read, self._forgotten
        if read is None or time.monotonic() > read.until:
            value = self._load(read.value if read else None)
            read = _Read(value, time.monotonic() + KEPT_SECONDS)
            # What was forgotten meanwhile may have been read before the change.
            if forgotten == self._forgotten:
                self._read = read
        return read.value

    def forget(self) -> None:
        """Let this process load anew at the next call."""
        self._forgotten += 1
        self._read = None

    def forget_when_committed(self, **_signal: Any) -> None:
        """Forget now, for this transaction, and once others can see what it changed."""
        self.forget()
        transaction.on_commit(self.forget)
