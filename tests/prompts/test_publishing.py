"""Drafts and releases: who may do what, what stays as it is, what the log says."""

import hashlib

import pytest
import rfc8785
from django.db import Error, connection, transaction

from accounts.access import Denied
from accounts.models import User
from audit.models import Entry
from audit.trail import acting_as
from prompts import publishing
from prompts.models import PromptTemplate, PromptVersion
from prompts.publishing import Conflict, NotPossible, Terms
from prompts.rendering import Kind, Refused, Variable
from prompts.serving import live_version

pytestmark = pytest.mark.django_db


@pytest.fixture
def iris(make_user) -> User:
    """An editor."""
    return make_user("iris", "prompt_editor")


@pytest.fixture
def mei(make_user) -> User:
    """A publisher."""
    return make_user("mei", "prompt_publisher")


@pytest.fixture
def both(make_user) -> User:
    """Somebody who writes and releases."""
    return make_user("both", "prompt_editor", "prompt_publisher")


@pytest.fixture
def template() -> PromptTemplate:
    return PromptTemplate.objects.get(slug="summariser")


@pytest.fixture
def draft(template, iris) -> PromptVersion:
    return _draft(template, iris)


def _draft(template: PromptTemplate, by: User, content: str = "Be brief.") -> PromptVersion:
    with acting_as(by):
        return publishing.begin_draft(template, Terms(content), by=by)


def _publish(draft: PromptVersion, by: User, note: str = "Agreed") -> PromptVersion:
    with acting_as(by):
        return publishing.publish(draft, content_hash=draft.content_hash, note=note, by=by)


def _save(draft: PromptVersion, content: str, revision: int, by: User) -> PromptVersion:
    with acting_as(by):
        return publishing.save_draft(draft, Terms(content), revision=revision, by=by)


def _entries(event: str) -> list[Entry]:
    return list(Entry.objects.filter(event=event).order_by("pk"))


# --- what was published stays ------------------------------------------------------------------

RAW = [
    "UPDATE prompts_promptversion SET content = 'Be rude.' WHERE number = 1",
    "UPDATE prompts_promptversion SET published_at = NULL",
    "UPDATE prompts_promptversion SET release_note = 'as agreed'",
    "DELETE FROM prompts_promptversion WHERE number = 1",
    "TRUNCATE prompts_promptversion CASCADE",
]


def _execute(statements: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statements)


@pytest.mark.parametrize("statement", RAW)
@pytest.mark.parametrize("role", ["origin", "replica"])
def test_sql_changes_nothing_that_was_published(statement, role):
    before = list(PromptVersion.objects.order_by("pk").values())
    with pytest.raises(Error, match="never"), transaction.atomic():
        _execute(f"SET LOCAL session_replication_role = {role}; {statement}")
    assert list(PromptVersion.objects.order_by("pk").values()) == before


def test_sql_lets_no_template_point_at_a_draft_or_at_another_template(draft, template):
    foreign = live_version().pk
    for version in (draft.pk, foreign):
        with pytest.raises(Error, match="must be a published one"), transaction.atomic():
            PromptTemplate.objects.filter(pk=template.pk).update(live_version=version)


def test_a_draft_changes_until_it_is_published(draft, iris, mei):
    _save(draft, "Be very brief.", draft.revision, iris)
    draft.refresh_from_db()
    _publish(draft, mei)
    with pytest.raises(NotPossible, match="published meanwhile"):
        _save(draft, "Be long.", draft.revision, iris)


def test_the_hash_is_of_everything_that_a_reply_depends_on(template, iris):
    terms = Terms(
        "{{ tone }}", (Variable("tone", Kind.TEXT, True, "kind"),), "default", {"top_p": 0.5}
    )
    with acting_as(iris):
        made = publishing.begin_draft(template, terms, by=iris)
    said = {
        "content": "{{ tone }}",
        "variables": [{"name": "tone", "kind": "text", "required": True, "default": "kind"}],
        "model": "default",
        "parameters": {"top_p": 0.5},
    }
    assert made.content_hash == hashlib.sha256(rfc8785.dumps(said)).hexdigest()
    others = [
        hashlib.sha256(rfc8785.dumps(said | {name: other})).hexdigest()
        for name, other in [("content", ""), ("variables", []), ("model", ""), ("parameters", {})]
    ]
    assert len({made.content_hash, *others}) == 5


# --- two people --------------------------------------------------------------------------------


def test_a_publisher_releases_what_an_editor_wrote(draft, mei, template):
    _publish(draft, mei, "Agreed with Legal")
    assert live_version("summariser").pk == draft.pk
    (entry,) = _entries("prompt.published")
    assert (entry.actor_id, entry.target_id) == (str(mei.pk), str(template.pk))
    assert entry.reason == "Agreed with Legal"
    assert entry.payload["content_hash"] == draft.content_hash
    assert not Entry.objects.filter(event="record.changed", actor_id=str(mei.pk)).exists()


