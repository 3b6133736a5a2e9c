"""When a process may take others for dead: never sooner than they could have been heard again."""

import asyncio
import time

import pytest
from django.db import OperationalError

from conversations.reply import runner as module
from conversations.reply.runner import ReplyRunner


class Beating(ReplyRunner):
    """A runner that notes when its heart beat and when it looked for the dead."""

    def __init__(self) -> None:
        super().__init__()
        self.beats: list[float] = []
        self.looks: list[float] = []
        self.outage: list[float | Exception] = []

    def beat(self, _row) -> None:
        match self.outage.pop(0) if self.outage else None:
            case Exception() as failure:
                raise failure
            case float() as seconds:
                time.sleep(seconds)
        self.beats.append(time.monotonic())

    async def _reap(self) -> None:
        self.looks.append(time.monotonic())

    async def look_often(self, times: int) -> None:
        """Let the heart beat until it has looked so many times more."""
        wanted = len(self.looks) + times
        beating = asyncio.create_task(self._beat_and_reap())
        async with asyncio.timeout(20):
            while len(self.looks) < wanted:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.005)
        beating.cancel()


@pytest.fixture
def heart(monkeypatch) -> Beating:
    made = Beating()
    monkeypatch.setattr(module, "beat", made.beat)
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(module, "SETTLED_AFTER_SECONDS", 0.1)
    return made


async def test_a_new_process_waits_before_it_takes_others_for_dead(heart):
    began = time.monotonic()
    await heart.look_often(1)
    assert heart.looks[0] - began >= 0.1


@pytest.mark.parametrize(
    "outage", [[0.4], [OperationalError(), 0.4, OperationalError()]], ids=["silent", "refused"]
)
async def test_after_an_outage_others_get_as_long_again(heart, outage):
    heart.outage = [0.0, *outage]
    await heart.look_often(1)
    last_before, first_after = max(
        zip(heart.beats, heart.beats[1:], strict=False), key=lambda pair: pair[1] - pair[0]
    )
    moment = 0.05  # until a beat is noted here
    assert heart.looks[0] - first_after >= first_after - last_before - moment


async def test_a_row_that_can_not_be_shown_does_not_stop_the_heart(heart, monkeypatch):
    async def crash(self) -> None:
        heart.looks.append(time.monotonic())
        raise ValueError("a row that does not open")

    monkeypatch.setattr(Beating, "_reap", crash)
    await heart.look_often(3)
