"""From events to frames: numbered without a hole, in order, whatever Redis and the database do."""

import asyncio
from collections.abc import Callable

import pytest
from django.db import OperationalError
from redis.exceptions import ConnectionError as RedisAway

from accounts.models import User
from conversations.models import Conversation, Message
from conversations.reply import delivery as module
from conversations.reply.delivery import Delivery
from conversations.reply.log import Cursor, FencedOut, Frame
from conversations.reply.markdown import render
from conversations.turn import Progress, TextArrived, ThinkingArrived
from conversations.turn.closing import SaveResult
from prompts.models import PromptTemplate, PromptVersion
from tests.faults.document import Document, parsed

FENCE = 7
MARKDOWN = (
    "# Title\n\nA *paragraph* with [a link](https://example.org).\n\n- one\n- two\n\n"
    "```python\ndef f(x):\n    return x < 1\n```\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\nThe end."
)


class FakeLog:
    """Keeps what is appended; refuses what its script says, one step for each try."""

    def __init__(self, *script: Exception | None) -> None:
        self.script = list(script)
        self.frames: list[Frame] = []
        self.lasts: list[bool] = []

    async def append(self, _conversation_id, frame: Frame, *, last: bool = False) -> None:
        await asyncio.sleep(0)
        if self.script and (refusal := self.script.pop(0)):
            raise refusal
        self.frames.append(frame)
        self.lasts.append(last)

    @property
    def numbers(self) -> list[int]:
        return [frame.cursor.number for frame in self.frames]


@pytest.fixture
def reply() -> Message:
    """A reply that has just begun, of a conversation that no database knows."""
    conversation = Conversation(owner=User(email="olive@parley.example"))
    version = PromptVersion(template=PromptTemplate(name="General"), number=1)
    made = Message(
        conversation=conversation,
        role=Message.Role.ASSISTANT,
        state=Message.State.STREAMING,
        prompt_version=version,
        fence=FENCE,
    )
    conversation.leaf = made
    return made


@pytest.fixture
def snapshots(monkeypatch) -> list[Progress]:
    """What is stored while the reply is written; nothing goes to a database."""
    stored: list[Progress] = []

    def save(_reply, progress: Progress) -> SaveResult:
        stored.append(progress)
        return SaveResult(owned=True, stop_requested=False)

    monkeypatch.setattr(module, "save_progress", save)
    monkeypatch.setattr(module, "SNAPSHOT_SECONDS", 0.03)
    monkeypatch.setattr(module, "FIRST_SNAPSHOT_SECONDS", 0.03)
    return stored


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(module, "BASE_INTERVAL_SECONDS", 0.004)
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module, "REDIS_RETRY_SECONDS", 0.005)


class Heard:
    """What a delivery tells its runner."""

    def __init__(self) -> None:
        self.lost, self.stopped = asyncio.Event(), asyncio.Event()


def begun(reply: Message, log: FakeLog, heard: Heard | None = None) -> Delivery:
    heard = heard or Heard()
    made = Delivery(
        reply,
        log,
        active=lambda: 1,
        on_lost=heard.lost.set,
        on_stop=heard.stopped.set,
    )
    made.start("<i>opening</i>")
    return made


async def said(delivery: Delivery, text: str, *, size: int = 5) -> None:
    """Publish a text as a provider would send it."""
    for at in range(0, len(text), size):
        delivery.publish(TextArrived(text[at : at + size]))
        await asyncio.sleep(0.001)


