"""API tokens: made, found by their secret alone, revoked; and the page and command for them."""

import io
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import timezone

from accounts.access import Denied, System
from accounts.models import ApiToken
from accounts.tokens import MOST_PER_ACCOUNT, TooManyTokens, make_token, revoke_token, token_of
from audit.models import Entry

pytestmark = pytest.mark.django_db
URL = "/account/tokens/"


@pytest.fixture
def made(olive):
    return make_token(olive, name="reports", scopes=["chat"], lasts=timedelta(days=1), by=olive)


def events() -> list[str]:
    return list(Entry.objects.order_by("pk").values_list("event", flat=True))


def test_token_is_found_by_its_secret_with_account_and_roles(made, django_assert_num_queries):
    token_of(made.secret)
    with django_assert_num_queries(1):
        found = token_of(made.secret)
        assert found == made.token
        assert found.user.roles == {"member"}


def test_secret_is_not_stored(made):
    row = str(ApiToken.objects.values().get())
    assert made.secret[20:] not in row
    assert made.token.beginning == made.secret[: len(made.token.beginning)]
    assert len(made.token.beginning) < 16


def test_mistyped_secret_is_refused_without_a_query(made, django_assert_num_queries):
    wrong = made.secret[:-1] + ("0" if made.secret[-1] != "0" else "1")
    with django_assert_num_queries(0):
        for secret in (wrong, "", "parley_", made.secret.upper(), made.secret + "\n", "é" * 79):
            assert token_of(secret) is None


@pytest.mark.parametrize("why", ["revoked", "expired", "inactive"])
def test_token_that_is_over_opens_nothing(made, olive, why):
    if why == "revoked":
        assert revoke_token(made.token, by=olive)
        assert not revoke_token(made.token, by=olive)
    elif why == "expired":
        ApiToken.objects.update(expires_at=timezone.now())
    else:
        olive.is_active = False
        olive.save()
    assert token_of(made.secret) is None


def test_use_is_noted_to_the_minute_and_recorded_the_first_time(made):
    for _ in range(3):
        token_of(made.secret)
    token = ApiToken.objects.get()
    assert token.last_used_at.second == token.last_used_at.microsecond == 0
    assert events()[-2:] == ["token.created", "token.used_first"]


def test_entries_hold_no_part_of_the_secret(made, olive):
    token_of(made.secret)
    revoke_token(made.token, by=olive)
    assert events()[-1] == "token.revoked"
    assert not any(made.secret[7:15] in str(entry) for entry in Entry.objects.values())


def test_account_has_a_most_of_tokens(olive):
    for number in range(MOST_PER_ACCOUNT):
        make_token(olive, name=str(number), scopes=["read"], lasts=None, by=olive)
    with pytest.raises(TooManyTokens):
        make_token(olive, name="one more", scopes=["read"], lasts=None, by=olive)


def test_token_needs_a_known_scope(olive):
    for scopes in ([], ["everything"]):
        with pytest.raises(ValueError, match=r"scope|Scope"):
            make_token(olive, name="x", scopes=scopes, lasts=None, by=olive)


def test_who_may_not_chat_gets_no_token(make_user):
    auditor = make_user("vera", "external_auditor")
    with pytest.raises(Denied):
        make_token(auditor, name="x", scopes=["chat"], lasts=None, by=System("test"))


# --- the page --------------------------------------------------------------------------------


def test_page_shows_a_new_secret_once(olive_client):
    form = {"name": "my script", "scopes": ["chat", "read"], "days": "30"}
    answer = olive_client.post(URL, form)
    token = ApiToken.objects.get()
    secret = answer.context["made"].secret
    assert secret in answer.content.decode()
    assert "no-store" in answer.headers["Cache-Control"]
    assert token.scopes == ["chat", "read"]
    again = olive_client.get(URL).content.decode()
    assert secret not in again
    assert "my script" in again
    assert token.beginning in again


@pytest.mark.parametrize(
    "form", [{}, {"name": "x", "days": "30"}, {"name": "x", "scopes": ["all"], "days": "30"}]
)
def test_incomplete_form_makes_nothing_and_says_why(olive_client, form):
    answer = olive_client.post(URL, form)
    assert answer.status_code == 400
    assert 'class="error"' in answer.content.decode()
    assert not ApiToken.objects.exists()


def test_page_revokes(olive_client, made):
    answer = olive_client.post(reverse("revoke_token", args=[made.token.pk]), follow=True)
    assert "opens nothing any more" in answer.content.decode()
    assert token_of(made.secret) is None


def test_somebody_elses_token_is_not_there(sam_client, made):
    assert "reports" not in sam_client.get(URL).content.decode()
    assert sam_client.post(reverse("revoke_token", args=[made.token.pk])).status_code == 404
    assert token_of(made.secret)


def test_stranger_is_sent_to_the_sign_in(client):
    assert client.get(URL).status_code == 302


def test_administrator_sees_and_revokes_tokens_in_the_admin(ada_client, made):
    url = reverse("admin:accounts_apitoken_changelist")
    assert made.token.beginning in ada_client.get(url).content.decode()
    chosen = {"action": "revoke", "_selected_action": [str(made.token.pk)]}
    assert ada_client.post(url, chosen, follow=True).status_code == 200
    assert token_of(made.secret) is None
    assert Entry.objects.get(event="token.revoked").actor_roles == "administrator"


def test_members_do_not_see_tokens_in_the_admin(ravi_client):
    assert ravi_client.get(reverse("admin:accounts_apitoken_changelist")).status_code == 403


# --- the command -----------------------------------------------------------------------------


def test_command_prints_the_token_alone(olive):
    out = io.StringIO()
    call_command("create_token", "Olive@parley.example", "--scope", "chat", stdout=out)
    secret = out.getvalue().strip()
    assert out.getvalue() == f"{secret}\n"
    assert token_of(secret).user == olive


def test_command_refuses_unknown_accounts(db):
    with pytest.raises(CommandError, match="no active account"):
        call_command("create_token", "nobody@parley.example", "--scope", "chat")
