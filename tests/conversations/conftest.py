"""Conversations, and a provider that says what a test tells it to."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence

import pytest
from django.db.models.functions import Now

from accounts.models import User
from conversations.models import Conversation, Message, Runner
from conversations.turn import Turn, start_turn
from prompts.provider import Finished, Piece, ProviderFault, TextPiece, Usage


class ScriptedProvider:
    """Yields its script: texts, pieces, faults to raise, or seconds to wait."""

    def __init__(self, *script: str | float | Piece | ProviderFault) -> None:
        self.script = script
        self.asked: list[Sequence[dict[str, str]]] = []
        self.closed = False

    async def stream(self, messages, *, model: str) -> AsyncGenerator[Piece, None]:
        self.asked.append(messages)
        try:
            for step in self.script:
                if isinstance(step, ProviderFault):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield TextPiece(step) if isinstance(step, str) else step
            if not self.script or not isinstance(self.script[-1], Finished):
                yield Finished("stop", model, Usage(7, 0, 3))
        finally:
            self.closed = True


@pytest.fixture
def runner_row(db: None) -> Runner:
    return Runner.objects.create(host="here", pid=1, beat_at=Now())


@pytest.fixture
def begin(olive: User, runner_row: Runner) -> Callable[..., Turn]:
    """Start a turn of olive's, in a new conversation or a given one."""

    def start(
        text: str = "Hello?", conversation: Conversation | None = None, key: str = "", by=None
    ) -> Turn:
        return start_turn(
            conversation.pk if conversation else uuid.uuid4(),
            by=by or olive,
            text=text,
            key=key or uuid.uuid4().hex,
            runner_id=runner_row.pk,
        )

    return start


@pytest.fixture
def finished(begin: Callable[..., Turn]) -> Callable[..., Turn]:
    """A turn whose reply has ended."""

    def make(text: str = "Hello?", reply: str = "Hi.", **given) -> Turn:
        turn = begin(text, **given)
        turn.reply.content = reply
        turn.reply.state = Message.State.COMPLETED
        turn.reply.duration_ms = 1200
        turn.reply.save()
        return turn

    return make
