"""Who may be answered by which model, what it costs, and how the catalogue learns of changes."""

import time
from datetime import timedelta
from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, transaction
from django.db.models import QuerySet
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from accounts.access import Denied, System
from accounts.models import Role, User
from audit.models import Entry
from chatbot.kept import KEPT_SECONDS
from prompts import catalogue
from prompts.catalogue import NotOffered, Price, offer_for, offers_for
from prompts.models import LanguageModel, ModelPrice
from prompts.offering import UNKNOWN_WINDOW, define_model, seed_default_model, set_price
from prompts.price_list import listed

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _a_model_without_a_price(settings):
    settings.OPENAI_MODEL = "simulated"


def added_prices() -> "QuerySet[ModelPrice]":
    """All but the price of the model that tests have otherwise."""
    return ModelPrice.objects.exclude(priced_name="gpt-4o-mini")


BY = System("tests")


def model(slug: str, *roles: str, **given) -> LanguageModel:
    fields = {"label": slug.title(), "context_window": 32_768, "max_output_tokens": 1_000}
    made = LanguageModel(slug=slug, **{**fields, "remote_name": slug, **given})
    define_model(made, roles=Role.objects.filter(slug__in=roles), by=BY)
    return made


def price(of: LanguageModel, amount: str, *, from_at=None) -> ModelPrice:
    made = ModelPrice(
        model=of,
        from_at=from_at or timezone.now(),
        input=Decimal(amount),
        cached_input=Decimal(amount),
        output=Decimal(amount),
        source="the contract",
    )
    set_price(made, by=BY)
    return made


# --- offers ----------------------------------------------------------------------------------


def test_the_first_model_is_what_the_environment_says(olive, settings):
    offer = offer_for(olive)
    assert (offer.slug, offer.base_url, offer.remote_name, offer.secret_name) == (
        "default",
        settings.OPENAI_BASE_URL,
        "simulated",
        "OPENAI_API_KEY",
    )
    assert offer.price is None, "unknown is not free"
    settings.OPENAI_MODEL = "another"
    assert offer_for(olive).remote_name == "another"


def test_seeding_again_changes_nothing(olive):
    before = offer_for(olive)
    seed_default_model()
    seed_default_model()
    assert LanguageModel.objects.count() == 1
    assert offer_for(olive) == before


def test_a_model_for_roles_does_not_exist_for_others(olive, ada):
    model("large", "administrator")
    assert offer_for(ada, "large").slug == "large"
    assert offer_for(System("titles"), "large").slug == "large"
    for slug in ("large", "never heard of"):
        with pytest.raises(NotOffered):
            offer_for(olive, slug)
    assert [offer.slug for offer in offers_for(ada)] == ["default", "large"]
    assert [offer.slug for offer in offers_for(olive)] == ["default"]


def test_who_may_not_use_the_default_gets_the_first_that_is_theirs(olive):
    default = LanguageModel.objects.get(slug="default")
    define_model(default, roles=Role.objects.filter(slug="administrator"), by=BY)
    with pytest.raises(NotOffered):
        offer_for(olive)
    model("small")
    assert offer_for(olive).slug == "small"


def test_fallbacks_stand_in_order_without_what_is_withdrawn_or_for_others(olive, ada):
    last = model("last")
    secret = model("secret", "administrator", fallback=last)
    gone = model("gone", fallback=secret, is_active=False)
    model("first", fallback=gone)
    assert [each.slug for each in offer_for(olive, "first").fallbacks] == ["last"]
    assert [each.slug for each in offer_for(ada, "first").fallbacks] == ["secret", "last"]
    assert all(each.fallbacks == () for each in offer_for(ada, "first").fallbacks)


def test_a_circle_of_fallbacks_is_refused_and_would_harm_nobody(olive):
    third = model("third")
    second = model("second", fallback=third)
    first = model("first", fallback=second)
    third.fallback = first
    with pytest.raises(ValidationError, match="circle back to Third"):
        define_model(third, roles=[], by=BY)
    LanguageModel.objects.filter(pk=third.pk).update(fallback=first)
    catalogue.kept_offers.forget()
    assert [each.slug for each in offer_for(olive, "first").fallbacks] == ["second", "third"]


def test_a_turn_costs_no_query_for_its_offer(olive, django_assert_num_queries):
    model("large", "member")
    assert olive.roles
    with django_assert_num_queries(4):  # models, roles, prices, and one price that is missing
        offer_for(olive)
    with django_assert_num_queries(0):
        offer_for(olive, "large")


def test_a_changed_row_takes_effect_at_once_here_and_in_seconds_elsewhere(olive, monkeypatch):
    large = model("large")
    offer_for(olive, "large")
    large.label = "Larger"
    define_model(large, roles=[], by=BY)
    assert offer_for(olive, "large").label == "Larger"

    LanguageModel.objects.filter(pk=large.pk).update(label="Changed elsewhere")
    assert offer_for(olive, "large").label == "Larger"
    later = time.monotonic() + KEPT_SECONDS + 0.1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert offer_for(olive, "large").label == "Changed elsewhere"


# --- prices ----------------------------------------------------------------------------------


def test_the_newest_price_that_holds_counts(olive):
    large = model("large")
    assert offer_for(olive, "large").price is None
    now = timezone.now()
    price(large, "2", from_at=now - timedelta(days=2))
    price(large, "3", from_at=now - timedelta(days=1))
    price(large, "4", from_at=now + timedelta(days=1))
    assert offer_for(olive, "large").price == Price(Decimal(3), Decimal(3), Decimal(3))


