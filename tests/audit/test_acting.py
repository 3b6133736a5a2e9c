"""Who acts, wherever something is recorded: requests, streams, tasks, sockets, commands."""

import asyncio
import subprocess
import sys
import threading

import pytest
from asgiref.testing import ApplicationCommunicator
from celery.contrib.testing.worker import start_worker
from channels.generic.websocket import AsyncWebsocketConsumer
from django.db import connections
from django.http import HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client
from django.urls import path

from accounts.access import System
from accounts.tokens import make_token
from audit.acting import acting_as, acting_as_carried, carried, current_actor
from audit.models import Entry
from audit.trail import MissingActorError, arecord, record
from chatbot import telemetry
from chatbot.celery import app
from chatbot.database import db

pytestmark = pytest.mark.django_db(transaction=True)
EVENT = "conversation.created"
detached: set[asyncio.Task[int]] = set()


def recorded() -> Entry:
    return Entry.objects.select_related("personal").filter(event=EVENT).latest("pk")


# --- views -----------------------------------------------------------------------------------


def plain(request):
    record(None, EVENT)
    return HttpResponse()


async def asynchronous(request):
    await arecord(None, EVENT)
    return HttpResponse()


def streamed(request):
    def body():
        yield b"one "
        record(None, EVENT)
        yield b"two"

    return StreamingHttpResponse(body())


async def streamed_later(request):
    async def body():
        yield b"one "
        await arecord(None, EVENT)
        yield b"two"

    return StreamingHttpResponse(body())


async def leaves_a_task(request):
    async def work():
        await asyncio.sleep(0.05)  # by then the request is long answered
        return await arecord(None, EVENT)

    detached.add(asyncio.create_task(work()))
    return HttpResponse()


urlpatterns = [
    path(f"{view.__name__}/", view)
    for view in (plain, asynchronous, streamed, streamed_later, leaves_a_task)
]


@pytest.mark.urls(__name__)
@pytest.mark.parametrize("view", [plain, asynchronous, streamed, streamed_later, leaves_a_task])
async def test_who_is_signed_in_acts_in_every_kind_of_view(view, olive):
    client = AsyncClient()
    await db(client.force_login)(olive)
    response = await client.get(f"/{view.__name__}/", headers={"user-agent": "curl/8"})
    if response.streaming:
        assert b"".join([piece async for piece in response]) == b"one two"
    while detached:
        await detached.pop()
    entry = await db(recorded)()
    assert (entry.actor_kind, entry.actor_id) == ("user", str(olive.pk))
    assert entry.actor_roles == "member"
    assert entry.request_id == response.headers["X-Request-ID"]
    assert entry.personal.user_agent == "curl"


@pytest.mark.urls(__name__)
def test_synchronous_stream_acts_for_its_request(olive_client, olive):
    assert b"".join(olive_client.get("/streamed/")) == b"one two"
    assert recorded().actor_id == str(olive.pk)


@pytest.mark.urls(__name__)
async def test_two_streams_read_in_turns_act_each_for_its_own(olive, sam):
    bodies = []
    for user in (olive, sam):
        client = AsyncClient()
        await db(client.force_login)(user)
        bodies.append(aiter((await client.get("/streamed_later/")).streaming_content))
    for _ in range(2):
        for body in bodies:
            await anext(body)
            assert current_actor() is None
    actors = Entry.objects.filter(event=EVENT).order_by("pk").values_list("actor_id", flat=True)
    assert await db(list)(actors) == [str(olive.pk), str(sam.pk)]


@pytest.mark.urls(__name__)
def test_stranger_is_nobody_signed_in():
    Client().get("/plain/")
    assert (recorded().actor_kind, recorded().actor_id) == ("anonymous", "")


# --- tokens and impersonators ----------------------------------------------------------------


