"""The one place that says no."""

import pytest
from django.contrib.auth.models import AnonymousUser
from django.http import HttpResponse
from django.test import AsyncRequestFactory
from django.urls import include, path

from accounts.access import Denied, RoleBackend, System, allowed, require, requires
from accounts.administration import grant
from accounts.models import User
from accounts.roles import Permission
from accounts.signals import access_denied
from chatbot.database import db


@requires("conversations.chat")
def chat_page(request):
    return HttpResponse("synchronous")


@requires("conversations.chat")
async def chat_stream(request):
    return HttpResponse("asynchronous")


urlpatterns = [
    path("chat/", chat_page),
    path("stream/", chat_stream),
    path("account/", include("accounts.urls")),
]


@pytest.fixture
def views(settings):
    settings.ROOT_URLCONF = __name__


@pytest.fixture
def refusals():
    heard = []

    def hear(**announced):
        heard.append(announced)

    access_denied.connect(hear)
    yield heard
    access_denied.disconnect(hear)


class Sealed:
    def permits(self, user, permission):
        return permission != Permission.BREAK_GLASS


@pytest.mark.django_db
def test_role_allows_and_its_absence_denies(account_of):
    assert allowed(account_of("member"), "conversations.chat")
    assert not allowed(account_of("external_auditor"), "conversations.chat")
    assert not allowed(AnonymousUser(), "conversations.chat")
    assert allowed(System("reaper"), "retention.manage")


def test_unknown_permission_is_an_error():
    with pytest.raises(ValueError, match="is not a valid Permission"):
        allowed(AnonymousUser(), "conversations.shout")


@pytest.mark.django_db
def test_inactive_account_may_nothing(account_of):
    user = account_of("administrator")
    user.is_active = False
    assert user.permissions == frozenset()
    assert not user.is_staff


@pytest.mark.django_db
def test_object_can_forbid_but_never_allow(account_of):
    officer, member = account_of("compliance_officer"), account_of("member")
    assert not allowed(officer, Permission.BREAK_GLASS, Sealed())
    assert allowed(officer, Permission.VIEW_AUDIT, Sealed())
    assert not allowed(member, Permission.VIEW_AUDIT, Sealed())


@pytest.mark.django_db
def test_refusal_is_a_sentence_and_is_announced(account_of, refusals):
    user = account_of("member")
    with pytest.raises(Denied, match="Your roles do not allow you to read the audit log"):
        require(user, "audit.view", user)
    assert refusals[0]["user"] == user
    assert refusals[0]["obj"] == user
    assert refusals[0]["permission"] is Permission.VIEW_AUDIT


@pytest.mark.django_db
def test_signed_in_account_comes_with_its_roles_in_one_query(account_of, django_assert_num_queries):
    user = account_of("member", "operator")
    with django_assert_num_queries(1):
        loaded = RoleBackend().get_user(user.pk)
        assert loaded.roles == {"member", "operator"}
        assert allowed(loaded, "metrics.view")
        assert loaded.is_staff


@pytest.mark.django_db
def test_granted_roles_are_seen_after_a_reload(account_of):
    user = account_of("member")
    assert not allowed(user, "metrics.view")
    grant(User.objects.get(pk=user.pk), "operator", by=System("tests"))
    user.refresh_from_db()
    assert allowed(user, "metrics.view")


@pytest.mark.django_db
@pytest.mark.usefixtures("views")
def test_stranger_is_sent_to_sign_in_and_back(client):
    response = client.get("/chat/?page=2")
    assert response.status_code == 302
    assert response.headers["Location"] == "/account/sign-in/?next=/chat/%3Fpage%3D2"


@pytest.mark.django_db
@pytest.mark.usefixtures("views")
def test_fragment_for_a_stranger_moves_the_whole_page_to_sign_in(client):
    response = client.post(
        "/chat/", headers={"HX-Request": "true", "HX-Current-URL": "http://testserver/c/1/"}
    )
    assert response.status_code == 401
    assert response.headers["HX-Redirect"] == "/account/sign-in/?next=%2Fc%2F1%2F"


@pytest.mark.django_db
@pytest.mark.usefixtures("views")
def test_foreign_page_is_never_where_sign_in_leads(client):
    response = client.post("/chat/", headers={"Referer": "https://evil.example/c/1/"})
    assert response.headers["Location"] == "/account/sign-in/?next=/"


@pytest.mark.django_db
@pytest.mark.usefixtures("views")
def test_view_opens_for_the_role_and_answers_403_without(client_of):
    assert client_of("member").get("/chat/").content == b"synchronous"
    assert client_of("external_auditor").get("/chat/").status_code == 403


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("views")
async def test_asynchronous_view_is_guarded_alike(account_of, transactional_db):
    def request_of(user):
        request = AsyncRequestFactory().get("/stream/")
        request.user = user
        return request

    member = await db(account_of)("member")
    auditor = await db(account_of)("external_auditor")
    assert (await chat_stream(request_of(AnonymousUser()))).status_code == 302
    assert (await chat_stream(request_of(member))).content == b"asynchronous"
    with pytest.raises(Denied):
        await chat_stream(request_of(auditor))
