"""Accounts in the admin."""

import pytest
from django.contrib.admin.models import LogEntry
from django.core import mail
from django.test import Client

from accounts.models import User

pytestmark = pytest.mark.django_db
LIST = "/admin/accounts/user/"


@pytest.fixture
def ada(account_of):
    return account_of("administrator", email="ada@example.org")


@pytest.fixture
def ada_browser(ada):
    client = Client()
    client.force_login(ada)
    return client


def change(client, user, **fields):
    data = {"email": user.email, "name": user.name, "roles": sorted(user.roles), "is_active": "on"}
    data.update(fields)
    url = f"{LIST}{user.pk}/change/"
    return client.post(url, {k: v for k, v in data.items() if v is not None}, follow=True)


def test_new_account_gets_its_roles_and_a_link_instead_of_a_password(ada_browser):
    response = ada_browser.post(
        f"{LIST}add/", {"email": "New@Example.org", "name": "Nell", "roles": ["member"]}
    )
    new = User.objects.get(email="new@example.org")
    assert response.status_code == 302
    assert new.roles == {"member"}
    assert not new.has_usable_password()
    assert mail.outbox[0].to == ["new@example.org"]


def test_email_of_another_account_is_refused_in_the_form(ada_browser):
    response = ada_browser.post(f"{LIST}add/", {"email": "ADA@example.org", "roles": ["member"]})
    assert "There is an account with this email." in response.content.decode()


def test_roles_and_activity_change_by_the_form(ada_browser, account_of):
    olive = account_of("member", "operator", email="olive@example.org")
    change(ada_browser, olive, roles=["member", "prompt_editor"], is_active=None)
    olive.refresh_from_db()
    assert olive.roles == {"member", "prompt_editor"}
    assert not olive.is_active


@pytest.mark.parametrize("fields", [{"roles": ["member"]}, {"is_active": None}])
def test_last_administrator_stays_and_the_form_says_so(ada_browser, ada, fields):
    page = change(ada_browser, ada, **fields).content.decode()
    ada.refresh_from_db()
    assert "This is the last active administrator." in page
    assert ada.is_active
    assert ada.roles == {"administrator"}


def test_accounts_are_not_deleted(ada_browser, ada):
    assert ada_browser.post(f"{LIST}{ada.pk}/delete/", {"post": "yes"}).status_code == 403


def test_admin_log_names_accounts_by_id_alone(ada_browser, account_of):
    olive = account_of("member", email="olive@example.org")
    change(ada_browser, olive, name="Olive Oyl")
    entry = LogEntry.objects.get()
    assert entry.object_repr == f"account {olive.pk}"
    assert "Oyl" not in entry.change_message
    assert "example.org" not in entry.change_message


@pytest.mark.parametrize("role", ["compliance_officer", "operator", "external_auditor"])
def test_other_sections_do_not_open_accounts(client_of, role):
    assert client_of(role).get(LIST).status_code == 403


def test_member_has_no_way_into_the_admin(client_of):
    assert client_of("member").get("/admin/", follow=True).status_code == 403


def test_list_takes_as_many_queries_for_many_as_for_one(
    ada_browser, account_of, django_assert_max_num_queries
):
    for number in range(5):
        account_of("member", email=f"member{number}@example.org")
    with django_assert_max_num_queries(7):
        ada_browser.get(LIST)
