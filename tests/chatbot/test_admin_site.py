import pytest

from conversations.models import Conversation


@pytest.mark.parametrize(
    ("role", "sees", "sees_not"),
    [
        ("compliance_officer", ["entry", "conversation"], ["user"]),
        (
            "external_auditor",
            ["entry", "purgerun"],
            ["conversation", "hold", "user", "prompttemplate"],
        ),
        ("administrator", ["user", "prompttemplate"], ["entry", "conversation"]),
        ("operator", ["conversation"], ["entry", "user", "hold", "purgerun"]),
        ("prompt_editor", ["prompttemplate"], ["conversation", "entry", "user"]),
    ],
)
def test_each_role_has_its_sections(make_user, client, role, sees, sees_not):
    client.force_login(make_user("pat", role))
    page = client.get("/admin/").content.decode()
    assert all(f"/{name}/" in page for name in sees)
    assert not any(f"/{name}/" in page for name in sees_not)


def test_members_may_not_enter_and_strangers_sign_in(olive_client, client, db):
    assert olive_client.get("/admin/", follow=True).status_code == 403
    response = client.get("/admin/conversations/conversation/", follow=True)
    assert response.redirect_chain[-1][0].startswith("/account/sign-in/?next=/admin/")


def test_conversations_are_shown_without_what_was_said(make_user, client, finished):
    turn = finished("planted question", reply="planted reply")
    turn.conversation.title = "planted title"
    turn.conversation.save()
    client.force_login(make_user("ravi", "compliance_officer"))
    listed = client.get("/admin/conversations/conversation/").content.decode()
    shown = client.get(f"/admin/conversations/conversation/{turn.conversation.pk}/change/")
    assert str(turn.conversation.pk) in listed
    assert "UTC" in listed
    assert shown.status_code == 200
    assert "planted" not in listed + shown.content.decode()


def test_nothing_is_changed_or_removed_here(make_user, client, finished):
    turn = finished()
    client.force_login(make_user("ravi", "compliance_officer", "administrator"))
    url = f"/admin/conversations/conversation/{turn.conversation.pk}"
    assert client.post(f"{url}/delete/", {"post": "yes"}).status_code == 403
    assert client.post(f"{url}/change/", {"lifecycle": "purged"}).status_code == 403
    assert Conversation.objects.get().lifecycle == "active"


@pytest.mark.parametrize("path", ["password_change", "logout"])
def test_account_matters_have_one_page(ada_client, path):
    assert ada_client.get(f"/admin/{path}/").url.startswith("/account/")
