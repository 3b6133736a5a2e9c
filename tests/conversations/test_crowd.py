"""Crowds: of posts at once exactly as many turns begin as the limit allows; readers get answers.

    CROWD=1000 python -m pytest -n0 tests/conversations/test_crowd.py

sends a thousand at each door; READERS=1000 lets as many ask for pages.
"""

import asyncio
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

import httpx2
import pytest
from django.conf import settings as configured
from django.db.models import Sum
from django.test import Client

from accounts.models import User
from chatbot import admission
from conversations.models import BudgetPlan, BudgetWindow, Message, Reservation

from .doors import secret_of

CROWD = int(os.environ.get("CROWD", "60"))
ALLOWED = 20
PATIENCE_SECONDS = 60.0 + CROWD / 5

pytestmark = pytest.mark.timeout(2 * PATIENCE_SECONDS)

Knock = Callable[[httpx2.AsyncClient, int], "asyncio.Future[httpx2.Response]"]


def by_token(user: User) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret_of(user)}"}


def by_session(user: User) -> dict[str, str]:
    client = Client()
    client.force_login(user)
    session = client.cookies[configured.SESSION_COOKIE_NAME].value
    token = "c" * 32
    cookies = {configured.SESSION_COOKIE_NAME: session, configured.CSRF_COOKIE_NAME: token}
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    return {"Cookie": cookie, "X-CSRFToken": token, "HX-Request": "true"}


def chat(program: httpx2.AsyncClient, number: int):
    return program.post("/chat", json={"user_message": f"Question {number}"})


def completions(program: httpx2.AsyncClient, number: int):
    said = [{"role": "user", "content": f"Question {number}"}]
    return program.post("/v1/chat/completions", json={"model": "default", "messages": said})


def page(person: httpx2.AsyncClient, number: int):
    form = {"text": f"Question {number}", "key": uuid.uuid4().hex}
    return person.post(f"/c/{uuid.uuid4()}/messages", data=form)


DOORS = {"chat": (by_token, chat), "v1": (by_token, completions), "page": (by_session, page)}


@pytest.mark.parametrize(("headers_of", "knock"), DOORS.values(), ids=DOORS)
def test_of_a_crowd_exactly_those_begin_that_the_limit_allows(
    live, olive, simulator, settings, headers_of, knock
):
    settings.RATE_LIMITS = f"user={ALLOWED}/hour"
    BudgetPlan.objects.update_or_create(role=None, defaults={"session_usd": Decimal(1)})
    headers = headers_of(olive)
    answers = asyncio.run(_all_at_once(live.url, headers, knock))
    assert Counter(answer.status_code for answer in answers) == {
        200: ALLOWED,
        429: CROWD - ALLOWED,
    }
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    _wait_until_settled()
    assert Message.objects.filter(role="assistant", state="completed").count() == ALLOWED
    assert Message.objects.count() == 2 * ALLOWED
    settings.RATE_LIMITS = ""
    (answer,) = asyncio.run(_all_at_once(live.url, headers, knock, count=1))
    assert answer.status_code == 200
    _wait_until_settled()


async def _all_at_once(
    url: str, headers: dict[str, str], knock: Knock, count: int = CROWD
) -> list[httpx2.Response]:
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(
        base_url=url, headers=headers, timeout=PATIENCE_SECONDS, limits=limits
    ) as client:
        return await asyncio.gather(*(knock(client, number) for number in range(count)))


def _wait_until_settled() -> None:
    """Return when no reply is open and nothing is held."""
    deadline = time.monotonic() + 20
    while _open():
        assert time.monotonic() < deadline, f"left behind: {_open()}"
        time.sleep(0.05)


def _open() -> list[object]:
    held = BudgetWindow.objects.aggregate(held=Sum("reserved_usd"))["held"]
    return [
        *Message.objects.filter(state="streaming"),
        *Message.objects.exclude(runner=None),
        *Reservation.objects.filter(settled_at=None),
        *([held] if held else []),
    ]


# --- pages ------------------------------------------------------------------------------------

READERS = int(os.environ.get("READERS", "120"))


def by_reader(user: User) -> dict[str, str]:
    return {"Cookie": by_session(user)["Cookie"]}


def read_all_at_once(url: str, user: User, paths: list[str], count: int) -> Counter[int]:
    """Return how often each status was answered; whoever is sent away is told when to come."""

    def read(person: httpx2.AsyncClient, number: int):
        return person.get(paths[number % len(paths)])

    answers = asyncio.run(_all_at_once(url, by_reader(user), read, count=count))
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) >= 1
            assert "load the page again" in answer.text
            assert "default-src" in answer.headers["Content-Security-Policy"]
    return Counter(answer.status_code for answer in answers)


def test_crowd_of_readers_is_answered_and_leaves_the_site_as_it_was(live, olive, finished):
    paths = [finished().conversation.get_absolute_url(), "/"]
    answered = read_all_at_once(live.url, olive, paths, READERS)
    assert answered.keys() <= {200, 503}
    assert answered[200] >= 1
    assert read_all_at_once(live.url, olive, paths, 1) == {200: 1}


def test_readers_who_find_no_place_are_told_when_to_come_again(live, olive, finished, monkeypatch):
    monkeypatch.setattr(admission, "PATIENCE_SECONDS", 0.0)
    paths = [finished().conversation.get_absolute_url(), "/"]
    answered = read_all_at_once(live.url, olive, paths, 60)
    assert answered.keys() == {200, 503}
    # What answers without a page is not kept waiting by pages.
    assert read_all_at_once(live.url, olive, ["/health/live"], 30) == {200: 30}
    monkeypatch.undo()
    assert read_all_at_once(live.url, olive, paths, 2) == {200: 2}


def test_readers_who_go_away_leave_their_places_to_others(live, olive, finished, settings):
    path, headers = finished().conversation.get_absolute_url(), by_reader(olive)

    async def impatient() -> None:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(
            base_url=live.url, headers=headers, timeout=0.05, limits=limits
        ) as person:
            asked = (person.get(path) for _ in range(4 * settings.DATABASE_POOL_SIZE))
            await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(impatient())
    assert read_all_at_once(live.url, olive, [path], settings.DATABASE_POOL_SIZE) == {
        200: settings.DATABASE_POOL_SIZE
    }
