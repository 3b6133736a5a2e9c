"""Programs that knock at the doors, each with a token."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from accounts.models import User
from accounts.tokens import make_token
from benchmarks.provider_simulator import sim
from conversations.models import Message


def secret_of(user: User, *scopes: str) -> str:
    made = make_token(user, name="test", scopes=scopes or ("chat", "read"), lasts=None, by=user)
    return made.secret


def program_of(url: str, user: User, *scopes: str) -> httpx2.Client:
    headers = {"Authorization": f"Bearer {secret_of(user, *scopes)}"}
    return httpx2.Client(base_url=url, headers=headers, timeout=30)


@contextmanager
def streamed(program: httpx2.Client, path: str, body: dict) -> Iterator[Iterator[tuple[str, Any]]]:
    """Post, and yield the events of the stream as they come."""
    headers = {"Accept": "text/event-stream"}
    with program.stream("POST", path, json=body, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield _events(answer)


def _events(answer: httpx2.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def replies() -> list[Message]:
    return list(Message.objects.filter(role="assistant").order_by("created_at"))


def slow(words: int, per_second: int, **more: Any) -> str:
    """A question whose reply has so many words and takes its time."""
    text = "word " * words
    return "Hello?\n" + sim(text=text, tokens_per_second=per_second, chunk_characters=5, **more)
