"""That a turn can't begin, told to the person who wanted it."""

import uuid
from datetime import UTC, datetime, timedelta

from accounts.models import User
from audit.trail import record_sparingly
from chatbot import telemetry

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


def note_refusal(refusal: Refusal, *, by: User, conversation_id: uuid.UUID | None) -> None:
    """Count and record that a turn was refused. Doors call it: what was begun is rolled back then.

    One entry a minute for each person and code, with a count.
    """
    telemetry.turns_refused.labels(refusal.code).inc()
    target = ("conversations.conversation", str(conversation_id)) if conversation_id else None
    record_sparingly(by, "turn.refused", target, outcome="denied", reason=refusal.code)
