"""What a turn is told: by whose template, which version, and when that one can't serve."""

import uuid

import pytest
from django.utils import timezone

from audit.models import Entry
from audit.trail import acting_as
from conversations.models import Conversation, Message
from conversations.turn import Refusal, continue_turn, start_turn
from prompts import publishing
from prompts.models import PromptTemplate, PromptVersion
from prompts.publishing import Terms
from prompts.rendering import Kind, Variable
from prompts.serving import live_version, templates_for

pytestmark = pytest.mark.django_db


@pytest.fixture
def release(make_user):
    """Publish another version of a template, written by one person and released by another."""
    iris, mei = make_user("iris", "prompt_editor"), make_user("mei", "prompt_publisher")

    def publish(slug: str, content: str, **terms) -> PromptVersion:
        template = PromptTemplate.objects.get(slug=slug)
        with acting_as(iris):
            draft = publishing.begin_draft(template, Terms(content, **terms), by=iris)
        with acting_as(mei):
            read = draft.content_hash
            return publishing.publish(draft, content_hash=read, note="Agreed", by=mei)

    publish.by = mei
    return publish


def told(turn) -> str:
    (system, *_) = turn.call.messages
    return system["content"]


@pytest.fixture
def ask(olive, runner_row):
    def start(template="", conversation=None, by=None):
        return start_turn(
            conversation.pk if conversation else uuid.uuid4(),
            by=by or olive,
            text="Hello?",
            key=uuid.uuid4().hex,
            runner_id=runner_row.pk,
            template=template,
        )

    return start


def ended(turn) -> Conversation:
    Message.objects.filter(pk=turn.reply.pk).update(state="completed")
    return turn.conversation


def test_a_conversation_keeps_the_template_that_it_began_with(ask, release):
    first = ask("summariser")
    assert told(first).startswith("You summarise texts")
    assert "at most five sentences" in told(first)
    release("summariser", "Be shorter.")
    later = ask("support-agent", ended(first))
    assert (told(later), later.reply.prompt_version.number) == ("Be shorter.", 2)
    assert str(ask().reply.prompt_version) == "General assistant v1"


def test_a_turn_knows_the_day(ask, release):
    release("summariser", "{{ weekday }}, {{ today }}")
    assert told(ask("summariser")).split(", ")[0].endswith("day")


def test_parameters_and_the_model_of_a_version_reach_the_call(ask, release):
    tone = Variable("tone", Kind.TEXT, True, "kind")
    terms = {"parameters": {"temperature": 0.2, "max_tokens": 300}, "model": "default"}
    release("summariser", "Be {{ tone }}.", variables=(tone,), **terms)
    turn = ask("summariser")
    assert told(turn) == "Be kind."
    assert turn.call.parameters == {"temperature": 0.2}
    assert turn.call.max_tokens == 300


def test_people_choose_among_what_their_roles_allow(ask, release, olive, sam, make_user):
    summariser = PromptTemplate.objects.get(slug="summariser")
    PromptTemplate.objects.filter(pk=summariser.pk).update(roles=["operator"])
    names = [one.slug for one in templates_for(olive)]
    assert names == ["general-assistant", "support-agent"]
    with pytest.raises(Refusal, match="no_template"):
        ask("summariser")
    with pytest.raises(Refusal, match="no_template"):
        ask("nothing-like-it")
    assert not Conversation.objects.exists()
    otto = make_user("otto", "operator")
    assert told(ask("summariser", by=otto)).startswith("You summarise")


def test_a_paused_template_begins_nothing_and_goes_on(ask, release, olive):
    conversation = ended(ask("summariser"))
    template = PromptTemplate.objects.get(slug="summariser")
    publishing.set_paused(template, True, by=release.by, note="Too long")
    assert "summariser" not in [one.slug for one in templates_for(olive)]
    with pytest.raises(Refusal, match="no_template"):
        ask("summariser")
    assert told(ask("", conversation)).startswith("You summarise")
    publishing.set_paused(template, False, by=release.by, note="Mended")
    assert told(ask("summariser")).startswith("You summarise")


def test_without_a_live_version_the_last_good_one_serves_and_it_is_reported(ask, release):
    conversation = ended(ask("summariser"))
    release("summariser", "Be shorter.")
    PromptTemplate.objects.filter(slug="summariser").update(live_version=None)
    assert told(ask("", conversation)) == "Be shorter."
    (entry,) = Entry.objects.filter(event="prompt.unavailable")
    assert (entry.outcome, entry.actor_id) == ("failed", "prompts")


def test_a_live_version_that_can_not_be_told_gives_way_to_the_last_good_one(ask, release):
    conversation = ended(ask("summariser"))
    template = PromptTemplate.objects.get(slug="summariser")
    broken = PromptVersion(
        template=template, number=7, content="{{ who }}", published_at=timezone.now()
    )
    PromptVersion.objects.bulk_create([broken])
    PromptTemplate.objects.filter(pk=template.pk).update(live_version=broken)
    turn = ask("", conversation)
    assert told(turn).startswith("You summarise")
    assert turn.reply.prompt_version.number == 1


def bare_template() -> PromptTemplate:
    return PromptTemplate.objects.bulk_create([PromptTemplate(slug="bare", name="Bare")])[0]


def test_a_template_without_any_good_version_is_served_by_the_general_assistant(ask, olive):
    bare = bare_template()
    conversation = Conversation.objects.create(owner=olive, template=bare)
    turn = ask("", conversation)
    assert turn.reply.prompt_version == live_version()


def test_with_nothing_published_at_all_a_question_is_refused(ask, olive, monkeypatch):
    monkeypatch.setattr("prompts.serving.MOST_TRIED", 0)
    PromptTemplate.objects.update(live_version=None)
    bare = bare_template()
    conversation = Conversation.objects.create(owner=olive, template=bare)
    with pytest.raises(Refusal, match="no_prompt"):
        ask("", conversation)


def test_a_reply_that_goes_on_keeps_its_version(ask, release, olive, runner_row):
    turn = ask("summariser")
    Message.objects.filter(pk=turn.reply.pk).update(state="failed", fault="cut")
    release("summariser", "Be shorter.")
    again = continue_turn(turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk)
    assert told(again).startswith("You summarise")
    assert again.reply.prompt_version.number == 1


def test_the_choice_costs_one_query(ask, release, django_assert_num_queries):
    from prompts.serving import chosen_before, wording_for

    ask("summariser")
    template = PromptTemplate.objects.get(slug="summariser")
    with django_assert_num_queries(1):
        assert wording_for(chosen_before(template.pk)).version.number == 1
