"""`manage.py evaluate` as pipelines use it: exit codes, a kill in the middle, a stop."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from urllib.parse import urlsplit

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.utils import timezone

from accounts.access import System
from benchmarks.provider_simulator import forget_requests, recorded_requests
from prompts import publishing
from prompts.evaluation import runs, sets
from prompts.models import EvaluationRun, EvaluationSet, PromptTemplate
from prompts.publishing import Terms
from tests.prompts.evaluations import case, lines

pytestmark = pytest.mark.django_db(transaction=True)

BY = System("test")


@pytest.fixture(autouse=True)
def provider(simulator):
    forget_requests(simulator)
    return simulator


@pytest.fixture
def evaluate(simulator) -> Callable[..., subprocess.Popen]:
    """Run the command in a process of its own, on the test's database."""

    def run(*arguments: str) -> subprocess.Popen:
        here = {
            "DATABASE_URL": urlsplit(os.environ["DATABASE_URL"])
            ._replace(path=f"/{connection.settings_dict['NAME']}")
            .geturl(),
            "OPENAI_BASE_URL": simulator,
            "PROVIDER_ATTEMPTS": "1",
            "PROVIDER_BREAKER_FAULTS": "1000000",
        }
        return subprocess.Popen(
            [sys.executable, "manage.py", "evaluate", *arguments],
            cwd=django_settings.BASE_DIR,
            env={**os.environ, **here},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def ended(process: subprocess.Popen) -> tuple[int, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def stored(*cases) -> None:
    sets.make_set(EvaluationSet(slug="tests", name="My tests"), lines(*cases), note="", by=BY)


def asked(provider: str) -> Counter:
    said = (record["messages"][-1]["content"] for record in recorded_requests(provider))
    return Counter(found[1] for text in said if (found := re.match(r"Question (\S+)", text)))


NONE = {"type": "contains", "text": "nowhere"}


def test_the_exit_code_says_how_it_went(evaluate):
    stored(case("a"), case("b"), case("c"), case("d", NONE))
    code, said = ended(evaluate("summariser@live", "--set", "tests", "--min", "0.75"))
    assert code == 0, said
    assert "3 of 4 passed" in said
    assert re.search(r"^d +failed +[0-9.]+ s  \$[0-9.]+  contains$", said, re.MULTILINE)
    code, said = ended(evaluate("summariser@v1", "--set", "My tests", "--min", "0.76"))
    assert code == 3, said
    assert "0.7500 is less than 0.76" in said


def test_a_missing_result_is_not_passed_whatever_the_score(evaluate):
    stored(case("a"), case("b", status=500))
    code, said = ended(evaluate("summariser@1", "--set", "tests", "--min", "0.1"))
    assert code == 4, said
    run = EvaluationRun.objects.get()
    assert f"evaluate --resume {run.pk}" in said


def test_a_judgement_that_can_not_be_read_is_not_passed(evaluate):
    judged = {"type": "judge", "rubric": "It is kind.", "min": 0.1}
    stored(case("a"), case("b", judged))
    code, said = ended(evaluate("summariser@1", "--set", "tests", "--min", "0.1"))
    assert code == 4, said
    assert "of 1 cases the judge's answer could not be read" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nobody@v1", "--set", "tests"), "There is no template nobody; there are"),
        (("summariser@v9", "--set", "tests"), "has no version “v9”: name @v3, @live or @draft"),
        (("summariser@draft", "--set", "tests"), "has no version “draft”"),
        (
            ("summariser@v1", "--set", "other"),
            "no evaluation set other with cases; there are general-assistant,",
        ),
        (("summariser@v1",), "Name what to evaluate"),
        (("summariser@v1", "--set", "tests", "--limit-usd", "0.0"), "above $0"),
        (("--resume", "00000000-0000-0000-0000-000000000000"), "There is no run"),
    ],
)
def test_what_there_is_not_is_said_with_a_code_of_its_own(evaluate, arguments, says):
    stored(case("a"))
    code, said = ended(evaluate(*arguments, "--min", "0.5"))
    assert code == 2, said
    assert says in said
    assert "Traceback" not in said


