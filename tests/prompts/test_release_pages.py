"""The pages of releases: from publishing to production, and what is refused on the way."""

import re

import pytest
from django.test import Client

from audit.trail import acting_as
from prompts import publishing
from prompts.models import PromptTemplate, PromptVersion, Release
from prompts.publishing import Terms
from prompts.release import rollout
from prompts.release.rollout import Plan, Step

pytestmark = pytest.mark.django_db

LIST = "/admin/prompts/prompttemplate/"
RELEASES = "/admin/prompts/release/"


@pytest.fixture
def people(make_user):
    return {
        "iris": make_user("iris", "prompt_editor"),
        "mei": make_user("mei", "prompt_publisher"),
        "both": make_user("both", "prompt_editor", "prompt_publisher"),
    }


def browser_of(person) -> Client:
    browser = Client()
    browser.force_login(person)
    return browser


@pytest.fixture
def publisher(people) -> Client:
    return browser_of(people["mei"])


def written(by) -> PromptVersion:
    template = PromptTemplate.objects.get(slug="summariser")
    with acting_as(by):
        return publishing.begin_draft(template, Terms("Be brief."), by=by)


def published(draft: PromptVersion, by) -> PromptVersion:
    read = draft.content_hash
    with acting_as(by):
        return publishing.publish(draft, content_hash=read, note="Agreed", by=by, for_release=True)


@pytest.fixture
def version(people) -> PromptVersion:
    return published(written(people["iris"]), people["mei"])


def plan(*shares: str, **more: str) -> dict[str, str]:
    rows = {
        f"steps-{number}-{name}": value
        for number, share in enumerate(shares)
        for name, value in (("share", share), ("people", "0"), ("turns", "0"), ("hours", "0"))
    }
    total = str(len(shares))
    return {"steps-TOTAL_FORMS": total, "steps-INITIAL_FORMS": "4", "note": "Go", **rows, **more}


def begin_page(version: PromptVersion) -> str:
    return f"{RELEASES}begin/{version.pk}/"


def page_of(release: Release) -> str:
    return f"{RELEASES}{release.pk}/change/"


def words(response) -> str:
    text = re.sub(r"<[^>]+>", " ", response.content.decode())
    return re.sub(r"\s+", " ", text.replace("&#x27;", "'").replace("\N{NO-BREAK SPACE}", " "))


def test_from_publishing_to_production(people, publisher):
    draft = written(people["iris"])
    address = f"{LIST}versions/{draft.pk}/publish/"
    assert "to be released step by step" in words(publisher.get(address))
    done = {"content_hash": draft.content_hash, "note": "Agreed", "reach": "steps"}
    page = publisher.post(address, done, follow=True)
    assert "Waits for its release" in words(page)
    assert f'href="{begin_page(draft)}"' in page.content.decode()
    assert "Release step by step…" in words(publisher.get(f"{LIST}versions/{draft.pk}/"))

    assert 'value="25"' in publisher.get(begin_page(draft)).content.decode()
    page = publisher.post(begin_page(draft), plan("2.5", "50", ""), follow=True)
    release = Release.objects.get()
    assert [step["share"] for step in release.steps] == [250, 5_000]
    assert "Raise to 50 %" in words(page)
    assert "v2 2.5 %" in words(page)
    assert "Canary 2.5 %" in words(publisher.get(f"{LIST}{release.template_id}/change/"))
    assert "v2: Canary 2.5 %" in words(publisher.get(LIST))

    publisher.post(page_of(release), {"act": "advance", "step": "0", "note": "Fine"})
    page = publisher.get(page_of(release))
    assert "Put v2 into production" in words(page)
    assert re.search(r"Mei Advanced: 50 % 0 people, 0 turns, 0 minutes Fine", words(page))
    page = publisher.post(
        page_of(release), {"act": "finish", "step": "1", "note": "For all"}, follow=True
    )
    assert "In production: v2 answers everybody." in words(page)
    assert PromptTemplate.objects.get(slug="summariser").live_version == draft


def test_a_rollback_is_one_click_with_a_note(version, people, publisher):
    release = rollout.begin(version, Plan((Step(100),)), note="Go", by=people["mei"])
    page = publisher.post(page_of(release), {"act": "roll_back", "note": ""})
    assert (page.status_code, "Nothing was changed" in words(page)) == (422, True)
    page = publisher.post(page_of(release), {"act": "roll_back", "note": "Bad"}, follow=True)
    assert "Rolled back: v1 answers everybody again." in words(page)
    assert "Rolled back" in words(publisher.get(f"{LIST}{release.template_id}/change/"))
    again = publisher.post(page_of(release), {"act": "advance", "note": "On"})
    assert again.status_code == 409
    assert "v2 is over: it is rolled back" in words(again)


