"""The editors' workplace in the administration: pages, drafts, releases, two editors at once."""

import re

import pytest

from audit.models import Entry
from prompts.comparison import compare
from prompts.models import PromptTemplate, PromptVersion
from prompts.publishing import Terms
from prompts.serving import live_version

pytestmark = pytest.mark.django_db

LIST = "/admin/prompts/prompttemplate/"


@pytest.fixture
def person(make_user, client):
    """Sign somebody in with these roles."""
    from django.test import Client

    def signed_in(name: str, *roles: str) -> Client:
        browser = Client()
        browser.force_login(make_user(name, *roles))
        return browser

    return signed_in


@pytest.fixture
def editor(person):
    return person("iris", "prompt_editor")


@pytest.fixture
def publisher(person):
    return person("mei", "prompt_publisher")


@pytest.fixture
def template() -> PromptTemplate:
    return PromptTemplate.objects.get(slug="summariser")


def page_of(template: PromptTemplate) -> str:
    return f"{LIST}{template.pk}/change/"


def version_page(version: PromptVersion, act: str = "") -> str:
    return f"{LIST}versions/{version.pk}/{act}"


def form(content: str, revision: int = 1, **more: str) -> dict[str, str]:
    management = {"variables-TOTAL_FORMS": "2", "variables-INITIAL_FORMS": "0"}
    kinds = {"variables-0-kind": "text", "variables-1-kind": "text"}
    return {"content": content, "revision": str(revision), **management, **kinds, **more}


@pytest.fixture
def draft(editor, template) -> PromptVersion:
    editor.post(f"{LIST}{template.pk}/draft/", {"from": str(template.live_version_id)})
    return template.versions.get(published_at=None)


def test_the_list_says_what_is_live(editor, draft, django_assert_max_num_queries):
    editor.get(LIST)
    with django_assert_max_num_queries(8):
        html = editor.get(LIST).content.decode()
    assert re.search(r"Summariser.*?v1, .*?on offer.*?1.*?everybody", html, re.DOTALL)


def test_from_draft_to_release(editor, publisher, draft, template):
    saved = form("Be {{ tone }}.\n", change_note="Shorter", temperature="0.3")
    saved |= {"variables-0-name": "tone", "variables-0-default": "kind"}
    saved |= {"variables-0-required": "on"}
    assert editor.post(version_page(draft), saved).status_code == 302
    draft.refresh_from_db()
    assert draft.parameters == {"temperature": 0.3}
    assert draft.variables == [
        {"name": "tone", "kind": "text", "required": True, "default": "kind"}
    ]

    page = publisher.get(version_page(draft)).content.decode()
    assert "Publish…" in page
    assert "Be kind." in page
    release = publisher.get(version_page(draft, "publish/")).content.decode()
    assert "You summarise texts" in release
    done = {"content_hash": draft.content_hash, "note": "Agreed"}
    assert publisher.post(version_page(draft, "publish/"), done).status_code == 302
    assert live_version("summariser").pk == draft.pk
    assert "Live" in editor.get(page_of(template)).content.decode()
    assert editor.post(version_page(draft), saved).status_code == 302
    assert template.versions.get(number=3).is_draft


def test_a_bad_template_is_refused_with_its_line_and_stays_in_the_form(editor, draft):
    answer = editor.post(version_page(draft), form("One\n{{ who.__class__ }}"))
    html = answer.content.decode()
    assert answer.status_code == 422
    assert "Line 2: Attributes are not possible" in html
    assert "{{ who.__class__ }}" in html
    draft.refresh_from_db()
    assert draft.revision == 1


def test_a_megabyte_is_refused(editor, draft):
    answer = editor.post(version_page(draft), form("x" * 1_000_000))
    assert answer.status_code == 422
    assert "64 KB is the most" in answer.content.decode()


def test_the_second_editor_sees_both_texts_and_overwrites_nothing(editor, person, draft):
    second = person("otto", "prompt_editor")
    editor.post(version_page(draft), form("Iris was here.\n"))
    answer = second.post(version_page(draft), form("Otto was here.\n"))
    html = answer.content.decode()
    assert answer.status_code == 409
    assert "Somebody else saved this draft meanwhile." in html
    assert re.search(r"<del>Iris</del>.*<ins>Otto</ins>", html, re.DOTALL)
    assert "Otto was here.\n</textarea>" in html
    draft.refresh_from_db()
    assert draft.content == "Iris was here.\n"
    revision = re.search(r'name="revision" value="(\d+)"', html)[1]
    assert second.post(version_page(draft), form("Both.", int(revision))).status_code == 302
    draft.refresh_from_db()
    assert draft.content == "Both."


def test_what_an_editor_wrote_while_it_was_published_becomes_a_draft(
    editor, publisher, draft, template
):
    done = {"content_hash": draft.content_hash, "note": "Agreed"}
    publisher.post(version_page(draft, "publish/"), done)
    html = editor.post(version_page(draft), form("Late."), follow=True).content.decode()
    assert "Your text is kept as the draft v3" in html
    assert template.versions.get(number=3).content == "Late."


