"""Servers that do not answer: for some seconds nobody in the process waits for them again."""

import time

AWAY_SECONDS = 5.0


class Away:
    """Whether a server counts as away. One for the process and what it is asked for."""

    def __init__(self) -> None:
        self._until = 0.0

    def is_now(self) -> bool:
        """Whether it did not answer some seconds ago, and is not to be asked yet."""
        return time.monotonic() < self._until

    def notice(self) -> None:
        """Note that it did not answer just now."""
        self._until = time.monotonic() + AWAY_SECONDS

    def forget(self) -> None:
        """Let it be asked again at once."""
        self._until = 0.0
