"""The provider is away, refuses, breaks off, falls silent or sends nonsense."""

from dataclasses import dataclass, field

import pytest

from tests.faults.site import Question, controlled_question
from tests.faults.table import fault

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

TEXT = "One two three four five six seven eight nine ten."


@dataclass(frozen=True)
class Case:
    """A fault of the provider and the code under which the row keeps it."""

    name: str
    code: str
    state: str = "failed"
    control: dict = field(default_factory=dict)


def case(name: str, code: str, state: str = "failed", **control: object) -> Case:
    return Case(fault(name), code, state, control)


AWAY = fault("Nobody listens at the provider's address")
CASES = [
    case("The provider answers 500", "failing", status=500),
    case("The provider answers 429", "busy", status=429, retry_after=1),
    case("The provider answers 401", "unauthorised", status=401),
    case("The provider answers 400", "rejected", status=400),
    case("The provider answers 504", "timeout", status=504),
    case("The provider redirects", "garbled", redirect="https://example.org/"),
    case("The provider answers with a page of HTML", "garbled", html=True),
    case("The provider resets the connection before it answers", "unreachable", reset_after=-1),
    case("The provider resets the connection in mid-reply", "cut", text=TEXT, reset_after=8),
    case("The provider's reply breaks off without an end", "cut", text=TEXT, end_after=8),
    case("The provider falls silent in mid-reply", "stalled", text=TEXT, stall_after=8),
    case("The provider sends garbage in mid-reply", "garbled", text=TEXT, garbage_after=8),
    case("The provider reports an error in mid-reply", "failing", text=TEXT, error_event_after=8),
    case("The provider sends an empty body", "empty", empty=True),
    case("The provider sends chunks without choices", "empty", no_choices=True),
    case(
        "The reply reaches the model's length limit",
        "",
        "completed",
        text=TEXT,
        finish_reason="length",
    ),
    case(
        "The provider's content filter ends the reply",
        "content_filter",
        "refused",
        text=TEXT,
        finish_reason="content_filter",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fault_is_told_in_place_and_the_next_turn_works(site, told, agree, next_turn_works, case):
    page = site.page(site.web("hurried", application="tests.faults.hurried"))
    question = controlled_question(TEXT, **case.control)
    status = page.ask(question.text)
    page.wait_for_end()
    row = agree(page)
    assert (row.state, row.fault) == (case.state, case.code)
    assert TEXT.startswith(row.text)
    assert page.notice()
    told(case.name, status, page, row, question)
    next_turn_works(page)


def test_address_where_nobody_listens_is_told_in_place(site, told, agree):
    page = site.page(site.web("alone", OPENAI_BASE_URL="http://127.0.0.1:9/v1"))
    question = Question("Is anybody there?", TEXT)
    status = page.ask(question.text)
    page.wait_for_end()
    row = agree(page)
    told(AWAY, status, page, row, question)
    assert page.mend() == 200
    page.wait_for_end()
    assert agree(page).fence == row.fence + 1