def test_a_renamed_model_does_not_keep_its_price(olive):
    large = model("large")
    price(large, "2")
    large.remote_name = "larger"
    define_model(large, roles=[], by=BY)
    assert offer_for(olive, "large").price is None


def test_the_environments_model_gets_its_listed_price_without_a_migration(olive, settings):
    assert offer_for(olive).price is None
    settings.OPENAI_MODEL = "gpt-4.1-mini"
    catalogue.kept_offers.forget()
    offer = offer_for(olive)
    assert offer.price == Price(Decimal("0.4"), Decimal("0.1"), Decimal("1.6"))
    assert offer.context_window > UNKNOWN_WINDOW
    row = added_prices().get()
    assert row.source.startswith("genai-prices ")
    recorded = Entry.objects.filter(event="price.set", actor_id="catalogue")
    assert recorded.filter(payload__name="gpt-4.1-mini").count() == 1
    catalogue.kept_offers.forget()
    offer_for(olive)
    assert added_prices().count() == 1


def test_the_demo_is_free_and_no_real_model_inherits_that(olive, settings):
    settings.PROVIDER_IS_DEMO = True
    catalogue.kept_offers.forget()
    assert offer_for(olive).price == Price(Decimal(0), Decimal(0), Decimal(0))
    assert added_prices().get().source == "no AI is connected"
    settings.PROVIDER_IS_DEMO = False
    assert offer_for(olive).price is None


def test_a_price_by_hand_is_not_replaced_by_the_list(olive, settings):
    settings.OPENAI_MODEL = "gpt-4.1-mini"
    price(LanguageModel.objects.get(), "7")
    seed_default_model()
    assert offer_for(olive).price == Price(Decimal(7), Decimal(7), Decimal(7))


def test_an_unknown_model_has_no_listed_price():
    assert listed("no such model at all", "http://127.0.0.1:9/v1") is None


def test_a_window_ends_where_the_base_price_does():
    found = listed("gemini-2.5-pro", "")
    assert found is not None
    assert found.context_window == 200_000


def test_a_price_is_not_negative_and_the_only_one_of_its_moment():
    large, now = model("large"), timezone.now()
    price(large, "2", from_at=now)
    for amount in ("2", "-1"):
        with pytest.raises(ValidationError):
            price(large, amount, from_at=now)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: ModelPrice.objects.filter(pk=row.pk).update(input=0),
        lambda row: ModelPrice.objects.filter(pk=row.pk).delete(),
        lambda row: row.save(),
    ],
    ids=["an update", "a delete", "a save"],
)
def test_the_database_keeps_prices_as_they_are(change):
    row = price(model("large"), "2")
    with pytest.raises(DatabaseError, match="never changed or removed"), transaction.atomic():
        change(row)


amounts = st.decimals(0, 1_000, places=6)
tokens = st.integers(0, 10**7)


@given(amounts, amounts, amounts, tokens, tokens, tokens)
def test_a_cost_is_exact_and_the_sum_of_its_parts(a, b, c, fresh, cached, out):
    cost = Price(a, b, c).cost(fresh + cached, cached, out)
    assert cost * 1_000_000 == a * fresh + b * cached + c * out


@given(st.integers(), st.integers(), st.integers())
def test_whatever_a_provider_counts_a_cost_is_not_negative(tokens_in, cached, tokens_out):
    assert Price(Decimal(2), Decimal(1), Decimal(8)).cost(tokens_in, cached, tokens_out) >= 0


# --- what may stand in a row -----------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret_name": "sk-proj-abcdefgh"},
        {"secret_name": "openai_api_key"},
        {"secret_name": "SECRET_KEY"},
        {"secret_name": "CONTENT_KEYS"},
        {"secret_name": "DATABASE_URL"},
        {"secret_name": "A_API_KEY\n"},
        {"base_url": "ftp://models.example.org/"},
        {"base_url": "file:///etc/passwd"},
        {"base_url": "https://user:password@models.example.org/v1"},
        {"base_url": "https://models.example.org/v1?key=1"},
        {"base_url": "http://["},
        {"base_url": "models.example.org"},
        {"context_window": 1_024, "max_output_tokens": 1_024},
        {"slug": "default"},
    ],
)
def test_what_can_not_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        model(**{"slug": "large", **wrong})


def test_who_may_not_manage_models_changes_none(olive: User):
    large = model("large")
    large.base_url = "https://elsewhere.example.org/v1"
    with pytest.raises(Denied):
        define_model(large, roles=[], by=olive)
    with pytest.raises(Denied):
        set_price(ModelPrice(model=large), by=olive)


def test_what_changed_is_recorded_with_what_was(ada):
    large = model("large")
    large.base_url, large.is_active = "https://elsewhere.example.org/v1", False
    define_model(large, roles=Role.objects.filter(slug="member"), by=ada)
    entry = Entry.objects.filter(target_id=str(large.pk)).latest("id")
    assert (entry.event, entry.actor_id) == ("model.withdrawn", str(ada.pk))
    assert entry.payload == {
        "now": {
            "base_url": "https://elsewhere.example.org/v1",
            "is_active": False,
            "roles": ["member"],
        },
        "before": {"base_url": "", "is_active": True, "roles": []},
    }


def test_a_change_of_nothing_is_no_event(ada):
    large = model("large")
    define_model(large, roles=[], by=ada)
    assert Entry.objects.filter(target_id=str(large.pk)).count() == 1
