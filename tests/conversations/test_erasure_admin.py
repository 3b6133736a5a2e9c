"""Erasing somebody's account in the admin: with a reason, by those who manage accounts."""

import pytest
from django.urls import reverse

from accounts.models import User
from audit.models import Entry
from conversations.models import Conversation, Erasure

pytestmark = pytest.mark.django_db
LIST = reverse("admin:conversations_erasure_changelist")
ADD = reverse("admin:conversations_erasure_add")
FORM = {"reason": "Asked for by mail, confirmed by phone.", "sure": "on"}


def test_an_administrator_erases_somebody_with_a_reason(finished, olive, ada, ada_client):
    finished()
    person = reverse("admin:accounts_user_change", args=[olive.pk])
    assert f"{ADD}?person={olive.pk}" in ada_client.get(person).content.decode()
    form = ada_client.get(f"{ADD}?person={olive.pk}").content.decode()
    assert olive.email in form
    answer = ada_client.post(ADD, {**FORM, "email": olive.email.upper()}, follow=True)
    assert answer.status_code == 200
    page = answer.content.decode()
    assert str(olive.pk) in page
    assert "olive@" not in page
    assert User.objects.get(pk=olive.pk).erased_at
    assert not Conversation.objects.visible_to(olive).exists()
    entry = Entry.objects.get(event="account.erased")
    assert (entry.actor_id, entry.reason) == (str(ada.pk), FORM["reason"])


def test_the_page_of_an_erased_account_offers_nothing_to_change(olive, ada, ada_client):
    ada_client.post(ADD, {**FORM, "email": olive.email})
    page = ada_client.get(reverse("admin:accounts_user_change", args=[olive.pk])).content.decode()
    assert 'name="_save"' not in page
    assert "Erase this account" not in page
    one = reverse("admin:conversations_erasure_change", args=[olive.pk])
    assert "being destroyed" in ada_client.get(one).content.decode()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"reason": "Because."}, "at least 10 characters"),
        ({"sure": ""}, "This field is required"),
        ({"email": "nobody@parley.example"}, "no account with this email"),
    ],
)
def test_what_is_missing_is_said_and_nothing_happens(olive, ada_client, given, says):
    answer = ada_client.post(ADD, {**FORM, "email": olive.email, **given})
    assert says in answer.content.decode()
    assert not Erasure.objects.exists()


@pytest.mark.parametrize("person", ["abc", "", "00000000-0000-4000-8000-000000000000"])
def test_a_link_that_names_nobody_shows_an_empty_form(ada_client, person):
    answer = ada_client.get(ADD, {"person": person})
    assert answer.status_code == 200
    assert answer.context["adminform"].form.initial == {}


def test_the_last_administrator_can_not_be_erased(ada, ada_client):
    answer = ada_client.post(ADD, {**FORM, "email": ada.email}, follow=True)
    assert "last active administrator" in answer.content.decode()
    assert User.objects.get(pk=ada.pk).is_active


def test_it_is_for_those_who_manage_accounts_alone(olive, olive_client, ravi_client):
    for client in (olive_client, ravi_client):
        assert client.get(LIST, follow=True).status_code == 403
        client.post(ADD, {**FORM, "email": olive.email})
    assert not Erasure.objects.exists()
