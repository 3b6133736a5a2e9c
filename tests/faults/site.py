"""An installation of its own for the fault tests: PostgreSQL, Redis, web processes, a provider."""

import json
import os
import secrets
import shutil
import signal
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psycopg
from django.conf import settings

from benchmarks.provider_simulator import recorded_requests, sample, sim
from chatbot.local.children import Child
from chatbot.local.environment import ROOT, application_environment
from chatbot.local.folder import DataFolder
from chatbot.local.servers import APP, OWNER, Postgres, Redis, Servers
from chatbot.local.up import listen
from conversations.encryption import open_sealed
from tests.faults.page import Page, Person, wait_until

PEOPLE = {"olive": "member", "sam": "prompt_editor"}
SHORT_REPLY = "A simulated reply."
PREPARATION = """
import django
from django.core.management import call_command

django.setup()
call_command("migrate", interactive=False, verbosity=0)
call_command("starting_accounts")
"""


@dataclass(frozen=True)
class Row:
    """A reply as the database has it."""

    id: uuid.UUID
    state: str
    fault: str
    text: str
    fence: int
    cursor: int
    runner: uuid.UUID | None
    ended_at: float | None
    """Seconds since the epoch; None while it is open."""


_LAST_REPLY = """
    SELECT m.id, m.state, m.fault, m.content_sealed, m.fence, m.cursor, m.runner_id,
        extract(epoch FROM m.ended_at)::float8
    FROM conversations_message m JOIN conversations_conversation c ON c.leaf_id = m.id
    WHERE c.id = %s
"""


def last_reply(query: Callable[..., list[tuple]], conversation: str) -> Row:
    """The conversation's last reply."""
    [(pk, state, fault, sealed, *rest)] = query(_LAST_REPLY, conversation)
    place = f"conversations_message/{pk}/content_sealed"
    owner = uuid.UUID(conversation)
    text = open_sealed(bytes(sealed), place, owner).decode() if sealed else ""
    return Row(pk, state, fault, text, *rest)


class Web:
    """A web process, started as `make up` starts it, on a socket that outlives it."""

    def __init__(
        self, name: str, data: Path, env: dict[str, str], application: str = "chatbot.asgi"
    ) -> None:
        self._listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        fd = self._listener.fileno()
        command = [sys.executable, "-m", "uvicorn", f"{application}:application", "--fd", str(fd)]
        self.child = Child(
            name,
            [
                *command,
                *("--loop", "uvloop", "--lifespan", "on", "--ws-max-size", "65536"),
                *("--timeout-graceful-shutdown", "15", "--no-server-header", "--no-access-log"),
                *("--log-config", str(ROOT / "chatbot/local/uvicorn_log.json")),
            ],
            env=env,
            data=data,
            cwd=ROOT,
            pass_fds=[fd],
        )

    def running(self) -> "Web":
        """Return it when it answers, after starting it if it does not run."""
        if not self.child.running:
            self.child.start()
        wait_until(lambda: self._is_live() or not self.child.running, f"{self.child.name} answers")
        assert self.child.running, self.child.said()[-3000:]
        return self

    def _is_live(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self._listener.getsockname()[1], timeout=1)
        try:
            connection.request("GET", "/health/live")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def sigkill(self) -> None:
        os.kill(self.child.pid, signal.SIGKILL)
        assert self.child.wait(10)

    def end(self) -> None:
        self.child.ask(signal.SIGCONT)
        self.child.kill()
        self._listener.close()


