"""The page on which a publisher plans scheduled evaluations, and reads what followed."""

import pytest
from django.test import Client
from django.urls import reverse

from prompts.models import EvaluationSet, PromptTemplate, ScheduledEvaluation

pytestmark = pytest.mark.django_db


@pytest.fixture
def template() -> PromptTemplate:
    return PromptTemplate.objects.get(slug="summariser")


@pytest.fixture
def page(template) -> str:
    return reverse("admin:prompts_scheduledevaluation_plan", args=[template.pk])


@pytest.fixture
def client_of(make_user):
    def signed_in(role: str) -> Client:
        client = Client()
        client.force_login(make_user(role, role))
        return client

    return signed_in


def _planned(**changes) -> dict:
    cases = EvaluationSet.objects.get(slug="summariser")
    plan = {"cases": cases.pk, "days": 14, "limit_usd": "0.50", "note": "Watch it"}
    return {**plan, **changes}


def test_a_publisher_plans_it_from_the_template_s_page(template, page, client_of):
    mei = client_of("prompt_publisher")
    shown = mei.get(reverse("admin:prompts_prompttemplate_change", args=[template.pk]))
    assert page in shown.content.decode()
    assert mei.post(page, _planned()).status_code == 302
    told = mei.get(page).content.decode()
    assert "with Summariser basics every 14 days, for $0.50 at most" in told
    template.refresh_from_db()
    assert template.scheduled_set.slug == "summariser"


def test_it_is_switched_off_by_choosing_no_set(template, page, client_of):
    mei = client_of("prompt_publisher")
    mei.post(page, _planned())
    mei.post(page, _planned(cases=""))
    assert "is not evaluated by a schedule" in mei.get(page).content.decode()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"days": 0}, "greater than or equal to 1"),
        ({"limit_usd": "0"}, "greater than or equal to 0.01"),
        ({"note": ""}, "required"),
        ({"cases": ""}, "planned already"),
    ],
)
def test_what_can_t_be_planned_says_why(page, client_of, changes, says):
    answer = client_of("prompt_publisher").post(page, _planned(**changes))
    assert answer.status_code == 422
    assert says in answer.content.decode()


def test_an_editor_reads_and_does_not_plan(page, client_of):
    iris = client_of("prompt_editor")
    assert "Store the plan" not in iris.get(page).content.decode()
    assert iris.post(page, _planned()).status_code == 403


def test_a_stranger_sees_nothing(page, sam_client):
    assert sam_client.get(page, follow=True).status_code == 403


def test_what_followed_is_listed(template, page, client_of):
    ScheduledEvaluation.objects.create(
        template=template,
        version=template.live_version,
        result="not_begun",
        trouble="The model has no price yet.",
    )
    numbers = {"fell": 0, "rose": 2, "p": 1.0, "alpha": 0.001}
    ScheduledEvaluation.objects.create(
        template=template, version=template.live_version, result="held", numbers=numbers
    )
    iris = client_of("prompt_editor")
    told = iris.get(page).content.decode()
    assert "Could not begin: The model has no price yet." in told
    assert '<td class="num">0</td><td class="num">2</td>' in told
    listed = iris.get(reverse("admin:prompts_scheduledevaluation_changelist"))
    assert "could not begin" in listed.content.decode()
    assert page in listed.content.decode()


def test_there_is_no_page_for_an_unknown_template(client_of):
    unknown = reverse(
        "admin:prompts_scheduledevaluation_plan", args=["0197a000-0000-7000-8000-000000000000"]
    )
    assert client_of("prompt_editor").get(unknown).status_code == 404
