"""The log against a real Redis: what is appended once is read once, in order, from any place."""

import asyncio
import uuid
from contextlib import aclosing
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.encryption import SealKey
from conversations.keyring import KeyDay
from conversations.reply import log as module
from conversations.reply.log import (
    KEPT_SECONDS,
    Cursor,
    FencedOut,
    Frame,
    Gap,
    Hub,
    Log,
    connect,
    key_of,
)

START = Cursor(0, 0)
numbers = st.integers(min_value=0, max_value=10**18 - 1)


@pytest.fixture
async def redis():
    client = connect()
    yield client
    await client.aclose()


@pytest.fixture
def log(redis) -> Log:
    return Log(redis)


@pytest.fixture
async def hub(redis):
    blocking = connect(blocking=True)
    made = Hub(redis, blocking)
    yield made
    await made.close()
    await blocking.aclose()


@pytest.fixture
def talk() -> uuid.UUID:
    """A conversation that nobody wrote in yet."""
    return uuid.uuid4()


def frames(fence: int, *wanted: int) -> list[Frame]:
    return [Frame(Cursor(fence, number), f"<p>{fence}:{number}</p>") for number in wanted]


def key(talk: uuid.UUID) -> SealKey:
    return SealKey(talk, KeyDay(1, datetime.now(UTC).date()))


async def append(log: Log, talk: uuid.UUID, *written: Frame) -> None:
    for frame in written:
        await log.append(key(talk), frame)


async def read(
    hub: Hub, talk: uuid.UUID, count: int, after: Cursor = START, *, seconds: float = 20, **how
) -> list[Frame]:
    """Return so many frames behind `after`."""
    found: list[Frame] = []
    how.setdefault("known", after)
    async with asyncio.timeout(seconds), aclosing(hub.follow(talk, after, **how)) as batches:
        async for batch in batches:
            found += batch
            if len(found) >= count:
                break
    return found


# --- cursors ---------------------------------------------------------------------------------


@given(numbers, numbers)
def test_a_cursor_reads_what_it_writes(fence, number):
    assert Cursor.parse(str(Cursor(fence, number))) == Cursor(fence, number)


@given(st.text())
def test_what_is_no_cursor_is_refused(text):
    try:
        cursor = Cursor.parse(text)
    except ValueError:
        return
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize("text", ["", ":", "1:", ":1", "-1:0", "1:2:3", "٣:1", "1:" + "9" * 19])
def test_malformed_cursors_are_refused(text):
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.parse(text)


# --- following -------------------------------------------------------------------------------


async def test_frames_arrive_in_order_and_once(log, hub, talk):
    written = frames(1, *range(300))
    reading = asyncio.create_task(read(hub, talk, 300))
    await append(log, talk, *written)
    assert await reading == written


async def test_a_late_reader_gets_everything(log, hub, talk):
    written = frames(1, *range(50))
    await append(log, talk, *written)
    assert await read(hub, talk, 50, known=Cursor(1, 30)) == written


@pytest.mark.parametrize("last", [0, 1, 17, 48])
async def test_a_reader_goes_on_behind_its_last_frame(log, hub, talk, last):
    written = frames(1, *range(50))
    await append(log, talk, *written[:40])
    reading = asyncio.create_task(read(hub, talk, 49 - last, Cursor(1, last), known=Cursor(1, 48)))
    await append(log, talk, *written[40:])
    assert await reading == written[last + 1 :]


async def test_readers_at_different_places_get_each_their_own(log, hub, talk):
    written = frames(1, *range(40))
    await append(log, talk, *written[:20])
    first = asyncio.create_task(read(hub, talk, 40))
    second = asyncio.create_task(read(hub, talk, 20, Cursor(1, 19)))
    third = asyncio.create_task(read(hub, talk, 35, Cursor(1, 4)))
    await append(log, talk, *written[20:])
    assert await first == written
    assert await second == written[20:]
    assert await third == written[5:]


