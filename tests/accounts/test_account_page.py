"""A person's own page, the theme, and forms that came too late."""

import pytest
from django.test import Client, RequestFactory

from accounts.http import appearance, client_address

pytestmark = pytest.mark.django_db


def test_own_page_shows_name_email_and_roles(client_of):
    page = client_of("member", "operator").get("/account/").content.decode()
    assert "member.operator@example.org" in page
    assert "Member, Operator" in page


def test_own_page_is_for_the_signed_in(client):
    assert client.get("/account/").headers["Location"].startswith("/account/sign-in/")


def test_theme_is_kept_for_a_year_and_leads_back(client):
    response = client.post(
        "/account/theme/", {"theme": "dark"}, headers={"Referer": "http://testserver/c/1/"}
    )
    cookie = response.cookies["theme"]
    assert response.headers["Location"] == "/c/1/"
    assert (cookie.value, cookie["max-age"], cookie["samesite"]) == ("dark", 31_536_000, "Lax")


@pytest.mark.parametrize(("sent", "kept"), [("purple", "system"), ("light", "light")])
def test_unknown_theme_is_the_systems(client, sent, kept):
    assert client.post("/account/theme/", {"theme": sent}).cookies["theme"].value == kept


def test_theme_never_leads_to_another_site(client):
    response = client.post("/account/theme/", {"theme": "dark", "next": "https://evil.example/"})
    assert response.headers["Location"] == "/"


@pytest.mark.parametrize(
    ("cookie", "theme"), [("dark", "dark"), ("light", "light"), ('"><script>', "system")]
)
def test_pages_get_only_known_themes(rf, cookie, theme):
    rf.cookies["theme"] = cookie
    assert appearance(rf.get("/")) == {"theme": theme}


def test_form_without_a_token_is_explained():
    response = Client(enforce_csrf_checks=True).post("/account/theme/", {"theme": "dark"})
    assert response.status_code == 403
    assert "The form was too old to accept" in response.content.decode()


@pytest.mark.parametrize(
    ("proxies", "address"), [(0, "10.0.0.9"), (1, "198.51.100.7"), (2, "203.0.113.1")]
)
def test_forwarded_addresses_count_as_far_as_proxies_are_trusted(settings, proxies, address):
    settings.TRUSTED_PROXIES = proxies
    request = RequestFactory().get(
        "/", REMOTE_ADDR="10.0.0.9", headers={"X-Forwarded-For": "203.0.113.1, 198.51.100.7"}
    )
    assert client_address(request) == address
