"""Websockets that name a strange place, that may not read, that idle, and many at once."""

import asyncio
import uuid

import pytest
from websockets.asyncio.client import connect as connect_many
from websockets.exceptions import ConnectionClosed

from tests.faults.page import open_socket, wait_until, with_cursor
from tests.faults.site import SHORT_REPLY, controlled_question, long_question
from tests.faults.table import Seen, fault, take_note

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

SIGNED_OUT = fault("A page connects without a session")
ENDED = fault("The session ends while the page is open")
SOMEBODY_ELSES = fault("A page connects to somebody else's conversation")

SOCKETS = 100
IDLE_SECONDS = 10


@pytest.fixture
def talk(site):
    """A page with a finished reply."""
    page = site.page(site.web())
    question = controlled_question(SHORT_REPLY)
    assert page.ask(question.text) == 200
    page.wait_for_end()
    return page


def close_code(base: str, path: str, cookies: str, **how: str) -> int:
    """How the server closes a socket that it does not serve."""
    with open_socket(base, path, cookies, **how) as socket, pytest.raises(ConnectionClosed) as end:
        socket.recv(timeout=10)
    assert end.value.rcvd is not None
    return end.value.rcvd.code


@pytest.mark.parametrize("cursor", ["999999:0", "{fence}:{beyond}", "{fence}:999999999999999999"])
def test_cursor_that_leads_nowhere_is_answered_with_the_snapshot(site, talk, cursor):
    row = site.row(talk.conversation)
    cursor = cursor.format(fence=row.fence, beyond=row.cursor + 50)
    page = talk.reloaded()
    before = page.thread()
    path = with_cursor(talk.socket_url, cursor)
    with open_socket(talk.base, path, talk.person.cookies) as socket:
        page.take(str(socket.recv(timeout=10)))
    assert page.snapshots == 1
    assert page.seen == (row.fence, row.cursor)
    assert page.thread() == before


def test_reply_goes_on_behind_a_snapshot(site, agree):
    page, question = site.page(site.web()), long_question(tokens=120)
    page.ask(question.text)
    page.wait_for_words(20)
    lost = page.reloaded()
    path = with_cursor(page.socket_url, "999999:0")
    with open_socket(page.base, path, page.person.cookies) as socket:
        while lost.is_writing() or not lost.snapshots:
            lost.take(str(socket.recv(timeout=10)))
    page.wait_for_end()
    assert agree(page).text == question.reply
    assert lost.prose() == page.prose()


@pytest.mark.parametrize("cursor", ["x", "1:-2", "1:2:3", "٣:1", "1:", "9" * 19 + ":1"])
def test_malformed_cursor_is_refused(site, talk, cursor):
    path = with_cursor(talk.socket_url, cursor)
    assert close_code(talk.base, path, talk.person.cookies) == 4400


def test_who_may_not_read_is_told_so_and_does_not_come_again(site, talk):
    mine, cookies = talk.socket_url, talk.person.cookies
    assert close_code(talk.base, mine, "") == 4401
    assert close_code(talk.base, mine, "sessionid=" + uuid.uuid4().hex) == 4401
    assert close_code(talk.base, mine, cookies, origin="https://elsewhere.example") == 4403
    sam = site.person("sam", site.web())
    assert close_code(talk.base, mine, sam.cookies) == 4404
    take_note(Seen.of_socket(SIGNED_OUT, 4401))
    take_note(Seen.of_socket(SOMEBODY_ELSES, 4404))


def test_socket_of_a_session_that_ended_is_closed(site, talk):
    site.query("DELETE FROM django_session WHERE session_key = %s", talk.person.session_key)
    try:
        wait_until(lambda: talk.closes, "the socket is closed", seconds=10)
        assert talk.closes == [4401]
        take_note(Seen.of_socket(ENDED, 4401))
    finally:
        site.forget(talk.person)


def test_hundred_idle_sockets_live_on_and_all_receive_the_reply(site, talk, agree):
    question = long_question(tokens=150)
    page = talk.reloaded()
    received = asyncio.run(_idle_then_follow(talk, question.text))
    talk.wait_for_end()
    assert agree(talk).text == question.reply
    assert len({tuple(messages) for messages in received}) == 1
    for message in received[0]:
        page.take(message)
    assert page.prose() == talk.prose()


async def _idle_then_follow(talk, question: str) -> list[list[str]]:
    """Return what each socket receives of the reply to `question`, after idling for a while."""
    url = talk.base.replace("http", "ws", 1) + talk.socket_url
    headers = {"Cookie": talk.person.cookies}
    how = {"additional_headers": headers, "origin": talk.base, "ping_interval": None}
    sockets = await asyncio.gather(
        *(connect_many(url, **how, open_timeout=30) for _ in range(SOCKETS))
    )
    await asyncio.sleep(IDLE_SECONDS)
    assert all(socket.close_code is None for socket in sockets)
    following = [asyncio.create_task(_until_end(socket)) for socket in sockets]
    assert await asyncio.to_thread(talk.ask, question) == 200
    return await asyncio.gather(*following)


async def _until_end(socket) -> list[str]:
    messages: list[str] = []
    async with asyncio.timeout(60), socket:
        async for message in socket:
            messages.append(str(message))
            if "Reply finished." in message:
                break
    return messages