async def test_a_new_log_is_taken_up_while_the_hub_waits_for_others(log, hub, talk, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_MS", 0)  # for ever: only the wake-up ends it
    other = uuid.uuid4()
    waiting = asyncio.create_task(read(hub, other, 2))
    await append(log, other, *frames(1, 0))
    reading = asyncio.create_task(read(hub, talk, 3))
    await append(log, talk, *frames(1, 0, 1, 2))
    assert await reading == frames(1, 0, 1, 2)
    await append(log, other, *frames(1, 1))
    assert await waiting == frames(1, 0, 1)


async def test_a_reader_that_left_is_not_in_the_way_of_the_next(log, hub, talk):
    await append(log, talk, *frames(1, 0, 1))
    assert await read(hub, talk, 2) == frames(1, 0, 1)
    await append(log, talk, *frames(1, 2))
    assert await read(hub, talk, 1, Cursor(1, 1)) == frames(1, 2)


async def test_the_next_run_follows(log, hub, talk):
    await append(log, talk, *frames(1, 0, 1), *frames(2, 0, 1))
    assert await read(hub, talk, 3, Cursor(1, 0)) == frames(1, 1) + frames(2, 0, 1)


# --- gaps ------------------------------------------------------------------------------------


async def test_a_missing_frame_is_a_gap(log, hub, talk, redis):
    await append(log, talk, *frames(1, *range(5)))
    await redis.xdel(key_of(talk), "1-2")
    with pytest.raises(Gap):
        await read(hub, talk, 5)


async def test_a_frame_that_goes_missing_while_reading_is_a_gap(log, hub, talk):
    reading = asyncio.create_task(read(hub, talk, 5))
    await append(log, talk, *frames(1, 0, 1, 3))
    with pytest.raises(Gap):
        await reading


@pytest.mark.parametrize("after", [Cursor(1, 7), Cursor(99, 0)], ids=["number", "fence"])
async def test_a_cursor_behind_the_end_is_a_gap(log, hub, talk, after):
    await append(log, talk, *frames(1, 0, 1, 2))
    with pytest.raises(Gap):
        await read(hub, talk, 1, after, known=Cursor(1, 2))


async def test_a_lost_log_is_a_gap_when_the_database_knows_more(hub, talk):
    with pytest.raises(Gap):
        await read(hub, talk, 1, Cursor(1, 3), known=Cursor(1, 9))


async def test_a_lost_log_is_no_gap_for_who_knows_all(log, hub, talk):
    reading = asyncio.create_task(read(hub, talk, 1, Cursor(1, 9)))
    await asyncio.sleep(0)
    await append(log, talk, *frames(1, 10))
    assert await reading == frames(1, 10)


async def test_a_database_ahead_of_the_log_is_no_gap(log, hub, talk):
    await append(log, talk, *frames(1, 0, 1, 2))
    reading = asyncio.create_task(read(hub, talk, 1, Cursor(1, 4)))
    await append(log, talk, *frames(1, 3, 4, 5))
    assert await reading == frames(1, 5)


async def test_a_cursor_that_leads_nowhere_does_not_hold_up_other_readers(
    log, hub, talk, redis, monkeypatch
):
    await append(log, talk, *frames(1, 0))
    newest, both_attached = redis.xrevrange, asyncio.Event()

    async def held(*given, **named):
        await both_attached.wait()
        return await newest(*given, **named)

    monkeypatch.setattr(redis, "xrevrange", held)
    lost = asyncio.create_task(read(hub, talk, 1, Cursor(99, 0), known=Cursor(1, 0)))
    reading = asyncio.create_task(read(hub, talk, 1, Cursor(1, 0)))
    await asyncio.sleep(0.05)
    both_attached.set()
    with pytest.raises(Gap):
        await lost
    await asyncio.sleep(0.05)
    await append(log, talk, *frames(1, 1))
    assert await reading == frames(1, 1)


# --- appending -------------------------------------------------------------------------------


async def test_appending_twice_is_appending_once(log, hub, talk):
    await append(log, talk, *frames(1, 0, 1), *frames(1, 0, 1), *frames(1, 2))
    assert await read(hub, talk, 3) == frames(1, 0, 1, 2)


async def test_a_run_that_was_overtaken_can_not_append(log, hub, talk):
    await append(log, talk, *frames(1, 0, 1), *frames(2, 0))
    with pytest.raises(FencedOut):
        await append(log, talk, *frames(1, 2))
    assert await read(hub, talk, 3) == frames(1, 0, 1) + frames(2, 0)


async def test_runs_older_than_the_one_before_are_dropped(log, hub, talk, redis):
    await append(log, talk, *frames(1, *range(300)), *frames(2, 0, 1), *frames(3, 0))
    # Redis drops whole nodes of about a hundred entries.
    assert await redis.xlen(key_of(talk)) < 200
    assert await read(hub, talk, 2, Cursor(2, 0)) == frames(2, 1) + frames(3, 0)


async def test_the_log_goes_when_it_was_not_written_for_long(log, talk, redis):
    await log.append(key(talk), *frames(1, 0))
    assert await redis.ttl(key_of(talk)) > KEPT_SECONDS
    await log.append(key(talk), *frames(1, 1), last=True)
    assert 0 < await redis.ttl(key_of(talk)) <= KEPT_SECONDS


async def test_redis_holds_no_words_and_a_moved_frame_does_not_open(log, hub, talk, redis):
    await log.append(key(talk), Frame(Cursor(1, 0), "<p>secret words</p>"))
    [(_, fields)] = await redis.xrange(key_of(talk))
    assert b"secret" not in b"".join(fields.values())
    elsewhere = uuid.uuid4()
    await redis.xadd(key_of(elsewhere), fields, id="1-0")
    with pytest.raises(TimeoutError):
        await read(hub, elsewhere, 1, seconds=0.5)


async def test_a_frame_that_does_not_open_is_a_gap_and_others_go_on(log, hub, talk, redis):
    await append(log, talk, *frames(1, 0))
    await redis.xadd(
        key_of(talk), {b"f": b"\x02 no frame of ours at all, but of some length"}, id="1-1"
    )
    await append(log, talk, *frames(1, 2))
    with pytest.raises(Gap):
        await read(hub, talk, 2)
    other = uuid.uuid4()
    reading = asyncio.create_task(read(hub, other, 1))
    await append(log, other, *frames(1, 0))
    assert await reading == frames(1, 0)
