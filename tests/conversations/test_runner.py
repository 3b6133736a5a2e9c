"""A reply from its launch to its row and its last frame: a scripted provider, real servers."""

import asyncio
from contextlib import aclosing

import pytest

from chatbot.database import db
from conversations.models import Message, Runner
from conversations.reply import fragments
from conversations.reply.delivery import Delivery
from conversations.reply.log import Cursor
from conversations.reply.runner import ReplyRunner
from conversations.turn.working_context import recalled
from prompts import routing
from prompts.provider import ProviderFault

from .conftest import ScriptedProvider

pytestmark = pytest.mark.django_db(transaction=True)
State = Message.State


@pytest.fixture
async def here(transactional_db, monkeypatch):
    """A runner of this loop, and a way to set what its provider says."""
    made = ReplyRunner()
    await made.ready()

    def says(*script) -> ScriptedProvider:
        provider = ScriptedProvider(*script)
        monkeypatch.setattr(routing, "stream", provider.stream)
        return provider

    made.says = says
    says("Hello ", "there.")
    yield made
    await made.drain(0)


async def launched(here, begin):
    turn = await db(begin)("Hello?")
    await db(Message.objects.filter(pk=turn.reply.pk).update)(runner_id=here.row.pk)
    here.launch(turn, await db(fragments.turn_started)(turn))
    return turn


async def ended(here, turn) -> Message:
    await here.wait_for(turn.reply.pk, seconds=20)
    return await db(Message.objects.get)(pk=turn.reply.pk)


async def frames_of(here, turn, count: int) -> list:
    found: list = []
    start = Cursor(0, 0)
    async with (
        asyncio.timeout(10),
        aclosing(here.hub.follow(turn.conversation.pk, start, known=start)) as batches,
    ):
        async for batch in batches:
            found += batch
            if len(found) >= count:
                return found
    return found


async def title_of(conversation) -> str:
    """Wait for the title, which comes a moment after the reply."""
    for _ in range(200):
        await db(conversation.refresh_from_db)()
        if conversation.title_sealed:
            break
        await asyncio.sleep(0.02)
    return conversation.title


async def test_a_reply_ends_in_its_row_and_in_the_log(here, begin):
    turn = await launched(here, begin)
    reply = await ended(here, turn)
    assert (reply.state, reply.content) == (State.COMPLETED, "Hello there.")
    assert (reply.tokens_in, reply.tokens_out) == (7, 3)
    frames = await frames_of(here, turn, reply.cursor + 1)
    assert [frame.cursor for frame in frames[: reply.cursor + 1]] == [
        Cursor(1, number) for number in range(reply.cursor + 1)
    ]
    assert "Hello?" in frames[0].html
    assert "Reply finished." in frames[reply.cursor].html


async def test_a_fault_keeps_the_text_and_says_why(here, begin):
    here.says("Once upon", ProviderFault("cut"))
    reply = await ended(here, await launched(here, begin))
    assert (reply.state, reply.fault, reply.content) == (State.FAILED, "cut", "Once upon")


async def test_a_stop_from_another_process_arrives(here, begin):
    provider = here.says("Once", 30.0)
    turn = await launched(here, begin)
    await frames_of(here, turn, 2)
    other = ReplyRunner()
    await other.ready()
    await other.stop(await db(Message.objects.get)(pk=turn.reply.pk))
    reply = await ended(here, turn)
    assert (reply.state, reply.content, provider.closed) == (State.STOPPED, "Once", True)
    await other.drain(0)


async def test_a_drain_lets_short_replies_end_and_interrupts_long_ones(here, begin):
    here.says("Short ", 0.2, "reply.")
    short = await launched(here, begin)
    await here.finish_replies(5)
    assert (await ended(here, short)).state == State.COMPLETED
    here.says("Long ", 60.0, "reply.")
    long = await launched(here, begin)
    await here.finish_replies(0.3)
    reply = await ended(here, long)
    assert (reply.state, reply.fault) == (State.INTERRUPTED, "restarted")
    assert reply.content in {"", "Long "}


async def test_a_crash_of_ours_closes_the_row_and_keeps_the_text(here, begin, monkeypatch):
    def crash(*_args, **_named):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Delivery, "_cut", crash)
    reply = await ended(here, await launched(here, begin))
    assert (reply.state, reply.fault, reply.content) == (State.FAILED, "internal", "Hello there.")


async def test_the_first_reply_brings_a_title(here, begin):
    turn = await launched(here, begin)
    await ended(here, turn)
    assert await title_of(turn.conversation) == "Hello there"


async def test_a_process_that_beats_is_known(here):
    assert await db(Runner.objects.filter(pk=here.row.pk).exists)()


async def test_a_conversation_whose_first_reply_failed_is_named_after_its_question(here, begin):
    here.says(ProviderFault("unreachable"))
    turn = await launched(here, begin)
    await ended(here, turn)
    assert await title_of(turn.conversation) == "Hello?"


async def test_the_next_turn_finds_its_history_in_redis(here, begin):
    turn = await launched(here, begin)
    await ended(here, turn)
    await title_of(turn.conversation)  # which is made after the branch is kept
    kept = await db(recalled)(turn.conversation.pk)
    assert [message.content for message in kept.branch] == ["Hello?", "Hello there."]
    following = await db(begin)("And then?", turn.conversation)
    assert [message.pk for message in following.call.earlier] == [turn.question.pk, turn.reply.pk]
