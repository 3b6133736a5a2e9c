"""Wordings that are tried: the guarded call that `prompts.calling` declares."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from accounts.models import User
from chatbot.database import db
from conversations.doors.asking import follow as follow_reply
from conversations.models import Message
from conversations.reply.runner import runner
from conversations.turn import Refusal, TextArrived, Turn
from conversations.turn.completion import prepare
from conversations.turn.faults import sentence_of
from conversations.turn.limits import check
from conversations.turn.refusal import note_refusal
from conversations.turn.trial import start_trial
from prompts.calling import NotTried, Tried, UnknownTrial
from prompts.serving import Wording

__all__ = ["begin", "ended", "follow", "prepare"]


async def begin(wording: Wording, question: str, *, by: User) -> uuid.UUID:
    """Start a reply and return its id. Raises NotTried."""
    await runner().ready()
    try:
        await check(by)
        # Who goes away in this moment must not leave an open reply that nobody writes.
        turn = await asyncio.shield(_launched(wording, question, by))
    except Refusal as refusal:
        await db(note_refusal)(refusal, by=by, conversation_id=None)
        raise NotTried(refusal.headline, refusal.sentence) from refusal
    return turn.reply.pk


async def _launched(wording: Wording, question: str, by: User) -> Turn:
    turn = await db(start_trial)(wording, question, by=by, runner_id=runner().row.pk)
    runner().launch(turn, "")
    return turn


async def follow(trial_id: uuid.UUID, *, by: User) -> AsyncGenerator[str | Tried, None]:
    """Yield the text as it arrives, last what became of it. Raises UnknownTrial."""
    await db(_own)(trial_id, by)
    async with aclosing(follow_reply(trial_id)) as told:
        async for one in told:
            if isinstance(one, TextArrived):
                yield one.text
            elif isinstance(one, Message):
                yield _tried(one)


async def ended(trial_id: uuid.UUID, *, by: User, within_seconds: float) -> Tried:
    """Return what became of it, or how far it is by then. Raises UnknownTrial."""
    try:
        async with asyncio.timeout(within_seconds), aclosing(follow(trial_id, by=by)) as told:
            async for one in told:
                if isinstance(one, Tried):
                    return one
    except TimeoutError:
        pass
    return _tried(await db(_own)(trial_id, by))


def _own(trial_id: uuid.UUID, by: User) -> Message:
    own = Message.objects.filter(conversation__owner=by, conversation__is_trial=True)
    replies = own.filter(role=Message.Role.ASSISTANT).select_related("conversation", "refused_by")
    for reply in replies.filter(pk=trial_id):
        return reply
    raise UnknownTrial(str(trial_id))


def _tried(reply: Message) -> Tried:
    sentence = None if reply.is_open else sentence_of(reply)
    return Tried(
        reply.pk,
        reply.shown_content or "",
        reply.is_open,
        model=reply.model,
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
        is_estimated=reply.usage_estimated,
        cost_usd=reply.cost_usd,
        first_token_ms=reply.first_token_ms,
        duration_ms=reply.duration_ms,
        trouble=f"{sentence.headline} {sentence.rest_for(reply)}" if sentence else "",
    )
