"""A live prompt that falls below its own baseline is told of, and retraining is asked for."""

from datetime import date, timedelta

import orjson
import pytest
from celery.exceptions import Retry
from django.core.exceptions import ImproperlyConfigured
from prometheus_client import REGISTRY

from accounts.models import User
from audit.models import Entry
from audit.posting import SIGNATURE_HEADER, TIMESTAMP_HEADER, signature
from conversations.feedback import Opinion, rate
from conversations.models import Rating
from prompts import drift, retraining
from prompts.models import PromptVersion, RatingBaseline, RatingTally
from prompts.retraining import configured_hooks, retraining_asked
from prompts.serving import live_version
from tests.audit.receivers import web_receiver

pytestmark = pytest.mark.django_db

BEGAN = date(2026, 3, 2)
SECRET = "a secret that both sides know, 0123456789"


@pytest.fixture
def version() -> PromptVersion:
    return live_version()


@pytest.fixture
def people(db) -> list[User]:
    return User.objects.bulk_create(User(email=f"rater{n}@example.org") for n in range(60))


@pytest.fixture
def on(monkeypatch):
    """Let it be so many days after the first."""

    def move(day: int) -> None:
        monkeypatch.setattr(drift, "today", lambda: BEGAN + timedelta(days=day))

    move(0)
    return move


@pytest.fixture
def baseline(version, people, on) -> None:
    """45 people rated in the first eight days, one in five of them thumbs down."""
    for number, person in enumerate(people[:45]):
        on(number % 9)
        drift.tally_rating(version.pk, person.pk, is_down=number % 5 == 0)
    on(8)
    drift.look()


@pytest.fixture
def asked(monkeypatch, django_capture_on_commit_callbacks):
    """Run a look, and return for which facts retraining was asked."""
    facts: list[dict] = []
    monkeypatch.setattr(retraining.ask_for_retraining, "delay", facts.append)

    def run() -> list[dict]:
        facts.clear()
        with django_capture_on_commit_callbacks(execute=True):
            drift.look()
        return list(facts)

    return run


def rated(version, people, *, down: int) -> None:
    for number, person in enumerate(people):
        drift.tally_rating(version.pk, person.pk, is_down=number < down)


# --- the baseline ------------------------------------------------------------------------------


def test_the_first_who_rated_are_the_baseline_and_nobody_is_named(version, baseline):
    kept = RatingBaseline.objects.get()
    assert kept.version == version
    assert sorted(kept.scores) == [0.0] * 36 + [1.0] * 9
    assert kept.until == BEGAN + timedelta(days=8)


def test_a_person_who_rates_often_counts_once(version, people, on):
    for _ in range(50):
        drift.tally_rating(version.pk, people[0].pk, is_down=True)
    on(8)
    rated(version, people[:40], down=0)
    drift.look()
    scores = sorted(RatingBaseline.objects.get().scores)
    assert len(scores) == 40
    assert scores[:39] == [0.0] * 39
    assert scores[39] == pytest.approx(50 / 51)


@pytest.mark.parametrize(("count", "day"), [(29, 8), (40, 6)])
def test_few_people_or_days_are_no_baseline(version, people, on, count, day):
    rated(version, people[:1], down=0)
    on(day)
    rated(version, people[1:count], down=0)
    drift.look()
    assert not RatingBaseline.objects.exists()


# --- a fall ------------------------------------------------------------------------------------


def test_a_prompt_that_is_disliked_is_told_of_with_its_numbers(
    version, people, on, baseline, asked
):
    before = _declines()
    on(20)
    rated(version, people[:40], down=40)
    (fact,) = asked()
    entry = Entry.objects.get(event="prompt.declined")
    assert entry.payload["numbers"] == fact["numbers"]
    assert entry.payload["source"] == "feedback"
    numbers = fact["numbers"]
    assert (numbers["people_week"], numbers["thumbs_down_week"]) == (40, 1.0)
    assert 0.1 < numbers["thumbs_down_baseline"] < 0.3  # of those who are bet on
    assert numbers["p"] <= numbers["alpha"]
    assert (fact["template"], fact["number"]) == ("general-assistant", version.number)
    assert _declines() == before + 1


def _declines() -> float:
    labels = {"template": "general-assistant", "source": "feedback"}
    return REGISTRY.get_sample_value("parley_prompt_declines_total", labels) or 0.0


