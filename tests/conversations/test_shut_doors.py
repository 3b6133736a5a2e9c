"""What somebody said stays shut to everybody else at each door, whatever their role.

The one way in is break-glass, whose pages have tests of their own; a grant opens no other door.
"""

import httpx2
import pytest
from django.urls import reverse
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from accounts.access import Denied
from accounts.roles import ROLES
from conversations.break_glass.grants import Asked, ask
from conversations.models import Conversation

from .doors import program_of
from .test_crowd import by_session

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def said(live, finished) -> Conversation:
    turn = finished("A planted question?", "A planted reply.")
    turn.conversation.title = "A planted title"
    turn.conversation.save()
    return turn.conversation


@pytest.fixture(params=sorted(ROLES))
def somebody(request, said, make_user, olive):
    """Somebody with this role; a compliance officer even holds a grant for the conversation."""
    user = make_user("somebody", request.param)
    if request.param == "compliance_officer":
        asked = Asked("2026-114", "The regulator asked for it.", conversation_id=said.pk)
        assert ask(by=user, asked=asked).starts_at
    return user


def test_pages_commands_programs_and_sockets(live, said, somebody):
    with httpx2.Client(base_url=live.url, headers=by_session(somebody)) as browser:
        for answer in _of_pages(browser, said):
            assert answer.status_code in {403, 404}
            assert "planted" not in answer.text
        for answer in _of_administration(browser, said):
            assert answer.status_code in {200, 302, 403, 404}
            assert "planted" not in answer.text
    for answer in _of_programs(live.url, somebody, said):
        assert answer.status_code in {403, 404}
        assert "planted" not in answer.text
    assert _close_code(live.url, said, by_session(somebody)["Cookie"]) in {4401, 4404}
    assert said not in Conversation.objects.visible_to(somebody)
    assert said.messages.count() == 2


def _of_pages(browser, said):
    reply = said.messages.get(role="assistant")
    yield browser.get(said.get_absolute_url())
    form = {"text": "What was said?", "key": "k"}
    yield browser.post(reverse("ask", args=[said.pk]), data=form)
    yield browser.post(reverse("stop", args=[said.pk]))
    yield browser.post(reverse("continue", args=[said.pk, reply.pk]))


def _of_administration(browser, said):
    yield browser.get(reverse("admin:conversations_conversation_changelist"))
    for page in ("change", "history"):
        yield browser.get(reverse(f"admin:conversations_conversation_{page}", args=[said.pk]))
    yield browser.get(reverse("admin:conversations_breakglassgrant_changelist"))
    yield browser.get(reverse("admin:audit_entry_timeline", args=["conversation", said.pk]))


def _of_programs(url, somebody, said):
    reply = said.messages.get(role="assistant")
    session = f"/api/v1/sessions/{said.pk}"
    try:
        program = program_of(url, somebody)
    except Denied:  # whose role may not chat can't make a token either
        return
    with program:
        for path in ("", "/messages", f"/messages/{reply.pk}"):
            yield program.get(f"{session}{path}")
        yield program.post(f"{session}/stop")
        yield program.put(f"{session}/messages/{reply.pk}/feedback", json={"rating": "up"})
        yield program.post("/chat", json={"user_message": "?", "session_id": str(said.pk)})


def _close_code(url: str, said, cookies: str) -> int:
    address = f"{url.replace('http', 'ws', 1)}/ws/conversations/{said.pk}/?last=0:0"
    headers = {"Cookie": cookies, "Origin": url}
    with (
        connect(address, additional_headers=headers) as socket,
        pytest.raises(ConnectionClosed) as end,
    ):
        socket.recv(timeout=10)
    assert end.value.rcvd is not None
    return end.value.rcvd.code
