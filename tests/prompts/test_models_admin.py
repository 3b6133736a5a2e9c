"""Models and prices in the administration."""

import pytest
from django.contrib.admin.models import LogEntry
from django.db.models import QuerySet
from django.utils import timezone

from audit.models import Entry
from prompts.models import LanguageModel, ModelPrice

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _a_model_without_a_price(settings):
    settings.OPENAI_MODEL = "simulated"


def added_prices() -> "QuerySet[ModelPrice]":
    """All but the price of the model that tests have otherwise."""
    return ModelPrice.objects.exclude(priced_name="gpt-4o-mini")


MODELS, PRICES = "/admin/prompts/languagemodel/", "/admin/prompts/modelprice/"
LARGE = {
    "slug": "large",
    "label": "Large",
    "is_active": "on",
    "base_url": "https://models.example.org/v1",
    "secret_name": "GATEWAY_API_KEY",
    "remote_name": "large-2",
    "context_window": "128000",
    "max_output_tokens": "4000",
    "roles": ["member"],
    "fallback": "",
}


def priced(model: LanguageModel, **fields) -> dict:
    now = timezone.now()
    return {
        "model": str(model.pk),
        "from_at_0": now.strftime("%Y-%m-%d"),
        "from_at_1": now.strftime("%H:%M:%S"),
        "input": "2",
        "cached_input": "0.5",
        "output": "8",
        "source": "the provider's page",
        **fields,
    }


def test_a_model_is_offered_and_its_missing_price_is_said(ada_client, ada):
    page = ada_client.post(f"{MODELS}add/", LARGE, follow=True).content.decode()
    made = LanguageModel.objects.get(slug="large")
    assert [role.slug for role in made.roles.all()] == ["member"]
    assert "Its price is unknown" in page
    entry = Entry.objects.get(event="model.offered", target_id=str(made.pk))
    assert entry.actor_id == str(ada.pk)
    assert "Large" not in LogEntry.objects.get().object_repr


def test_a_model_is_changed_by_the_form(ada_client):
    ada_client.post(f"{MODELS}add/", LARGE)
    made = LanguageModel.objects.get(slug="large")
    changed = {key: value for key, value in LARGE.items() if key != "is_active"} | {"roles": []}
    ada_client.post(f"{MODELS}{made.pk}/change/", {**changed, "slug": "renamed"})
    made.refresh_from_db()
    assert (made.is_active, made.slug) == (False, "large")
    assert not made.roles.exists()
    assert Entry.objects.filter(event="model.withdrawn", target_id=str(made.pk)).exists()


def test_a_key_in_place_of_its_name_is_refused_in_the_form(ada_client):
    page = ada_client.post(f"{MODELS}add/", {**LARGE, "secret_name": "sk-12345"}).content.decode()
    assert "never the key" in page
    assert not LanguageModel.objects.filter(slug="large").exists()


def test_a_circle_is_refused_in_the_form(ada_client):
    ada_client.post(f"{MODELS}add/", LARGE)
    made = LanguageModel.objects.get(slug="large")
    url = f"{MODELS}{made.pk}/change/"
    page = ada_client.post(url, {**LARGE, "fallback": str(made.pk)}).content.decode()
    assert "in a circle back to Large" in page


def test_a_price_is_added_and_neither_changed_nor_removed(ada_client):
    ada_client.post(f"{MODELS}add/", LARGE)
    made = LanguageModel.objects.get(slug="large")
    assert ada_client.post(f"{PRICES}add/", priced(made)).status_code == 302
    row = added_prices().get()
    assert row.priced_name == "large-2"
    assert "2 / 8" in ada_client.get(MODELS).content.decode()
    assert Entry.objects.filter(event="price.set", target_id=str(made.pk)).exists()

    assert ada_client.get(f"{PRICES}{row.pk}/change/").status_code == 200
    assert ada_client.post(f"{PRICES}{row.pk}/change/", priced(made)).status_code == 403
    assert ada_client.post(f"{PRICES}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert ada_client.post(f"{MODELS}{made.pk}/delete/", {"post": "yes"}).status_code == 403


def test_a_price_does_not_begin_in_the_past(ada_client):
    model = LanguageModel.objects.get()
    page = ada_client.post(f"{PRICES}add/", priced(model, from_at_0="2020-01-01"))
    assert "never in the past" in page.content.decode()
    assert not added_prices().exists()


@pytest.mark.parametrize(
    "role", ["prompt_editor", "prompt_publisher", "compliance_officer", "operator"]
)
def test_others_see_no_models(make_user, client, role):
    client.force_login(make_user("rita", role))
    assert client.get(MODELS).status_code == 403
    assert client.post(f"{MODELS}add/", LARGE).status_code == 403
    assert client.post(f"{PRICES}add/", {}).status_code == 403


def test_pages_have_no_inline_code(ada_client):
    for url in (MODELS, f"{MODELS}add/", PRICES, f"{PRICES}add/"):
        page = ada_client.get(url).content.decode()
        assert "<style" not in page, url
        assert " onclick=" not in page, url