def test_a_publisher_of_their_own_text_is_told_to_find_another(person, template):
    both = person("both", "prompt_editor", "prompt_publisher")
    both.post(f"{LIST}{template.pk}/draft/", {"from": str(template.live_version_id)})
    own = template.versions.get(published_at=None)
    assert (
        "Somebody else has to publish it."
        in both.get(version_page(own, "publish/")).content.decode()
    )
    done = {"content_hash": own.content_hash, "note": "Mine"}
    assert both.post(version_page(own, "publish/"), done).status_code == 403
    own.refresh_from_db()
    assert own.is_draft


def test_a_draft_that_changed_after_it_was_read_is_read_again(editor, publisher, draft):
    read = draft.content_hash
    editor.post(version_page(draft), form("Something else."))
    answer = publisher.post(
        version_page(draft, "publish/"), {"content_hash": read, "note": "Agreed"}
    )
    assert answer.status_code == 409
    assert "Something else." in answer.content.decode()


def test_restoring_and_pausing_are_acts_with_a_note(editor, publisher, draft, template):
    first = template.live_version
    done = {"content_hash": draft.content_hash, "note": "Agreed"}
    publisher.post(version_page(draft, "publish/"), done)
    assert publisher.get(version_page(first, "restore/")).status_code == 200
    assert publisher.post(version_page(first, "restore/"), {"note": ""}).status_code == 200
    assert live_version("summariser").pk == draft.pk
    publisher.post(version_page(first, "restore/"), {"note": "Too short"})
    assert live_version("summariser").pk == first.pk

    publisher.post(f"{LIST}{template.pk}/pause/", {"note": "Being checked"})
    template.refresh_from_db()
    assert template.is_paused
    assert "paused" in editor.get(LIST).content.decode()
    assert Entry.objects.get(event="prompt.paused").reason == "Being checked"
    publisher.post(f"{LIST}{template.pk}/pause/", {"note": "Fine"})
    template.refresh_from_db()
    assert not template.is_paused


def test_a_template_is_made_described_and_given_to_roles(editor):
    new = {"name": "Translator", "slug": "translator", "purpose": "", "roles": ["operator"]}
    assert editor.post(f"{LIST}add/", new).status_code == 302
    made = PromptTemplate.objects.get(slug="translator")
    assert (made.roles, made.owner.name) == (["operator"], "Iris")
    assert "Write the first version" in editor.get(page_of(made)).content.decode()
    editor.post(f"{LIST}{made.pk}/draft/")
    assert made.versions.get().is_draft
    changed = {"name": "Translators", "purpose": "Any language", "owner": "", "roles": []}
    assert editor.post(f"{LIST}{made.pk}/settings/", changed).status_code == 302
    made.refresh_from_db()
    assert (made.name, made.slug, made.roles) == ("Translators", "translator", [])


def test_a_single_version_offers_no_comparison(editor, template):
    page = editor.get(f"{LIST}{template.pk}/change/").content.decode()
    assert 'name="left"' not in page
    assert "Compare" not in page


def test_any_two_versions_stand_side_by_side(editor, template, draft):
    editor.post(version_page(draft), form("You summarise books.\n", temperature="0.2"))
    assert template.versions.get(number=2).content == "You summarise books.\n"
    html = editor.get(page_of(template), {"left": "1", "right": "2"}).content.decode()
    assert re.search(r"You summarise <del>texts that people paste</del>.*<ins>books</ins>", html)
    assert "temperature" in html


@pytest.mark.parametrize(
    ("role", "sees"), [("member", False), ("compliance_officer", True), ("operator", False)]
)
def test_others_change_nothing(person, template, draft, role, sees):
    other = person("rita", role)
    seen = {other.get(LIST).status_code, other.get(version_page(draft)).status_code}
    assert seen == {200} if sees else seen <= {302, 403}
    assert other.post(f"{LIST}{template.pk}/draft/").status_code in {302, 403}
    assert other.post(version_page(draft), form("Mine.")).status_code in {302, 403}
    assert other.get(version_page(draft, "publish/")).status_code in {302, 403}
    assert other.post(f"{LIST}{template.pk}/pause/", {"note": "x"}).status_code in {302, 403}
    assert (template.versions.count(), template.versions.get(number=2).revision) == (2, 1)


def test_reading_a_version_is_recorded(editor, draft):
    editor.get(version_page(draft))
    entry = Entry.objects.filter(event="prompt.viewed").latest("pk")
    assert (entry.target_kind, entry.target_id) == ("prompts.promptversion", str(draft.pk))


# --- the comparison ----------------------------------------------------------------------------


def test_lines_and_words_that_changed_are_told():
    found = compare(
        Terms("a\nRefunds take a few days.\nc"), Terms("a\nRefunds take five days.\nc\nd")
    )
    assert [row.is_same for row in found.rows] == [True, False, True, False]
    left, right = found.rows[1].left, found.rows[1].right
    assert [part.text for part in left.parts if part.is_changed] == ["a few"]
    assert [part.text for part in right.parts if part.is_changed] == ["five"]
    assert (found.rows[3].left, found.rows[3].right.number) == (None, 4)
    assert (found.lines_out, found.lines_in) == (1, 2)


@pytest.mark.parametrize("line", ["\n", "a a a a a a a a\n", "x\n"])
def test_the_largest_templates_are_compared_soon(line):
    left = line * (64 * 1024 // len(line))
    found = compare(Terms(left), Terms(left.replace(line, "b" + line, 9) + "end"))
    assert not found.is_same
