"""What the guards and the routing of a turn say no to, or mend; nothing is killed here."""

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest
import redis
from django.conf import settings as configured

from benchmarks.provider_simulator import recorded_requests
from conversations.models import BudgetPlan, Conversation, PolicyRule
from conversations.turn.policy import kept_policy
from prompts.models import LanguageModel, ModelPrice
from prompts.offering import define_model, set_price
from tests import certificates
from tests.faults.page import Page
from tests.faults.site import SHORT_REPLY, controlled_question, long_question
from tests.faults.table import Seen, fault, take_note

pytestmark = pytest.mark.faults

TEXT = "One two three four five six seven eight nine ten."


@pytest.fixture
def place(here):
    return here


# --- providers -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A fault of the provider, the code under which it is kept, and the settings it meets."""

    name: str
    code: str
    control: dict
    settings: dict = field(default_factory=dict)


MISLABELLED = fault("The provider calls its stream something else")
HUGE = fault("The provider sends a chunk of 33 MB")
SILENT = fault("The provider does not begin within the time limit")
LATER = fault("The provider asks to be left alone for an hour (Retry-After)")
UNTRUSTED = fault("The provider's certificate is not to be trusted (TLS)")
RESTING = fault("The provider failed several times, and its breaker is open")
FALLBACK = fault("The provider fails, and the model that stands in answers")
CASES = [
    Case(MISLABELLED, "garbled", {"content_type": "text/plain"}),
    Case(HUGE, "garbled", {"huge_chunk": 33}),
    Case(SILENT, "stalled", {"first_token_seconds": 60}, {"PROVIDER_FIRST_TOKEN_SECONDS": 0.5}),
    Case(LATER, "busy", {"status": 429, "retry_after": 3600}, {"PROVIDER_ATTEMPTS": 3}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_fault_of_the_provider(here, settings, told, agree, next_turn_works, case):
    page, question = here.page(), controlled_question(TEXT, **case.control)
    for name, value in case.settings.items():
        setattr(settings, name, value)
    status = page.ask(question.text)
    page.wait_for_end()
    row = agree(page)
    assert (row.state, row.fault) == ("failed", case.code)
    told(case.name, status, page, row, question)
    asked = [one["messages"][-1]["content"] for one in recorded_requests(here.provider)]
    assert asked.count(question.text) == 1
    settings.PROVIDER_FIRST_TOKEN_SECONDS = 60.0
    next_turn_works(page)


def test_provider_whose_certificate_nobody_vouches_for(
    here, settings, told, agree, next_turn_works, self_signed
):
    page, question = here.page(), controlled_question(TEXT)
    settings.OPENAI_BASE_URL = self_signed
    status = page.ask(question.text)
    page.wait_for_end()
    row = agree(page)
    assert (row.state, row.fault) == ("failed", "untrusted")
    told(UNTRUSTED, status, page, row, question)
    settings.OPENAI_BASE_URL = here.provider
    next_turn_works(page)


@pytest.fixture
def self_signed(tmp_path: Path) -> Iterator[str]:
    """The base URL of a server on this machine that shows a certificate of its own making."""
    context = certificates.self_signed(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_shake_hands, args=(listener, context), daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)


def _shake_hands(listener: socket.socket, context: ssl.SSLContext) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            with client, suppress(OSError), context.wrap_socket(client, server_side=True) as secure:
                secure.recv(1)


def test_provider_that_rests(here, settings, told, agree, next_turn_works):
    settings.PROVIDER_BREAKER_FAULTS = 1
    page, question = here.page(), controlled_question(TEXT)
    assert page.ask(controlled_question(status=500).text) == 200
    page.wait_for_end()
    status = page.ask(question.text)
    page.wait_for_end()
    row = agree(page)
    assert (row.state, row.fault) == ("failed", "resting")
    told(RESTING, status, page, row, question)
    _close_breakers()
    next_turn_works(page)


def _close_breakers() -> None:
    with redis.Redis.from_url(configured.REDIS_URL) as client:
        for key in client.scan_iter(f"{configured.REDIS_PREFIX}breaker:*"):
            client.delete(key)


def test_model_that_stands_in(here, ada, told, agree, next_turn_works):
    standard = LanguageModel.objects.get(slug="default")
    window = {"context_window": 8_000, "max_output_tokens": 500}
    spare = LanguageModel(slug="spare", label="Spare", remote_name="gpt-4o", **window)
    define_model(spare, roles=[], by=ada)
    prices = {"input": Decimal(2), "cached_input": Decimal(1), "output": Decimal(8)}
    set_price(ModelPrice(model=spare, source="this test", **prices), by=ada)
    standard.fallback = spare
    define_model(standard, roles=[], by=ada)
    page = here.page()
    question = controlled_question(TEXT, status=500, times=1, then={"text": TEXT})
    status = page.ask(question.text)
    page.wait_for_end()
    row = agree(page)
    assert (row.state, row.text) == ("completed", TEXT)
    first = re.search("Asked first(.*?) did not answer", page.figures())
    told(FALLBACK, status, page, row, question, f"Asked first: {first[1]} did not answer.")
    next_turn_works(page)


# --- limits and budgets ----------------------------------------------------------------------

LIMITED = fault("The limit of messages is reached")
NEARLY_SPENT = fault("A reply leaves the budget nearly spent")
SPENT = fault("The budget is spent")


def refused(page: Page, text: str) -> int:
    """Ask what will be refused; the conversation stays as it is."""
    replies = page.replies()
    status = page.ask(text)
    assert page.refusal()
    assert page.replies() == replies
    return status


def test_limit_is_reached(here, settings, next_turn_works):
    page = here.page()
    settings.RATE_LIMITS = "user=1/minute"
    assert page.ask(controlled_question(text=SHORT_REPLY).text) == 200
    page.wait_for_end()
    status = refused(page, "Again?")
    take_note(Seen.of_refusal(LIMITED, status, page))
    settings.RATE_LIMITS = ""
    next_turn_works(page)


def test_budget_is_nearly_spent_and_then_spent(here, told, agree, next_turn_works):
    plan, _ = BudgetPlan.objects.update_or_create(
        role=None, defaults={"session_usd": Decimal("0.0003")}
    )
    page, question = here.page(), long_question(tokens=400, tokens_per_second=0)
    status = page.ask(question.text)
    page.wait_for_end()
    row = agree(page)
    assert "used." in page.warning()
    told(NEARLY_SPENT, status, page, row, question, page.warning())
    status = refused(page, "Again?")
    take_note(Seen.of_refusal(SPENT, status, page))
    plan.session_usd = Decimal("0.05")
    plan.save()
    next_turn_works(page)


# --- rules and personal data -----------------------------------------------------------------

FORBIDDEN = fault("A rule of the organisation does not let the question through")
ENDED = fault("A rule of the organisation ends the reply")
ENDED_AT_ONCE = fault("A rule of the organisation ends the reply before its first word")
BROKEN = fault("A rule of the organisation can't be applied")
PERSONAL = fault("The question holds personal data, which is blocked here")
BLOCKING = {"action": "block", "words": "tulip", "message": "Ask the board about flowers."}


def test_rule_refuses_a_question(here, rule, next_turn_works):
    rule(direction="input", **BLOCKING)
    page = here.page()
    status = refused(page, "Where is the tulip?")
    take_note(Seen.of_refusal(FORBIDDEN, status, page))
    next_turn_works(page)


@pytest.mark.parametrize(
    ("name", "reply"),
    [(ENDED, "Plant a tulip today."), (ENDED_AT_ONCE, "Tulip")],
    ids=["later", "at once"],
)
def test_rule_ends_a_reply(here, rule, told, agree, next_turn_works, name, reply):
    rule(direction="output", **BLOCKING)
    page, question = here.page(), controlled_question(reply, text=reply)
    status = page.ask(question.text)
    page.wait_for_end()
    row = agree(page)
    assert (row.state, row.fault) == ("refused", "policy")
    told(name, status, page, row, question)
    next_turn_works(page)


def test_rule_is_broken(here, rule, next_turn_works):
    made = rule(action="flag", kind="pattern", pattern="fine")
    broken = PolicyRule.objects.filter(pk=made.pk)
    broken.update(pattern="(broken", direction="both")
    kept_policy.forget()
    page = here.page()
    status = refused(page, "Hello?")
    take_note(Seen.of_refusal(BROKEN, status, page))
    broken.update(pattern="mended")
    kept_policy.forget()
    next_turn_works(page)


def test_personal_data_is_blocked(here, settings, next_turn_works):
    settings.PII_MODE = "block"
    page = here.page()
    status = refused(page, "Write to olive@parley.example.")
    take_note(Seen.of_refusal(PERSONAL, status, page))
    next_turn_works(page)


# --- what can't be asked ---------------------------------------------------------------------

EMPTY = fault("The message is empty")
TOO_LONG = fault("The message is too long")
ARCHIVED = fault("The conversation is archived")
OPEN = fault("Another reply of the conversation is still being written")


@pytest.mark.parametrize(
    ("name", "text"), [(EMPTY, " \n"), (TOO_LONG, "word " * 20_000)], ids=["empty", "long"]
)
def test_message_can_not_be_taken(here, next_turn_works, name, text):
    page = here.page()
    status = refused(page, text)
    take_note(Seen.of_refusal(name, status, page))
    next_turn_works(page)


def test_conversation_is_archived(here, next_turn_works):
    page = here.page()
    next_turn_works(page)
    stored = Conversation.objects.filter(pk=page.conversation)
    stored.update(lifecycle="archived")
    status = refused(page, "Are you there?")
    take_note(Seen.of_refusal(ARCHIVED, status, page))
    stored.update(lifecycle="active")
    next_turn_works(page)


def test_reply_is_open(here, next_turn_works):
    page, question = here.page(), long_question(tokens=4000)
    assert page.ask(question.text) == 200
    page.wait_for_words(5)
    status = refused(page, "And?")
    take_note(Seen.of_refusal(OPEN, status, page))
    assert page.stop() == 204
    page.wait_for_end()
    next_turn_works(page)
