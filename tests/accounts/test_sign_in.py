"""Signing in, out, and setting a password, by plain forms."""

import re

import pytest
from django.core import mail
from django.test import Client
from django.urls import reverse

from accounts.access import System
from accounts.administration import deactivate

PASSWORD = "a long enough sentence"

pytestmark = pytest.mark.django_db


@pytest.fixture
def olive(account_of):
    return account_of("member", email="olive@example.org")


def sign_in(client, email, password=PASSWORD, **more):
    return client.post("/account/sign-in/", {"login": email, "password": password, **more})


def test_form_signs_in_with_the_email_in_any_case(client, olive):
    response = sign_in(client, "OLIVE@Example.Org")
    assert response.status_code == 302
    assert response.headers["Location"] == "/"
    assert client.session["_auth_user_id"] == str(olive.pk)


@pytest.mark.parametrize(
    ("given", "reached"), [("/c/1/", "/c/1/"), ("https://evil.example/", "/"), ("//evil", "/")]
)
def test_sign_in_goes_on_only_within_this_site(client, olive, given, reached):
    assert sign_in(client, olive.email, next=given).headers["Location"] == reached


def test_wrong_password_unknown_email_and_inactive_account_look_alike(client, olive, account_of):
    off = account_of("operator")
    deactivate(off, by=System("tests"))
    answers = {
        _without_what_differs(sign_in(Client(), email, password))
        for email, password in [
            (olive.email, "not the password"),
            ("who@example.org", "not the password"),
            (off.email, PASSWORD),
        ]
    }
    assert len(answers) == 1
    assert "Email or password is not right" in answers.pop()


def _without_what_differs(response):
    assert response.status_code == 200
    text = re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", response.content.decode())
    return re.sub(r'value="[^"]+@example.org"', "", text)


def test_too_many_failures_pause_the_account(client, olive, settings):
    settings.ACCOUNT_RATE_LIMITS = {"login_failed": "2/m/key"}
    for _ in range(2):
        sign_in(client, olive.email, "not the password")
    response = sign_in(client, olive.email)
    assert "Too many tries" in response.content.decode()
    assert "_auth_user_id" not in client.session


def test_sign_out_takes_a_post(client, olive):
    client.force_login(olive)
    assert client.get("/account/sign-out/").status_code == 200
    assert "_auth_user_id" in client.session
    assert client.post("/account/sign-out/").status_code == 302
    assert "_auth_user_id" not in client.session


def test_sign_up_is_closed(client):
    response = client.post(
        "/account/sign-up/",
        {"email": "new@example.org", "password1": PASSWORD, "password2": PASSWORD},
    )
    assert "Accounts are made by administrators" in response.content.decode()


def test_mailed_link_sets_a_new_password_once(client, olive):
    client.post("/account/password/reset/", {"email": "Olive@example.org"})
    (message,) = mail.outbox
    path = re.search(r"http://testserver(/account/password/reset/\S+)", message.body)[1]
    form = client.get(path, follow=True)
    new = "another long sentence"
    done = client.post(form.request["PATH_INFO"], {"password1": new, "password2": new})
    assert done.status_code == 302
    assert sign_in(Client(), olive.email, new).status_code == 302
    assert "This link no longer works" in client.get(path, follow=True).content.decode()


def test_reset_for_an_unknown_email_answers_alike_and_mails_nothing(client, olive):
    known = client.post("/account/password/reset/", {"email": olive.email})
    unknown = client.post("/account/password/reset/", {"email": "who@example.org"})
    assert (known.status_code, known.headers["Location"]) == (
        unknown.status_code,
        unknown.headers["Location"],
    )
    assert len(mail.outbox) == 1


def test_password_change_asks_for_the_old_one_and_keeps_the_session(client, olive):
    client.force_login(olive)
    new = "another long sentence"
    fields = {"oldpassword": "wrong", "password1": new, "password2": new}
    assert client.post("/account/password/", fields).status_code == 200
    fields["oldpassword"] = PASSWORD
    assert client.post("/account/password/", fields).headers["Location"] == "/account/"
    assert client.get("/account/").status_code == 200


def test_who_may_not_chat_arrives_in_the_administration(client, account_of):
    auditor = account_of("external_auditor")
    response = client.post(reverse("account_login"), {"login": auditor.email, "password": PASSWORD})
    assert response.url == reverse("admin:index")