class Site:
    """Servers and processes; each starts when it is asked for and does not run."""

    def __init__(self, folder: Path, provider: str) -> None:
        self.provider = provider
        self._folder = DataFolder(folder / "data")
        self.postgres = Postgres(self._folder, {}, durable=False, max_connections=120)
        self.redis = Redis(self._folder, {})
        self._webs: dict[str, Web] = {}
        self._people: dict[str, Person] = {}
        self._pages: list[Page] = []
        self._passwords = {name: secrets.token_urlsafe(12) for name in PEOPLE}

    # --- from the first start to the end -------------------------------------------------------

    def start(self) -> None:
        self.postgres.start()
        self.redis.start()
        given = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        given |= {
            "CONTENT_KEYS": settings.CONTENT_KEYS,
            "KEYRING": settings.KEYRING,
            "STATIC_ROOT": str(settings.STATIC_ROOT),
            "OPENAI_BASE_URL": self.provider,
            "OPENAI_API_KEY": "test",
            "OPENAI_MODEL": "gpt-4o-mini",
            "PROVIDER_ATTEMPTS": "1",
            "PROVIDER_BREAKER_FAULTS": "1000000",
            "RATE_LIMITS": "",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        addresses = (self.postgres.url(), self.postgres.url(OWNER), self.redis.url())
        running = Servers(*addresses, self.postgres, self.redis)
        self._env = application_environment(self._folder, given, running, "127.0.0.1")
        people = {name: (role, self._passwords[name]) for name, role in PEOPLE.items()}
        self._prepare(people)

    def _prepare(self, people: dict[str, tuple[str, str]]) -> None:
        """Migrate and make the accounts: one process, because each takes seconds to start."""
        accounts = {
            role: {"email": f"{name}@parley.example", "password": password}
            for name, (role, password) in people.items()
        }
        env = {name: value for name, value in self._env.items() if name != "DATABASE_URL_FILE"}
        step = Child(
            "prepare",
            [sys.executable, "-c", PREPARATION],
            env={**env, "DATABASE_URL": self.postgres.url(OWNER)},
            data=self._folder.path,
            cwd=ROOT,
            stdin=json.dumps(accounts),
        )
        step.start()
        assert step.wait(60)
        assert step.poll() == 0, step.said()[-3000:]

    def end(self) -> None:
        for page in self._pages:
            page.leave()
        for web in self._webs.values():
            web.end()
        self.redis.stop()
        self.postgres.stop()

    @property
    def folder(self) -> Path:
        """Everything that the installation writes, but for the keyring."""
        return self._folder.path

    # --- processes and people ------------------------------------------------------------------

    def web(self, name: str = "a", *, application: str = "chatbot.asgi", **env: str) -> Web:
        """The running web process of this name."""
        if name not in self._webs:
            self._webs[name] = Web(name, self._folder.path, {**self._env, **env}, application)
        return self._webs[name].running()

    def some_web(self) -> Web:
        """A running web process, started if there is none: it clears up behind those that died."""
        running = [web for web in self._webs.values() if web.child.running]
        return running[0] if running else self.web()

    def only(self, name: str = "a") -> Web:
        """The same, with all other web processes ended."""
        for other, web in list(self._webs.items()):
            if other != name:
                web.end()
                del self._webs[other]
        return self.web(name)

    def person(self, name: str, web: Web) -> Person:
        if name not in self._people:
            self._people[name] = self.signed_in(name, web)
        return self._people[name]

    def forget(self, person: Person) -> None:
        """Let the person sign in anew when they come back."""
        self._people = {name: known for name, known in self._people.items() if known != person}

    def signed_in(self, name: str, web: Web) -> Person:
        """The person in a new session of their own."""
        return Person(web.url, f"{name}@parley.example", self._passwords[name])

    def page(self, web: Web, conversation: str = "", *, by: str = "olive") -> Page:
        """A tab of this person, on a new conversation or on one that exists."""
        path = f"/c/{conversation}/" if conversation else "/"
        page = Page(self.person(by, web), web.url, path)
        self._pages.append(page)
        return page.connected()

    def close_pages(self) -> None:
        for page in self._pages:
            page.leave()
        self._pages.clear()

    # --- servers ---------------------------------------------------------------------------------

    def kill_redis(self, *, lose_data: bool = False) -> None:
        os.kill(self.redis.child.pid, signal.SIGKILL)
        assert self.redis.child.wait(10)
        if lose_data:
            shutil.rmtree(self._folder.path / "redis")

    def kill_postgres(self) -> None:
        os.kill(self.postgres.child.pid, signal.SIGKILL)
        assert self.postgres.child.wait(10)

    # --- what is true ---------------------------------------------------------------------------

    def query(self, statement: str, *values: object) -> list[tuple]:
        return self.query_as(APP, statement, *values)

    def query_as(self, role: str, statement: str, *values: object) -> list[tuple]:
        with psycopg.connect(self.postgres.url(role), autocommit=True) as connection:
            found = connection.execute(statement, values)
            return found.fetchall() if found.description else []

    def row(self, conversation: str) -> Row:
        """The conversation's last reply."""
        return last_reply(self.query, conversation)

    def wait_for_state(self, conversation: str, state: str, seconds: float = 60) -> Row:
        wait_until(
            lambda: self.row(conversation).state == state,
            f"{state}, is {self.row(conversation)}",
            seconds,
        )
        return self.row(conversation)

    def upstream(self, question: str) -> dict:
        """How the provider saw the last request with this question."""
        asked = [
            record
            for record in recorded_requests(self.provider)
            if not record["title"] and record["messages"][-1]["content"] == question
        ]
        return asked[-1]


@dataclass(frozen=True)
class Question:
    """A question, and the whole reply that it leads to."""

    text: str
    reply: str


def long_question(
    tokens: int = 260, tokens_per_second: float = 60, kind: str = "markdown"
) -> Question:
    """Ask for Markdown of every sort that takes some seconds to arrive."""
    told = sim(text=None, tokens=tokens, tokens_per_second=tokens_per_second, kind=kind)
    return Question(f"Question {uuid.uuid4().hex[:8]}\n{told}", "".join(sample(kind, tokens)))


def controlled_question(reply: str = "", **control: object) -> Question:
    """Ask for what the simulator's `control` says; `reply` is what it leads to."""
    return Question(f"Question {uuid.uuid4().hex[:8]}\n{sim(**control)}", reply)


def slow_title(seconds: float = 60) -> Question:
    """Ask for a short reply whose conversation gets its title after so long."""
    title = {"first_token_seconds": seconds, "usage": False}
    return controlled_question(SHORT_REPLY, text=SHORT_REPLY, title=title)