def test_a_prompt_that_stays_as_it_was_is_not_told_of(version, people, on, baseline, asked):
    for day in range(16, 30):
        on(day)
        rated(version, people[day : day + 20], down=5)
        assert asked() == []


def test_few_people_of_a_week_are_not_judged(version, people, on, baseline, asked):
    on(20)
    rated(version, people[:4], down=4)
    assert asked() == []


def test_a_fall_is_told_of_once_a_week_however_often_somebody_looks(
    version, people, on, baseline, asked
):
    on(20)
    rated(version, people[:40], down=40)
    assert asked()
    assert asked() == []
    on(21)
    assert asked() == []
    on(27)
    rated(version, people[:40], down=40)
    assert asked()


def test_the_days_of_the_baseline_are_no_part_of_a_week_that_is_compared(
    version, people, on, baseline, asked
):
    on(15)
    rated(version, people[:40], down=40)
    assert asked() == []
    on(16)
    assert asked()


def test_who_rated_is_forgotten_when_no_look_needs_it(version, people, on):
    rated(version, people[:3], down=0)
    on(91)
    drift.look()
    assert not RatingTally.objects.exists()


def test_only_first_ratings_of_a_live_version_are_counted(finished, olive):
    turn = finished()
    for rating in ("down", "up", "down"):
        rate(olive, turn.conversation.pk, turn.reply.pk, Opinion(Rating(rating)))
    (tally,) = RatingTally.objects.all()
    assert (tally.person, tally.ratings, tally.thumbs_down) == (olive, 1, 1)


def test_an_evaluation_can_tell_of_a_fall_too(version, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks() as callbacks:
        drift.declined(version, "evaluation", {"score": 0.6, "baseline": 0.9})
    assert len(callbacks) == 1
    entry = Entry.objects.get(event="prompt.declined")
    assert entry.payload["numbers"] == {"score": 0.6, "baseline": 0.9}


# --- retraining --------------------------------------------------------------------------------

FACT = {"event": "prompt.declined", "template": "support-agent", "numbers": {"p": 0.0001}}


@pytest.fixture
def receiver(settings, monkeypatch):
    monkeypatch.setenv("AUDIT_STREAM_SECRET", SECRET)
    with web_receiver() as found:
        settings.RETRAINING_WEBHOOK = f"{found.url}/hook/a-token"
        yield found


def test_a_webhook_gets_the_fact_signed(receiver):
    (name,) = configured_hooks()
    retraining.post_to_hook(name, FACT)
    (request,) = receiver.requests
    assert orjson.loads(request.body) == FACT
    sent_at = int(request.headers[TIMESTAMP_HEADER.lower()])
    expected = signature(SECRET, sent_at, request.body)
    assert request.headers[SIGNATURE_HEADER.lower()] == expected
    assert "a-token" not in name


def test_a_webhook_that_fails_is_tried_again(receiver, monkeypatch):
    (name,) = configured_hooks()
    receiver.answer = lambda _request: (503, "")
    tried: list[dict] = []

    def retry(**given):
        tried.append(given)
        return Retry()

    monkeypatch.setattr(retraining.post_to_hook, "retry", retry)
    with pytest.raises(Retry):
        retraining.post_to_hook(name, FACT)
    assert 0 < tried[0]["countdown"] <= 5


def test_listeners_of_the_signal_hear_of_it_and_one_that_fails_holds_nobody(receiver, monkeypatch):
    heard, posted = [], []
    monkeypatch.setattr(retraining.post_to_hook, "delay", lambda *given: posted.append(given))

    def fails(**_given):
        raise RuntimeError

    def hears(fact, **_given):
        heard.append(fact)

    for listener in (fails, hears):
        retraining_asked.connect(listener)
    try:
        retraining.ask_for_retraining(FACT)
    finally:
        for listener in (fails, hears):
            retraining_asked.disconnect(listener)
    assert heard == [FACT]
    assert posted == [(*configured_hooks(), FACT)]


@pytest.mark.parametrize(
    "address", ["http://training.example.org/x", "ftp://a.example", "https://"]
)
def test_an_address_that_can_not_be_is_refused_without_its_secrets(settings, address):
    settings.RETRAINING_WEBHOOK = address
    with pytest.raises(ImproperlyConfigured, match="RETRAINING_WEBHOOK, address 1"):
        configured_hooks()
