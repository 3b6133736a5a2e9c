"""What programs are told of requests that make no sense, at both doors."""

import uuid
from dataclasses import dataclass

import httpx2
import pytest

from conversations.models import Conversation, Message
from tests.conversations.doors import program_of
from tests.faults.table import Seen, fault, take_note

pytestmark = pytest.mark.faults

QUESTION = "Hello?"
MODEL = "default"
COMPLETIONS = "/v1/chat/completions"


@dataclass(frozen=True)
class Bad:
    """A body that can't be taken, at `/chat` and at `/v1/chat/completions`."""

    name: str
    chat: bytes
    completions: bytes


def bad(name: str, chat: bytes, completions: bytes | None = None) -> Bad:
    return Bad(fault(f"A program sends {name}"), chat, chat if completions is None else completions)


BODIES = [
    bad("malformed JSON", b'{"user_message": '),
    bad("invalid UTF-8", b'{"user_message": "\xff\xfe"}'),
    bad(
        "wrong types",
        b'{"user_message": 7}',
        b'{"model": "default", "messages": "Hello?"}',
    ),
    bad(
        "an empty message",
        b'{"user_message": " "}',
        b'{"model": "default", "messages": [{"role": "user", "content": " "}]}',
    ),
    bad("a body of 10 MB", b"x" * 10 * 2**20),
]
FOREIGN = fault("A program asks in somebody else's session")
ARCHIVED = fault("A program asks in an archived session")


@pytest.fixture
def program(here, olive):
    with program_of(here.url, olive) as client:
        yield client


def next_call_works(program: httpx2.Client) -> None:
    assert program.post("/chat", json={"user_message": QUESTION}).json()["state"] == "completed"
    asked = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}
    assert program.post(COMPLETIONS, json=asked).json()["choices"]


def problem_of(answer: httpx2.Response) -> str:
    """Return type and title of the problem, which holds the same status."""
    told = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert told["status"] == answer.status_code
    return f"`{told['type']}` {told['title']}"


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.name)
def test_bad_body_has_a_stable_problem_at_both_doors(program, body):
    headers = {"Content-Type": "application/json"}
    chat = program.post("/chat", content=body.chat, headers=headers)
    completions = program.post(COMPLETIONS, content=body.completions, headers=headers)
    assert not Message.objects.exists()
    code = completions.json()["error"]["code"]
    same = chat.status_code == completions.status_code
    status = str(chat.status_code) if same else f"{chat.status_code}; /v1 {completions.status_code}"
    take_note(Seen.of_problem(body.name, status, f"{problem_of(chat)} /v1: code `{code}`."))
    next_call_works(program)


def test_session_of_somebody_else_is_not_there(here, program, sam):
    with program_of(here.url, sam) as stranger:
        theirs = stranger.post("/chat", json={"user_message": QUESTION}).json()["session_id"]
    foreign, unknown = (
        program.post("/chat", json={"user_message": QUESTION, "session_id": session})
        for session in (theirs, str(uuid.uuid4()))
    )
    assert problem_of(foreign) == problem_of(unknown)
    take_note(Seen.of_problem(FOREIGN, foreign.status_code, problem_of(foreign)))
    next_call_works(program)


def test_session_is_archived(program):
    begun = program.post("/chat", json={"user_message": QUESTION}).json()["session_id"]
    Conversation.objects.filter(pk=begun).update(lifecycle="archived")
    answer = program.post("/chat", json={"user_message": QUESTION, "session_id": begun})
    take_note(Seen.of_problem(ARCHIVED, answer.status_code, problem_of(answer)))
    next_call_works(program)