def test_account_that_acts_by_a_token_is_told_from_one_that_sits_there(olive, sam):
    token = make_token(olive, name="x", scopes=["chat"], lasts=None, by=olive).token
    with acting_as(olive, token=token):
        record(None, EVENT)
        entry = recorded()
        assert (entry.actor_kind, entry.actor_id) == ("token", str(olive.pk))
        assert (entry.token_id, entry.actor_roles) == (str(token.pk), "member")
        record(sam, EVENT)
    assert (recorded().actor_kind, recorded().token_id) == ("user", "")


def test_what_the_system_does_within_a_request_has_no_address_of_a_person(olive):
    with acting_as(olive, address="203.0.113.7", user_agent="curl/8"):
        record(System("turn"), EVENT)
    entry = recorded()
    assert (entry.actor_kind, entry.actor_id) == ("system", "turn")
    assert (entry.personal.network, entry.personal.user_agent) == ("", "")


# --- sockets ---------------------------------------------------------------------------------


async def test_command_of_a_socket_acts_for_its_person(olive):
    class Consumer(AsyncWebsocketConsumer):
        async def receive(self, text_data=None, bytes_data=None):
            with acting_as(olive):
                await arecord(None, EVENT)
            await self.send(str(current_actor()))

    line = ApplicationCommunicator(Consumer.as_asgi(), {"type": "websocket", "path": "/"})
    await line.send_input({"type": "websocket.connect"})
    await line.receive_output()
    await line.send_input({"type": "websocket.receive", "text": "go"})
    assert (await line.receive_output())["text"] == "None"
    await line.send_input({"type": "websocket.disconnect", "code": 1000})
    await line.wait()
    assert (await db(recorded)()).actor_id == str(olive.pk)


# --- the worker ------------------------------------------------------------------------------

done = threading.Semaphore(0)


@app.task(name="tests.audit.purge")
def purge() -> None:
    try:
        record(None, EVENT)
    finally:
        connections.close_all()
        done.release()


@pytest.fixture(scope="module")
def worker():
    with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False):
        yield


def test_task_acts_as_itself_or_for_who_started_it(worker, olive, ada):
    token = make_token(olive, name="x", scopes=["chat"], lasts=None, by=olive).token

    def run(**sender: str) -> Entry:
        with telemetry.only_ids(sender):
            purge.delay()
        assert done.acquire(timeout=20)
        return recorded()

    entry = run()
    assert (entry.actor_kind, entry.actor_id, entry.request_id) == ("system", "purge", "")
    with acting_as(olive, impersonator=ada, token=token):
        entry = run(request_id="r1")
    assert (entry.actor_kind, entry.actor_id) == ("token", str(olive.pk))
    assert (entry.token_id, entry.impersonator_id) == (str(token.pk), str(ada.pk))
    assert (entry.actor_roles, entry.request_id) == ("member", "r1")
    entry = run()
    assert (entry.actor_kind, entry.actor_id, entry.request_id) == ("system", "purge", "")


def test_what_is_carried_names_nobody(olive):
    with acting_as(olive, address="203.0.113.7"):
        assert carried() == {"user": str(olive.pk)}
    with acting_as(System("x")):
        assert carried() == {}
    assert carried() == {}


def test_work_of_an_account_that_is_no_more_is_done_by_the_system(olive):
    with acting_as(olive):
        message = carried()
    olive.delete()
    with acting_as_carried(message, otherwise=System("purge")):
        record(None, EVENT)
    assert recorded().actor_id == "purge"


# --- commands --------------------------------------------------------------------------------


def test_command_acts_under_its_name():
    """`check` runs no SQL here; what counts is who acts while a command runs."""
    code = (
        "import sys, manage; from django.core.checks import register;"
        "register(lambda **_: print('acts:', __import__('audit.acting').acting.current_actor())"
        " or []); manage.Commands(['manage.py', 'check']).execute()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert "acts: System(name='manage.py check')" in ran.stdout, ran.stderr


def test_nobody_acts_by_default():
    with pytest.raises(MissingActorError):
        record(None, EVENT)