async def until(holds: Callable[[], object]) -> None:
    """Return when `holds()`."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)


async def ended(delivery: Delivery, reply: Message) -> Progress:
    progress = await delivery.finish()
    reply.content, reply.thinking = progress.text, progress.thinking
    reply.state, reply.cursor = Message.State.COMPLETED, progress.cursor
    await delivery.send_last()
    return progress


def page_after(frames: list[Frame]) -> Document:
    """The page on which the reply is being written, after these frames behind the opening."""
    page = Document(
        f'<div id="thread"><div class="reply"><div class="said" id="said-{FENCE}">'
        f'<div id="thinking-{FENCE}" hx-morph-skip></div>'
        f'<div class="prose" id="prose-{FENCE}" hx-morph-skip-children>'
        f'<div id="open-{FENCE}"></div></div></div></div></div>'
    )
    for frame in frames[1:]:
        page.apply(frame.html)
    return page


async def test_frames_are_numbered_without_a_hole_and_build_what_a_reload_shows(reply, snapshots):
    log = FakeLog()
    delivery = begun(reply, log)
    await said(delivery, MARKDOWN)
    progress = await ended(delivery, reply)
    assert progress.text == MARKDOWN
    assert log.numbers == list(range(progress.cursor + 1))
    assert {frame.cursor.fence for frame in log.frames} == {FENCE}
    assert log.frames[0].html == "<i>opening</i>"
    assert log.lasts == [False] * progress.cursor + [True]
    assert page_after(log.frames).prose() == parsed(render(MARKDOWN)).inner_html()


async def test_a_snapshot_holds_what_its_cursor_says(reply, snapshots):
    log = FakeLog()
    delivery = begun(reply, log)
    await said(delivery, MARKDOWN * 3, size=3)
    await ended(delivery, reply)
    assert len(snapshots) > 1
    for stored in snapshots:
        shown = page_after(log.frames[: stored.cursor + 1])
        # The page as far as the cursor is the one that is made from the stored text.
        reply.content, reply.state = stored.text, Message.State.STREAMING
        blocks = module.BlockStream.resume(stored.text)
        again = f'{blocks[1]}<div id="open-{FENCE}">{blocks[2]}</div>'
        assert shown.prose() == parsed(again).inner_html()


async def test_frames_wait_in_order_while_redis_is_away(reply, snapshots):
    away = [RedisAway()] * 6
    log = FakeLog(None, None, *away, None, *away)
    delivery = begun(reply, log)
    await said(delivery, MARKDOWN)
    progress = await ended(delivery, reply)
    assert log.numbers == list(range(progress.cursor + 1))
    assert page_after(log.frames).prose() == parsed(render(MARKDOWN)).inner_html()


async def test_text_that_comes_all_at_once_is_not_lost_by_pacing(reply, snapshots):
    log = FakeLog()
    delivery = begun(reply, log)
    for character in MARKDOWN:
        delivery.publish(TextArrived(character))
    progress = await ended(delivery, reply)
    assert progress.text == MARKDOWN
    assert log.numbers == list(range(progress.cursor + 1))
    assert page_after(log.frames).prose() == parsed(render(MARKDOWN)).inner_html()


async def test_what_was_held_back_is_shown_in_a_pause(reply, snapshots):
    log = FakeLog()
    delivery = begun(reply, log)
    words = "several *words* of one paragraph, a few at *a* time"
    await said(delivery, words)
    await until(lambda: page_after(log.frames).text() == words.replace("*", ""))
    await delivery.finish()


async def test_thinking_grows_beside_the_text(reply, snapshots):
    log = FakeLog()
    delivery = begun(reply, log)
    for word in ("I ", "<think> ", "so."):
        delivery.publish(ThinkingArrived(word))
        await asyncio.sleep(0.01)
    await said(delivery, "Yes.")
    progress = await ended(delivery, reply)
    assert (progress.thinking, progress.text) == ("I <think> so.", "Yes.")
    page = page_after(log.frames)
    assert page.one(f"#thought-{FENCE}").text() == "I <think> so."
    assert page.text() == "Yes."


async def test_a_reply_that_goes_on_begins_behind_its_text(reply, snapshots):
    reply.content = "So far"
    log = FakeLog()
    delivery = begun(reply, log)
    await said(delivery, " and further.")
    assert (await ended(delivery, reply)).text == "So far and further."
    assert log.frames[0].cursor == Cursor(FENCE, 0)


async def test_a_run_that_was_overtaken_in_the_log_says_so(reply, snapshots):
    heard = Heard()
    delivery = begun(reply, FakeLog(None, FencedOut("7:1")), heard)
    delivery.publish(TextArrived("late"))
    async with asyncio.timeout(10):
        await heard.lost.wait()
    assert (await delivery.finish()).text == "late"


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (SaveResult(owned=False, stop_requested=False), "lost"),
        (SaveResult(owned=True, stop_requested=True), "stopped"),
    ],
)
async def test_a_snapshot_tells_that_the_run_is_over(reply, snapshots, monkeypatch, result, told):
    monkeypatch.setattr(module, "save_progress", lambda *_: result)
    heard = Heard()
    delivery = begun(reply, FakeLog(), heard)
    async with asyncio.timeout(10):
        await getattr(heard, told).wait()
    await delivery.finish()


async def test_snapshots_are_tried_again_while_the_database_is_away(reply, snapshots, monkeypatch):
    store, failures = module.save_progress, iter([OperationalError()] * 2)

    def save(*given) -> SaveResult:
        if failure := next(failures, None):
            raise failure
        return store(*given)

    monkeypatch.setattr(module, "save_progress", save)
    delivery = begun(reply, FakeLog())
    await said(delivery, "kept")
    await until(lambda: snapshots)
    assert snapshots[-1].text == "kept"
    await delivery.finish()
