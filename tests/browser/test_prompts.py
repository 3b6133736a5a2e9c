"""The editors' workplace in a browser: write, play, release; and what people then choose from."""

import re

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from accounts.models import User
from audit.models import Entry
from benchmarks.provider_simulator import sim
from conversations.models import Conversation, Message, Reservation
from prompts.models import PromptTemplate, PromptVersion
from prompts.serving import live_version
from tests.browser.chat import Chat, last_reply
from tests.browser.workplace import play

pytestmark = pytest.mark.browser


def open_version(page: Page, version: PromptVersion) -> None:
    page.goto(reverse("admin:prompts_promptversion_change", args=[version.pk]))


@pytest.fixture
def editor(new_context, prompt_draft: PromptVersion) -> Page:
    """The page of the draft in its editor's browser."""
    page = new_context(prompt_draft.author).new_page()
    open_version(page, prompt_draft)
    return page


def test_an_editor_writes_and_plays_and_a_publisher_releases(
    new_context, olive: User, publisher: User, chat_of, live
):
    iris = User.objects.create_user("iris@parley.example", name="Iris")
    iris.grants.create(role_id="prompt_editor")
    page = new_context(iris).new_page()
    page.goto(reverse("admin:prompts_prompttemplate_changelist"))
    page.get_by_role("link", name="Summariser").click()
    page.get_by_role("button", name="New version from v1").click()
    page.get_by_label("What the AI is told").fill("Sum it up for {{ reader }}.")
    page.get_by_label("Name of variable 1").fill("reader")
    page.get_by_label("Default of variable 1").fill("a busy reader")
    play(page, "Hello")
    columns = page.locator(".trial-reply")
    expect(columns).to_have_count(2)
    expect(columns.locator(".said")).to_have_text(["A simulated reply."] * 2)
    expect(columns.locator(".evidence")).to_have_count(2)
    expect(columns.locator("h3")).to_have_text(["v2, as it stands here", "v1, live"])
    assert PromptVersion.objects.get(number=2).content.startswith("You summarise")

    page.get_by_label("What changes, and why").fill("For busy readers")
    page.get_by_role("button", name="Save the draft").click()
    expect(page.get_by_text("The draft is saved.")).to_be_visible()

    release = new_context(publisher).new_page()
    release.goto(page.url)
    release.get_by_role("link", name="Publish…").click()
    expect(release.locator(".diff")).to_contain_text("Sum it up for {{ reader }}.")
    release.get_by_label("Everybody at once").check()
    release.get_by_label("Why").fill("Agreed")
    release.get_by_role("button", name="Publish v2").click()
    expect(release.get_by_text("Done: Publish v2.")).to_be_visible()

    chat = chat_of(olive)
    chat.page.get_by_label("What it is for").select_option("Summariser")
    chat.ask("Hello")
    chat.expect_finished()
    expect(chat.page.get_by_label("What it is for")).to_have_count(0)
    chat.ask("And again")
    chat.expect_finished(replies=2)
    replies = Message.objects.filter(role="assistant", conversation__owner=olive)
    assert {str(reply.prompt_version) for reply in replies} == {"Summariser v2"}


def test_a_reply_of_the_playground_arrives_word_by_word(editor: Page):
    play(editor, sim(text=None, tokens=2_000, tokens_per_second=40))
    said = editor.locator(".trial-reply .said").first
    expect(said).to_have_text(re.compile(r"[\s\S]{40}"))
    expect(editor.locator(".trial-reply [data-state]").first).to_have_text("Being written")


def test_trials_are_charged_and_stay_out_of_everybodys_lists(editor: Page, prompt_draft):
    play(editor, "Hello")
    expect(editor.locator(".trial-reply .evidence")).to_have_count(2)
    iris = prompt_draft.author
    assert Reservation.objects.filter(settled_at=None).count() == 0
    assert Reservation.objects.count() == 2
    assert not Conversation.objects.visible_to(iris).exists()
    tried = Entry.objects.filter(event="prompt.tried")
    assert {entry.payload["content_hash"] for entry in tried} == {
        prompt_draft.content_hash, live_version("support-agent").content_hash,
    }  # fmt: skip


def test_a_rule_holds_in_the_playground_too(editor: Page, rule):
    rule(kind="words", words="merger", action="block", message="Not about the merger.")
    play(editor, "What about the merger?")
    refused = editor.locator(".trial-reply .notice")
    expect(refused).to_have_count(2)
    expect(refused.first).to_contain_text("Not about the merger. Nothing was sent.")
    assert not Message.objects.exists()