def test_nobody_publishes_what_they_wrote_a_part_of(template, both, iris, mei):
    own = _draft(template, both)
    with pytest.raises(Denied):
        _publish(own, both)
    shared = _draft(template, iris)
    shared = _save(shared, "Be brief, please.", shared.revision, both)
    with pytest.raises(Denied):
        _publish(shared, both)
    assert live_version("summariser").number == 1
    _publish(shared, mei)


def test_an_editor_releases_nothing_and_a_publisher_writes_nothing(draft, iris, mei, template):
    with pytest.raises(Denied):
        _publish(draft, iris)
    with pytest.raises(Denied):
        _save(draft, "Mine.", draft.revision, mei)
    with pytest.raises(Denied):
        _draft(template, mei)
    with pytest.raises(Denied):
        publishing.set_paused(template, True, by=iris, note="No")


def test_what_is_published_is_what_was_read(draft, iris, mei):
    read = draft.content_hash
    _save(draft, "Something else.", draft.revision, iris)
    with pytest.raises(Conflict):
        publishing.publish(draft, content_hash=read, note="Agreed", by=mei)
    assert live_version("summariser").number == 1


def test_an_act_wants_a_note(draft, mei):
    with pytest.raises(NotPossible, match="Say why"):
        _publish(draft, mei, " ")
    draft.refresh_from_db()
    assert draft.is_draft


# --- rollback ----------------------------------------------------------------------------------


def test_an_earlier_version_is_restored(draft, mei):
    first = live_version("summariser")
    _publish(draft, mei)
    publishing.restore(first, note="Too brief", by=mei)
    assert live_version("summariser").pk == first.pk
    (entry,) = _entries("prompt.restored")
    assert (entry.payload["emergency"], entry.payload["before"]) == (False, str(draft.pk))


def test_in_an_emergency_one_person_restores_their_own_and_the_log_says_so(
    template, both, iris, mei
):
    own = _publish(_draft(template, both), mei)
    _publish(_draft(template, iris, "Worse."), mei)
    with pytest.raises(Denied):
        publishing.restore(own, note="Worse", by=both)
    publishing.restore(own, note="It answers nothing", by=both, is_emergency=True)
    assert live_version("summariser").pk == own.pk
    (entry,) = _entries("prompt.restored")
    assert (entry.payload["emergency"], entry.actor_id) == (True, str(both.pk))


def test_an_emergency_releases_no_draft_and_makes_no_publisher(draft, iris, both):
    with pytest.raises(NotPossible, match="never live"):
        publishing.restore(draft, note="Now!", by=both, is_emergency=True)
    with pytest.raises(Denied):
        publishing.restore(live_version(), note="Now!", by=iris, is_emergency=True)


# --- editors side by side ----------------------------------------------------------------------


def test_the_second_of_two_editors_overwrites_nothing(draft, iris, both):
    had = draft.revision
    _save(draft, "Iris was here.", had, iris)
    with pytest.raises(Conflict) as conflict:
        _save(draft, "So was I.", had, both)
    assert conflict.value.stored.content == "Iris was here."
    assert PromptVersion.objects.get(pk=draft.pk).content == "Iris was here."


def test_a_template_that_can_not_be_told_is_not_saved(draft, iris):
    with pytest.raises(Refused, match="Line 2: “who” is not declared"):
        _save(draft, "Hello\n{{ who }}", draft.revision, iris)
    for parameters, why in [
        ({"temperature": 3}, "between 0 and 2"),
        ({"seed": 1}, "no parameter seed"),
        ({"max_tokens": 20.5}, "whole number"),
        ({"top_p": True}, "number"),
    ]:
        with pytest.raises(Refused, match=why):
            publishing.save_draft(
                draft, Terms("Be.", parameters=parameters), revision=draft.revision, by=iris
            )
    with pytest.raises(Refused, match="no model gone"):
        publishing.save_draft(draft, Terms("Be.", model="gone"), revision=draft.revision, by=iris)
    draft.refresh_from_db()
    assert draft.content == "Be brief."


# --- templates ---------------------------------------------------------------------------------


def test_the_general_assistant_stays_for_everybody(mei, iris):
    general = PromptTemplate.objects.get(slug="general-assistant")
    with pytest.raises(NotPossible, match="can't pause"):
        publishing.set_paused(general, True, by=mei, note="No")
    general.roles = ["operator"]
    with acting_as(iris), pytest.raises(NotPossible, match="for everybody"):
        publishing.save_template(general, by=iris)


def test_built_in_templates_are_there_and_edits_stay(draft, mei, iris, template):
    from prompts.builtin import seed_templates

    _publish(draft, mei)
    template.refresh_from_db()
    template.name = "Shortener"
    with acting_as(iris):
        publishing.save_template(template, by=iris)
    seed_templates()
    slugs = PromptTemplate.objects.order_by("slug").values_list("slug", flat=True)
    assert list(slugs) == ["general-assistant", "summariser", "support-agent"]
    template.refresh_from_db()
    assert (template.name, template.live_version_id) == ("Shortener", draft.pk)