@pytest.mark.parametrize("least", ["1.5", "NaN", "Infinity"])
def test_a_score_that_is_none_is_a_mistake_of_use(evaluate, least):
    code, said = ended(evaluate("summariser@v1", "--set", "tests", f"--min={least}"))
    assert code == 2, said
    assert "a score is " in said


def test_a_set_is_named_by_its_slug_whatever_others_are_called(evaluate):
    stored(case("a"))
    EvaluationSet.objects.filter(slug="tests").update(name="zebras")  # the last by name
    other = EvaluationSet(slug="other", name="tests")
    sets.make_set(other, lines(case("b", NONE)), note="", by=BY)
    code, said = ended(evaluate("summariser@v1", "--set", "tests", "--min", "1"))
    assert code == 0, said


def test_a_draft_can_be_evaluated(evaluate, make_user):
    iris = make_user("iris", "prompt_editor")
    stored(case("a"))
    from audit.trail import acting_as

    with acting_as(iris):
        template = PromptTemplate.objects.get(slug="summariser")
        draft = publishing.begin_draft(template, Terms("Be brief."), by=iris)
    code, said = ended(evaluate("summariser@draft", "--set", "tests", "--min", "1"))
    assert code == 0, said
    assert EvaluationRun.objects.get().content_hash == draft.content_hash


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def decided() -> int:
    run = EvaluationRun.objects.first()
    return run.decided if run else 0


def test_a_run_that_is_killed_in_the_middle_asks_nothing_twice_by_itself(evaluate, provider):
    stored(*(case(f"c{n}", text="A reply.", first_token_seconds=0.2) for n in range(40)))
    first = evaluate("summariser@v1", "--set", "tests", "--min", "1")
    wait_until(lambda: decided() >= 6)
    first.kill()
    ended(first)
    run = EvaluationRun.objects.get()
    code, said = ended(evaluate("--resume", str(run.pk), "--min", "1"))
    assert code == 2, "its process may still live"
    assert "Another process works on this run" in said

    EvaluationRun.objects.update(beat_at=timezone.now() - timedelta(hours=1))
    code, said = ended(evaluate("--resume", str(run.pk), "--min", "1"))
    run.refresh_from_db()
    assert code == 4, said
    assert 1 <= run.uncertain <= 4
    assert f"To ask them again: evaluate --resume {run.pk} --ask-again" in said
    once = asked(provider)
    assert set(once.values()) == {1}, "nothing was asked twice"
    unsure = set(run.results.filter(state="uncertain").values_list("case_id", flat=True))
    assert run.decided == 40 - len(unsure)

    code, said = ended(evaluate("--resume", str(run.pk), "--ask-again", "--min", "1"))
    assert code == 0, said
    after = asked(provider)
    assert {name for name, times in after.items() if times > 1} <= unsure
    assert len(after) == 40


def test_a_stop_waits_for_what_is_being_asked_and_says_how_to_go_on(evaluate, provider):
    stored(*(case(f"c{n}", text="A reply.", first_token_seconds=0.2) for n in range(40)))
    process = evaluate("summariser@v1", "--set", "tests", "--min", "1")
    wait_until(lambda: decided() >= 4)
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert code == 130, said
    run = EvaluationRun.objects.get()
    assert (run.state, run.uncertain, run.reserved_usd) == ("cancelled", 0, 0)
    assert run.decided == sum(asked(provider).values()) < 40
    code, said = ended(evaluate("--resume", str(run.pk), "--min", "1"))
    assert code == 0, said
    assert set(asked(provider).values()) == {1}
    assert EvaluationRun.objects.get().limit_usd == runs.USUAL_LIMIT_USD == Decimal(5)
