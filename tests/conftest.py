"""The people of the tests, a running server, and what every test finds as if it were the first."""

import asyncio
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import uvicorn
from django.db.models.functions import Now
from django.test import Client, TransactionTestCase

from accounts.models import User
from audit import floods, trail
from benchmarks.provider_simulator import running_simulator
from conversations.models import Conversation, Message, PolicyRule, Runner
from conversations.retention.policies import forget_policies
from conversations.turn import Progress, Turn, TurnEnded, close_reply, start_turn
from conversations.turn.plans import kept_plans
from conversations.turn.policy import kept_policy
from conversations.turn.rules import save_rule
from prompts.catalogue import kept_offers
from prompts.models import PromptTemplate
from prompts.provider import Usage
from tests.flush import FirstState

PASSWORD = "the people's password 1"


# --- people ----------------------------------------------------------------------------------


@pytest.fixture
def make_user(db: None) -> Callable[..., User]:
    def make(name: str, *roles: str) -> User:
        from accounts.models import RoleGrant

        user = User.objects.create_user(f"{name}@parley.example", PASSWORD, name=name.title())
        RoleGrant.objects.bulk_create(RoleGrant(user=user, role_id=role) for role in roles)
        return user

    return make


@pytest.fixture
def olive(make_user: Callable[..., User]) -> User:
    """A member; the conversations are hers."""
    return make_user("olive", "member")


@pytest.fixture
def sam(make_user: Callable[..., User]) -> User:
    """A member too, and a stranger to everything of olive's."""
    return make_user("sam", "member")


@pytest.fixture
def ravi(make_user: Callable[..., User]) -> User:
    return make_user("ravi", "compliance_officer")


@pytest.fixture
def ada(make_user: Callable[..., User]) -> User:
    return make_user("ada", "administrator")


def _signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def olive_client(olive: User) -> Client:
    return _signed_in(olive)


@pytest.fixture
def sam_client(sam: User) -> Client:
    return _signed_in(sam)


@pytest.fixture
def ravi_client(ravi: User) -> Client:
    return _signed_in(ravi)


@pytest.fixture
def ada_client(ada: User) -> Client:
    return _signed_in(ada)


# --- turns ----------------------------------------------------------------------------------


@pytest.fixture
def runner_row(db: None) -> Runner:
    return Runner.objects.create(host="here", pid=1, beat_at=Now())


@pytest.fixture
def begin(olive: User, runner_row: Runner) -> Callable[..., Turn]:
    """Start a turn of olive's, in a new conversation or a given one."""

    def start(
        text: str = "Hello?", conversation: Conversation | None = None, key: str = "", by=None
    ) -> Turn:
        return start_turn(
            conversation.pk if conversation else uuid.uuid4(),
            by=by or olive,
            text=text,
            key=key or uuid.uuid4().hex,
            runner_id=runner_row.pk,
        )

    return start


@pytest.fixture
def finished(begin: Callable[..., Turn]) -> Callable[..., Turn]:
    """A turn whose reply has ended."""

    def make(text: str = "Hello?", reply: str = "Hi.", **given) -> Turn:
        turn = begin(text, **given)
        usage = Usage(tokens_in=20, tokens_cached=0, tokens_out=5)
        ended = TurnEnded(Message.State.COMPLETED, usage=usage, duration_ms=1200)
        assert close_reply(turn.reply, Progress(reply, "", 0), ended)
        return turn

    return make


@pytest.fixture
def rule(ada: User) -> Iterator[Callable[..., PolicyRule]]:
    """Put a rule into force."""

    def make(**terms) -> PolicyRule:
        made = PolicyRule(**{"name": "Plans", "kind": "words", "direction": "input", **terms})
        save_rule(made, by=ada)
        kept_policy.forget()
        return made

    yield make
    kept_policy.forget()


# --- servers ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def simulator() -> Iterator[str]:
    """The base URL of a provider that does what each question tells it."""
    with running_simulator(text="A simulated reply.", tokens_per_second=0) as base_url:
        yield base_url


@dataclass
class LiveServer:
    """uvicorn in a thread: the production server on the test's database."""

    url: str
    loop: asyncio.AbstractEventLoop

    def finish_replies(self) -> None:
        from conversations.reply.runner import runner

        async def finish() -> None:
            await runner().finish_replies(0)

        asyncio.run_coroutine_threadsafe(finish(), self.loop).result(20)


@pytest.fixture(scope="session")
def _live_server(django_db_setup: None, django_db_blocker) -> Iterator[LiveServer]:
    from chatbot.asgi import application

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan="off"))
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        from conversations.reply.runner import runner

        loops.append(asyncio.get_running_loop())
        await server.serve(sockets=[listening])
        await runner().drain(0)

    with django_db_blocker.unblock():
        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield LiveServer(f"http://127.0.0.1:{listening.getsockname()[1]}", loops[0])
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def live(
    transactional_db: None, _live_server: LiveServer, simulator: str, settings
) -> Iterator[LiveServer]:
    """The running server with the simulated provider; its replies end before the test does."""
    settings.OPENAI_BASE_URL = simulator
    # Faults are to be seen, not mended; and those of one test are nothing to another.
    settings.PROVIDER_ATTEMPTS, settings.PROVIDER_BREAKER_FAULTS = 1, 1_000_000
    yield _live_server
    _live_server.finish_replies()


# --- browser ---------------------------------------------------------------------------------


def chromium_path() -> str | None:
    """The Chromium to test with: CHROMIUM, or one on PATH."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if chromium_path():
        return
    if os.environ.get("CHROMIUM_REQUIRED") == "1":
        raise pytest.UsageError(
            "CHROMIUM_REQUIRED=1, but there is no Chromium: apt install chromium"
        )
    reason = "NO CHROMIUM: browser tests did not run. Install chromium or set CHROMIUM=/path."
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter) -> None:
    if not chromium_path():
        terminalreporter.section("NO CHROMIUM", red=True)
        terminalreporter.line("Browser tests did not run. Install chromium or set CHROMIUM=/path.")


# --- flush -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker) -> None:
    """The test database, and what it holds at first, which tests that commit leave behind.

    The built-in templates can be published without an evaluation; tests of the gate set it.
    """
    with django_db_blocker.unblock():
        PromptTemplate.objects.update(required_set=None)
        first = FirstState.read()
    TransactionTestCase._fixture_teardown = lambda _case: first.bring_back()


@pytest.fixture(autouse=True)
def _entries_beside_roll_back_with_the_test(request, monkeypatch):
    # A test in a transaction would leave them behind for good: entries can't be removed.
    marker = request.node.get_closest_marker("django_db")
    commits = (
        marker and marker.kwargs.get("transaction")
    ) or "transactional_db" in request.fixturenames
    if not commits:
        monkeypatch.setattr(trail, "_connection_beside", nullcontext)


@pytest.fixture(autouse=True)
def _offers_plans_and_policies_of_its_own():
    # They are kept for seconds: one test's must not hold in another.
    for forget in (kept_offers.forget, kept_plans.forget, forget_policies):
        forget()
    yield
    for forget in (kept_offers.forget, kept_plans.forget, forget_policies):
        forget()


@pytest.fixture(autouse=True)
def _floods_of_its_own(monkeypatch):
    # Of what is repeated one entry a minute is written: a test's first refusal must be among them.
    floods.forget()
    monkeypatch.setattr(floods, "PREFIX", f"flood:{uuid.uuid4().hex}:")


@pytest.fixture(autouse=True)
def _quick_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
