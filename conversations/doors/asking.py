"""A turn asked for by a program: begun, followed as plain text, and read when it has ended.

The reply belongs to this process and not to the request: it goes on when the client goes away, and
can be read afterwards.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from uuid_utils.compat import uuid7

from accounts.models import ApiToken
from chatbot.database import db
from conversations.cancelling import cancelled
from conversations.doors.problems import Problem
from conversations.models import Conversation, Message
from conversations.reply import fragments
from conversations.reply.runner import runner
from conversations.turn import (
    Program,
    Refusal,
    TextArrived,
    ThinkingArrived,
    Turn,
    start_turn,
)
from conversations.turn.limits import check, rate_limit_fields
from conversations.turn.opening import checked_question
from conversations.turn.refusal import note_refusal
from conversations.turn.titles import first_words

SNAPSHOTS_SECONDS = 0.5

# Keys are the callers' own; the ids that are made of them must not meet across accounts.
_SESSIONS = uuid.UUID("6f1d1f3e-52c1-4b3c-9a68-0f7d7a1f0c55")


@dataclass(frozen=True, slots=True)
class Asking:
    """A question of a program. Without `session_id` a new session begins.

    `is_titled` gives a new session its title out of the question, without asking a model.
    """

    token: ApiToken
    text: str
    key: str = ""
    session_id: uuid.UUID | None = None
    program: Program | None = None
    is_titled: bool = False

    @property
    def conversation_id(self) -> uuid.UUID:
        """The session's id; for a new one with a key always the same, so that a retry finds it."""
        if self.session_id:
            return self.session_id
        if self.key:
            return uuid.uuid5(_SESSIONS, f"{self.token.user_id}/{self.key}")
        return uuid7()


async def admit(token: ApiToken) -> dict[str, str]:
    """Count a turn against the limits and return the fields that tell how they stand.

    Raises Refusal.
    """
    try:
        return rate_limit_fields(await check(token.user, token_id=token.pk))
    except Refusal as refusal:
        await db(note_refusal)(refusal, by=token.user, conversation_id=None)
        raise


async def begin(asking: Asking) -> Turn:
    """Store the question and launch its reply, or return the turn that its key has begun before.

    Raises Refusal, Denied, Problem, and Conversation.DoesNotExist for a session that is not there.
    """
    await runner().ready()
    # A client that goes away in this moment must not leave an open reply that nobody writes.
    try:
        return await asyncio.shield(_begin(asking))
    except Refusal as refusal:
        user, session_id = asking.token.user, asking.session_id
        await db(note_refusal)(refusal, by=user, conversation_id=session_id)
        raise


async def _begin(asking: Asking) -> Turn:
    turn, opening = await db(_start)(asking, runner().row.pk)
    if turn.is_new:
        runner().launch(turn, opening)
    return turn


def _start(asking: Asking, runner_id: uuid.UUID) -> tuple[Turn, str]:
    user = asking.token.user
    if asking.session_id:
        Conversation.objects.visible_to(user).only("pk").get(pk=asking.session_id)
    turn = start_turn(
        asking.conversation_id,
        by=user,
        text=asking.text,
        key=asking.key or uuid7().hex,
        runner_id=runner_id,
        program=asking.program or Program(asking.token.pk),
    )
    if not turn.is_new:
        asked = turn.question.shown_content
        if asked is not None and asked != checked_question(asking.text).text:
            raise Problem("key_reused")
        return turn, ""
    if asking.is_titled:
        turn.conversation.title = first_words(turn.question.content)
        turn.conversation.save(update_fields=["title_sealed"])
    return turn, fragments.turn_started(turn)


Told = TextArrived | ThinkingArrived | Message


async def follow(reply_id: uuid.UUID) -> AsyncGenerator[Told, None]:
    """Yield a reply's text and thinking from the beginning, and last its row when it is closed.

    What pages are shown is what is told here. A reply that another process writes is told from
    its snapshots, a little later and in bigger pieces. Holds no database connection meanwhile.
    """
    text, thinking = "", ""
    async with aclosing(runner().listen(reply_id)) as events:
        async for event in events:
            if isinstance(event, TextArrived):
                text += event.text
                yield event
            elif isinstance(event, ThinkingArrived):
                thinking += event.text
                yield event
    while True:
        reply = await stored(reply_id)
        if more := _beyond(thinking, reply.shown_thinking):
            thinking += more
            yield ThinkingArrived(more)
        if more := _beyond(text, reply.shown_content or ""):
            text += more
            yield TextArrived(more)
        if not reply.is_open:
            yield reply
            return
        await asyncio.sleep(SNAPSHOTS_SECONDS)


def _beyond(told: str, whole: str) -> str:
    """Return what `whole` has behind what was told; nothing when it is another text."""
    return whole[len(told) :] if whole.startswith(told) else ""


async def stored(reply_id: uuid.UUID) -> Message:
    """Return the reply's row as it is now, with its prompt and feedback. One query."""
    return await db(_stored)(reply_id)


def _stored(reply_id: uuid.UUID) -> Message:
    return Message.objects.select_related(
        "conversation", "prompt_version__template", "refused_by", "feedback"
    ).get(pk=reply_id)


async def ended(reply_id: uuid.UUID, *, within_seconds: float) -> Message:
    """Return the reply's row when it is closed, or as it is after `within_seconds`."""
    try:
        async with asyncio.timeout(within_seconds), aclosing(follow(reply_id)) as told:
            async for one in told:
                if isinstance(one, Message):
                    return one
    except TimeoutError:
        pass
    return await stored(reply_id)


async def with_pauses(
    told: AsyncGenerator[Told, None], seconds: float
) -> AsyncGenerator[Told | None, None]:
    """Yield what is told, and None whenever `seconds` went by in silence."""
    async with aclosing(told):
        waiting = asyncio.create_task(_next(told))
        try:
            while True:
                await asyncio.wait({waiting}, timeout=seconds)
                if not waiting.done():
                    yield None
                    continue
                if (one := waiting.result()) is None:
                    return
                yield one
                waiting = asyncio.create_task(_next(told))
        finally:
            await cancelled({waiting})


async def _next(told: AsyncGenerator[Told, None]) -> Told | None:
    return await anext(told, None)
