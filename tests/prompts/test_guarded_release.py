"""End to end: turns that fail on the canary alone end its release."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import httpx2
import pytest

from audit.models import Entry
from audit.trail import acting_as
from conversations.models import Conversation, Message
from prompts import offering, publishing
from prompts.catalogue import kept_offers
from prompts.models import ArmTally, LanguageModel, ModelPrice, PromptTemplate, Release
from prompts.publishing import Terms
from prompts.release import guards, rollout
from prompts.release.rollout import Plan, Step
from prompts.tasks import watch_releases
from tests.conversations.doors import program_of

CLOSED_PORT = "http://127.0.0.1:9/v1"


@pytest.fixture
def broken_model(ada) -> LanguageModel:
    """A model on offer at an address where nobody answers."""
    model = LanguageModel(
        slug="broken",
        label="Broken",
        base_url=CLOSED_PORT,
        remote_name="none",
        context_window=32_768,
        max_output_tokens=1024,
    )
    offering.define_model(model, roles=[], by=ada)
    free = {name: Decimal(0) for name in ("input", "cached_input", "output")}
    offering.set_price(ModelPrice(model=model, source="test", **free), by=ada)
    kept_offers.forget()
    return model


@pytest.fixture
def release(make_user, broken_model) -> Release:
    """Half of the people get a version whose model can't be reached."""
    iris, mei = make_user("iris", "prompt_editor"), make_user("mei", "prompt_publisher")
    template = PromptTemplate.objects.get(slug="general-assistant")
    terms = Terms("You help.", model=broken_model.slug)
    with acting_as(iris):
        draft = publishing.begin_draft(template, terms, by=iris)
    read = draft.content_hash
    version = publishing.publish(draft, content_hash=read, note="Agreed", by=mei, for_release=True)
    return rollout.begin(version, Plan(steps=[Step(5000)]), note="Try", by=mei)


def ask(program: httpx2.Client) -> None:
    with program:
        program.post("/chat", json={"user_message": "Hello?"})


def test_turns_that_fail_on_the_canary_alone_end_its_release(live, make_user, release):
    people = [make_user(f"person{number}", "member") for number in range(30)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, [program_of(live.url, person) for person in people]))
    live.finish_replies()
    states = set(Message.objects.filter(role="assistant").values_list("arm", "state"))
    assert states == {("canary", "failed"), ("production", "completed")}
    assert ArmTally.objects.count() == len(people)

    watch_releases()

    assert Release.objects.get(pk=release.pk).state == Release.State.ROLLED_BACK
    entry = Entry.objects.get(event="release.rolled_back")
    (crossed,) = entry.payload["numbers"]["crossed"]
    assert (crossed["metric"], crossed["canary"], crossed["production"]) == ("errors", 1.0, 0.0)
    assert (entry.actor_kind, entry.actor_id) == ("system", "guards")

    drawn = Conversation.objects.filter(arm="canary").select_related("owner").first()
    with program_of(live.url, drawn.owner) as program:
        said = {"user_message": "And now?", "session_id": str(drawn.pk)}
        assert program.post("/chat", json=said).status_code == 200
    live.finish_replies()
    last = Message.objects.filter(conversation=drawn, role="assistant").latest("created_at")
    assert (last.state, last.arm) == ("completed", "production")


def test_turns_of_nobody_are_tallied_without_a_release(live, olive):
    ask(program_of(live.url, olive))
    live.finish_replies()
    assert Message.objects.filter(state="completed").exists()
    assert not ArmTally.objects.exists()


def test_guards_look_often_enough_to_end_a_release_within_a_minute(settings):
    beat = settings.CELERY_BEAT_SCHEDULE["watch_releases"]
    assert beat["task"] == "prompts.tasks.watch_releases"
    assert beat["schedule"] == guards.LOOK_EVERY.total_seconds() < 60
