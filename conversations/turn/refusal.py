"""That a turn can't begin, told to the person who wanted it."""

from datetime import UTC, datetime, timedelta

LONGEST_WAIT_SECONDS = 600


class Refusal(Exception):
    """A turn can't begin. `sentence` tells the person what holds and what to do.

    `retry_after` is the number of seconds after which the same may succeed, where that is known.
    """

    def __init__(
        self, code: str, headline: str, sentence: str, *, retry_after: float | None = None
    ) -> None:
        super().__init__(code)
        self.code, self.headline, self.sentence = code, headline, sentence
        self.retry_after = retry_after

    @property
    def until(self) -> datetime | None:
        """When to try again, where that is soon enough to wait for it."""
        if self.retry_after is None or self.retry_after > LONGEST_WAIT_SECONDS:
            return None
        return datetime.now(UTC) + timedelta(seconds=self.retry_after)
