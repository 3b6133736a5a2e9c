"""Following a reply as text: from the beginning, whoever writes it and whenever one comes."""

import asyncio
import threading

import pytest

from accounts.tokens import make_token
from chatbot.database import db
from conversations.doors import asking
from conversations.models import Message
from conversations.reply.runner import ReplyRunner
from conversations.turn import TextArrived, ThinkingArrived
from prompts import routing
from prompts.provider import ThinkingPiece

from .conftest import ScriptedProvider

pytestmark = pytest.mark.django_db(transaction=True)
State = Message.State


@pytest.fixture
async def here(transactional_db, monkeypatch):
    """A runner of this loop whose provider says what a test tells it."""
    made = ReplyRunner()
    monkeypatch.setattr(asking, "runner", lambda: made)

    def says(*script) -> None:
        provider = ScriptedProvider(*script)
        monkeypatch.setattr(routing, "stream", provider.stream)

    made.says = says
    yield made
    await made.drain(0)


@pytest.fixture
def question(olive) -> asking.Asking:
    made = make_token(olive, name="test", scopes=["chat"], lasts=None, by=olive)
    made.token.user = olive
    assert olive.roles
    return asking.Asking(made.token, "Hello?")


async def told_of(reply_id, *, wait: asyncio.Event | None = None) -> tuple[str, str, Message]:
    text = thinking = ""
    async with asyncio.timeout(20):
        async for one in asking.follow(reply_id):
            if isinstance(one, Message):
                return text, thinking, one
            if isinstance(one, TextArrived):
                text += one.text
            elif isinstance(one, ThinkingArrived):
                thinking += one.text
    raise AssertionError("the story has no end")


async def test_all_that_follow_are_told_the_same_from_the_beginning(here, question):
    here.says(ThinkingPiece("Hm."), "One ", 0.1, "two ", 0.1, "three.")
    turn = await asking.begin(question)
    early = asyncio.create_task(told_of(turn.reply.pk))
    await asyncio.sleep(0.15)
    late = await told_of(turn.reply.pk)
    afterwards = await told_of(turn.reply.pk)
    for text, thinking, reply in (await early, late, afterwards):
        assert (text, thinking) == ("One two three.", "Hm.")
        assert reply.state == State.COMPLETED
        assert reply.content == text


async def test_reply_of_another_process_is_told_from_its_snapshots(here, begin):
    turn = await db(begin)("Hello?")
    following = asyncio.create_task(told_of(turn.reply.pk))
    for text, state in (("One ", State.STREAMING), ("One two.", State.COMPLETED)):
        await asyncio.sleep(0.1)
        sealed = Message.content.sealed(turn.reply, text)
        await db(Message.objects.filter(pk=turn.reply.pk).update)(
            content_sealed=sealed, state=state
        )
    text, _, reply = await following
    assert text == reply.content == "One two."


async def test_client_that_leaves_while_the_turn_begins_leaves_no_orphan(
    here, question, monkeypatch
):
    here.says("One two.")
    began, go_on = asyncio.Event(), threading.Event()
    loop, start = asyncio.get_running_loop(), asking._start

    def slow_start(*given):
        loop.call_soon_threadsafe(began.set)
        go_on.wait(10)
        return start(*given)

    monkeypatch.setattr(asking, "_start", slow_start)
    launch, launched = here.launch, asyncio.Event()
    monkeypatch.setattr(here, "launch", lambda *run: (launch(*run), launched.set()))
    request = asyncio.create_task(asking.begin(question))
    await began.wait()
    request.cancel()
    await asyncio.wait({request})
    go_on.set()
    async with asyncio.timeout(10):
        await launched.wait()
    await here.finish_replies(10)
    assert (await db(Message.objects.get)(role="assistant")).state == State.COMPLETED


async def test_silence_is_told_as_pauses(here, question):
    here.says("One ", 0.2, "two.")
    turn = await asking.begin(question)
    told = [one async for one in asking.with_pauses(asking.follow(turn.reply.pk), 0.05)]
    assert None in told
    assert isinstance(told[-1], Message)


async def test_who_stops_following_is_forgotten(here, question):
    here.says("One ", 0.3, "two.")
    turn = await asking.begin(question)
    story = asking.follow(turn.reply.pk)
    await anext(story)
    (run,) = here._runs.values()
    assert len(run.delivery._listeners) == 1
    await story.aclose()
    assert not run.delivery._listeners