@pytest.mark.parametrize("step", ["0", "", "x", "-1", "9" * 400])
def test_who_presses_on_a_page_that_is_old_goes_no_step_further(version, people, publisher, step):
    steps = (Step(100), Step(500), Step(2_500))
    release = rollout.begin(version, Plan(steps), note="Go", by=people["mei"])
    rollout.advance(release, note="Fine", by=people["mei"])
    page = publisher.post(page_of(release), {"act": "advance", "step": step, "note": "Fine, I say"})
    assert page.status_code == 409
    assert "Nothing was changed. Somebody went on meanwhile: Canary 5 %." in words(page)
    assert "Fine, I say" in page.content.decode()
    assert Release.objects.get().step == 1


def test_a_pause_and_what_a_step_waits_for(version, people, publisher):
    steps = (Step(100, people=3, turns=9, minutes=90), Step(500))
    release = rollout.begin(version, Plan(steps), note="Go", by=people["mei"])
    page = words(publisher.get(page_of(release)))
    assert "5 % opens after 3 more people, 9 more turns and 90 more minutes." in page
    assert re.search(r"1 % now 0 of 3 0 of 9 0 min of 90 min", page)
    early = publisher.post(page_of(release), {"act": "advance", "step": "0", "note": "On"})
    assert "This step is not done" in words(early)
    publisher.post(page_of(release), {"act": "pause", "note": "Hm"})
    assert "Paused at 1 %" in words(publisher.get(page_of(release)))
    page = publisher.post(page_of(release), {"act": "resume", "note": "Fine"}, follow=True)
    assert "The release goes on." in words(page)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (plan("5", "120"), "A share is at most 100 %: 120 % is more."),
        (plan("5", "1"), "1 % can't follow 5 %"),
        (plan("-1"), "Each share is more than 0 %."),
        (plan(""), "1 to 20 steps"),
        (plan("abc"), "Enter a number"),
        (plan("5", early_people="nobody@parley.example"), "Nobody here has the address nobody@"),
        (plan("5", **{"steps-0-people": "-3"}), "0 or more"),
        (plan("5", note=""), "This field is required"),
    ],
)
def test_a_plan_that_can_not_be_stays_in_the_form_with_the_reason(version, publisher, form, says):
    answer = publisher.post(begin_page(version), form)
    assert answer.status_code == 422
    assert says in words(answer)
    assert not Release.objects.exists()


def test_a_draft_is_not_released(people, publisher):
    answer = publisher.post(begin_page(written(people["iris"])), plan("5"))
    assert "v2 is a draft: it has to be published" in words(answer)


def test_the_early_access_is_named(version, publisher, olive):
    named = {"early_people": f"{olive.email.upper()}\n\n", "early_role": "operator"}
    page = publisher.post(begin_page(version), plan("5", **named, early_turns="7"), follow=True)
    assert "everybody with the role Operator, and Olive" in words(page)
    release = Release.objects.get()
    assert (release.early_people, release.steps[0]["turns"]) == ([olive.pk], 7)


def test_authors_may_stop_and_nothing_else(people):
    version = published(written(people["both"]), people["mei"])
    author = browser_of(people["both"])
    assert "Somebody else has to release it." in words(author.get(begin_page(version)))
    assert author.post(begin_page(version), plan("5")).status_code == 403
    release = rollout.begin(version, Plan((Step(100),)), note="Go", by=people["mei"])
    page = author.get(page_of(release)).content.decode()
    assert re.findall(r'name="act" value="(\w+)"', page) == ["pause", "roll_back"]
    assert author.post(page_of(release), {"act": "finish", "note": "x"}).status_code == 409
    page = author.post(page_of(release), {"act": "roll_back", "note": "Bad"}, follow=True)
    assert "emergency" in words(page)


def test_editors_read_and_members_do_not(version, people, olive_client):
    release = rollout.begin(version, Plan((Step(100),)), note="Go", by=people["mei"])
    editor = browser_of(people["iris"])
    assert 'name="act"' not in editor.get(page_of(release)).content.decode()
    assert editor.post(page_of(release), {"act": "pause", "note": "x"}).status_code == 409
    assert editor.get(begin_page(version)).status_code == 403
    assert "v2" in words(editor.get(RELEASES))
    assert olive_client.get(page_of(release)).status_code in {302, 403}
    assert Release.objects.get().state == "canary"


def test_pages_ask_the_database_little(version, people, publisher, django_assert_max_num_queries):
    release = rollout.begin(version, Plan((Step(100),)), note="Go", by=people["mei"])
    for address in (page_of(release), RELEASES, LIST, f"{LIST}{release.template_id}/change/"):
        publisher.get(address)
        with django_assert_max_num_queries(10):
            assert publisher.get(address).status_code == 200