def test_a_text_that_can_not_be_told_is_not_asked(editor: Page):
    editor.get_by_label("What the AI is told").fill("One\n{{ who }}")
    play(editor, "Hello")
    expect(editor.locator("#trials .notice")).to_contain_text("Line 2: “who” is not declared.")
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("x" * 1_000_000, "64 KB is the most"),
        (
            "{% for a in subjects %}{% for b in subjects %}{% for c in subjects %}"
            "{% for d in subjects %}" + "{% endfor %}" * 4,
            "more than 10,000",
        ),
    ],
    ids=["a megabyte", "endless loops"],
)
def test_a_text_without_bounds_is_neither_asked_nor_saved(editor: Page, prompt_draft, content, why):
    if "subjects" in content:
        editor.get_by_label("Kind of variable 3").select_option("list")
        editor.get_by_label("Name of variable 3").fill("subjects")
        editor.get_by_label("Default of variable 3").fill("one topic\n" * 20)
    editor.get_by_label("What the AI is told").fill(content)
    play(editor, "Hello")
    expect(editor.locator("#trials .notice")).to_contain_text(why)
    editor.get_by_role("button", name="Save the draft").click()
    expect(editor.get_by_role("alert")).to_contain_text("The draft is not saved.")
    expect(editor.get_by_text(why)).to_be_visible()
    assert not Message.objects.exists()
    assert PromptVersion.objects.get(pk=prompt_draft.pk).revision == 1


@pytest.mark.parametrize(
    ("fault", "kept", "why"),
    [
        ({"status": 500}, "", "The provider reported an error of its own."),
        ({"text": "One two three four five.", "reset_after": 3}, "One", "The connection"),
    ],
    ids=["before the first word", "in the middle"],
)
def test_a_provider_that_dies_in_the_playground_is_told_in_its_column(
    editor: Page, prompt_draft: PromptVersion, fault, kept, why
):
    editor.get_by_label("What the AI is told").fill("Not saved yet.")
    play(editor, sim(**fault))
    columns = editor.locator(".trial-reply")
    expect(columns.locator(".notice")).to_contain_text([why] * 2)
    expect(columns.locator(".said")).to_contain_text([kept] * 2)
    expect(columns.locator(".evidence")).to_have_count(2)
    expect(editor.get_by_label("What the AI is told")).to_have_value("Not saved yet.")
    assert PromptVersion.objects.get(pk=prompt_draft.pk).revision == 1
    assert not Reservation.objects.filter(settled_at=None).exists()
    play(editor, "Hello")
    expect(columns.locator(".said")).to_have_text(["A simulated reply."] * 2)


def test_the_playground_works_without_javascript(new_context, prompt_draft: PromptVersion):
    page = new_context(prompt_draft.author, java_script_enabled=False).new_page()
    open_version(page, prompt_draft)
    page.get_by_label("What the AI is told").fill("Not saved yet.")
    play(page, "Hello")
    expect(page.locator(".trial-reply .said")).to_have_text(["A simulated reply."] * 2)
    expect(page.get_by_label("What the AI is told")).to_have_value("Not saved yet.")
    assert PromptVersion.objects.get(pk=prompt_draft.pk).revision == 1


def test_only_who_works_on_prompts_plays(new_context, prompt_draft, ravi: User, olive: User):
    path = reverse("try_prompt", args=[prompt_draft.pk])
    for person in (ravi, olive):
        page = new_context(person).new_page()
        page.goto("/")
        token = page.locator("[name=csrfmiddlewaretoken]").first.input_value()
        answer = page.request.post(path, form={"question": "Hi", "csrfmiddlewaretoken": token})
        assert answer.status == 403
    assert not Message.objects.exists()


def test_nobody_follows_the_trial_of_somebody_else(editor: Page, new_context, publisher: User):
    play(editor, "Hello")
    expect(editor.locator(".trial-reply .evidence")).to_have_count(2)
    other = new_context(publisher).new_page()
    answer = other.request.get(reverse("trial_stream", args=[last_reply().pk]))
    assert answer.status == 404


def test_without_javascript_a_template_is_chosen_too(chat_of, olive: User):
    plain = chat_of(olive, java_script_enabled=False)
    plain.page.get_by_label("What it is for").select_option("Support agent")
    plain.field.fill("Hello")
    plain.page.get_by_role("button", name="Send").click()
    plain.expect_finished()
    assert str(last_reply().prompt_version) == "Support agent v1"


def test_a_choice_that_is_gone_is_refused_and_the_text_stays(chat_of, olive: User):
    chat: Chat = chat_of(olive)
    PromptTemplate.objects.filter(slug="summariser").update(is_paused=True)
    chat.page.get_by_label("What it is for").select_option("Summariser")
    chat.ask("Hello")
    expect(chat.refusal).to_contain_text("This template is not on offer for you.")
    expect(chat.field).to_have_value("Hello")
