"""What was not let through is recorded, and a flood of it is not a flood of entries."""

import pytest
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from accounts.models import ApiToken
from accounts.tokens import make_token, revoke_token
from audit.models import Entry

pytestmark = pytest.mark.django_db
SIGN_IN = "/account/sign-in/"
API = "/api/v1/sessions"


@pytest.fixture(autouse=True)
def _empty_cache():
    cache.clear()


def entries(event: str) -> list[Entry]:
    return list(Entry.objects.filter(event=event).select_related("personal").order_by("pk"))


# --- signing in ------------------------------------------------------------------------------


def test_tries_beyond_the_limit_on_failures_are_recorded_once(client, olive, settings):
    settings.ACCOUNT_RATE_LIMITS = {"login_failed": "2/m/key"}
    for _ in range(5):
        client.post(SIGN_IN, {"login": olive.email, "password": "not the password"})
    assert len(entries("auth.login_failed")) == 2
    (entry,) = entries("auth.rate_limited")
    assert (entry.outcome, entry.actor_kind) == ("denied", "anonymous")
    assert entry.payload == {"page": "account_login", "count": 1}
    assert entry.personal.target_label == olive.email


def test_tries_beyond_the_limit_of_the_page_are_recorded_once(client, olive, settings):
    settings.ACCOUNT_RATE_LIMITS = {"login": "1/m/ip"}
    answers = [
        client.post(SIGN_IN, {"login": olive.email, "password": "x"}).status_code for _ in range(4)
    ]
    assert answers == [200, 429, 429, 429]
    assert [entry.payload["page"] for entry in entries("auth.rate_limited")] == ["account_login"]


def test_link_for_a_password_asked_for_too_often(client, olive, settings):
    settings.ACCOUNT_RATE_LIMITS = {"reset_password": "1/m/ip"}
    for _ in range(3):
        client.post("/account/password/reset/", {"email": olive.email})
    assert len(entries("auth.rate_limited")) == 1


# --- pages -----------------------------------------------------------------------------------


def test_administration_without_a_section_is_denied_and_recorded(olive_client, olive):
    for _ in range(3):
        assert olive_client.get("/admin/", follow=True).status_code == 403
    (entry,) = entries("access.denied")
    assert (entry.outcome, entry.actor_id) == ("denied", str(olive.pk))
    assert entry.payload == {"page": "admin:login", "count": 1}


def test_page_of_the_administration_is_denied_and_recorded(ada_client, ada, ravi_client):
    assert ada_client.get("/admin/audit/entry/").status_code == 403
    first = Entry.objects.earliest("pk").pk
    assert ravi_client.post(f"/admin/audit/entry/{first}/delete/", {"post": "yes"}).status_code
    pages = [entry.payload["page"] for entry in entries("access.denied")]
    assert pages == ["admin:audit_entry_changelist", "admin:audit_entry_delete"]


def test_view_that_asks_for_a_permission_leaves_one_entry(client, make_user):
    auditor = make_user("vera", "external_auditor")
    client.force_login(auditor)
    assert client.get("/").status_code == 403
    (entry,) = entries("access.denied")
    assert entry.payload == {"permission": "conversations.chat", "count": 1}


def test_form_without_a_token_is_recorded(olive):
    careful = Client(enforce_csrf_checks=True)
    careful.force_login(olive)
    assert careful.post("/account/theme/", {"theme": "dark"}).status_code == 403
    (entry,) = entries("access.denied")
    assert (entry.actor_id, entry.payload["page"]) == (str(olive.pk), "theme")


def test_opening_the_page_of_anothers_conversation_is_recorded(finished, ravi_client, ravi):
    conversation = finished().conversation
    for _ in range(2):
        assert ravi_client.get(conversation.get_absolute_url()).status_code == 404
    (entry,) = entries("access.denied")
    assert (entry.actor_id, entry.target_id) == (str(ravi.pk), str(conversation.pk))


# --- tokens ----------------------------------------------------------------------------------


def get(secret: str) -> int:
    return Client().get(API, headers={"Authorization": f"Bearer {secret}"}).status_code


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("why", ["revoked", "expired", "inactive"])
def test_token_that_is_over_is_named_and_nobody_acts(olive, why):
    made = make_token(olive, name="x", scopes=["read"], lasts=None, by=olive)
    assert get(made.secret) == 200
    if why == "revoked":
        revoke_token(made.token, by=olive)
    elif why == "expired":
        ApiToken.objects.update(expires_at=timezone.now())
    else:
        type(olive).objects.filter(pk=olive.pk).update(is_active=False)
    assert [get(made.secret) for _ in range(3)] == [401, 401, 401]
    (entry,) = entries("token.refused")
    assert (entry.actor_kind, entry.actor_id, entry.token_id) == ("anonymous", "", "")
    assert (entry.target_kind, entry.target_id) == ("accounts.apitoken", str(made.token.pk))
    assert (entry.outcome, entry.reason) == ("denied", why)
    assert entry.payload == {"scope": "read", "count": 1}


@pytest.mark.django_db(transaction=True)
def test_unknown_and_malformed_secrets_are_told_apart(olive):
    made = make_token(olive, name="x", scopes=["read"], lasts=None, by=olive)
    ApiToken.objects.all().delete()
    for secret in (made.secret, "nonsense", "other nonsense"):
        assert get(secret) == 401
    assert Client().get(API).status_code == 401
    assert [entry.reason for entry in entries("token.refused")] == ["unknown", "malformed"]
    assert not any("nonsense" in str(row) for row in Entry.objects.values())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", [API, "/v1/models"])
def test_token_without_the_scope_acts_itself(olive, path):
    lacking = ["chat"] if path == API else ["read"]
    made = make_token(olive, name="x", scopes=lacking, lasts=None, by=olive)
    answer = Client().get(path, headers={"Authorization": f"Bearer {made.secret}"})
    assert answer.status_code == 403
    (entry,) = entries("token.refused")
    assert (entry.actor_kind, entry.actor_id) == ("token", str(olive.pk))
    assert (entry.token_id, entry.reason) == (str(made.token.pk), "scope")


@pytest.mark.django_db(transaction=True)
def test_token_of_somebody_who_may_not_chat_any_more(olive):
    made = make_token(olive, name="x", scopes=["read"], lasts=None, by=olive)
    olive.grants.all().delete()
    assert get(made.secret) == 403
    (entry,) = entries("access.denied")
    assert (entry.actor_kind, entry.token_id) == ("token", str(made.token.pk))
