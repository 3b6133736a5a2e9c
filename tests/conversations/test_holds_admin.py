"""Legal holds in the admin: for those who place them alone."""

from datetime import UTC, datetime, timedelta

import pytest
from django.urls import reverse

from audit.models import Entry
from conversations.models import Erasure, Hold
from conversations.retention.holds import lift, place

pytestmark = pytest.mark.django_db
LIST = reverse("admin:conversations_hold_changelist")
ADD = reverse("admin:conversations_hold_add")
SOON = datetime.now(UTC).date() + timedelta(days=30)
TERMS = {"matter": "Case 7", "reason": "A claim was announced.", "review_on": SOON.isoformat()}


@pytest.fixture(autouse=True)
def _keys_of_its_own(settings, tmp_path):
    settings.KEYRING = str(tmp_path / "keyring")


@pytest.fixture
def standing(olive, ravi):
    return place(olive, matter="Case 7", reason="A claim.", review_on=SOON, by=ravi)


def page_of(hold):
    return reverse("admin:conversations_hold_change", args=[hold.pk])


def lifting(hold):
    return reverse("admin:conversations_hold_lift", args=[hold.pk])


def test_an_officer_places_a_hold_on_a_person(ravi_client, ravi, olive):
    given = {**TERMS, "person": "Olive@parley.example"}
    answer = ravi_client.post(ADD, given, follow=True)
    assert answer.status_code == 200
    hold = Hold.objects.get()
    assert (hold.user, hold.conversation, hold.author) == (olive, None, ravi)
    assert (hold.matter, hold.reason, hold.review_on) == ("Case 7", TERMS["reason"], SOON)


def test_an_officer_places_a_hold_on_a_conversation(ravi_client, finished):
    talk = finished().conversation
    page = ravi_client.get(f"{ADD}?conversation={talk.pk}").content.decode()
    assert str(talk.pk) in page
    ravi_client.post(ADD, {**TERMS, "conversation": str(talk.pk)})
    assert Hold.objects.get().conversation == talk


def test_a_hold_on_an_account_that_was_erased_before_says_on_which(ravi_client, standing, olive):
    Erasure.objects.create(person=olive)
    assert olive.email in ravi_client.get(page_of(standing)).content.decode()
    Erasure.objects.update(former_email="old@parley.example")
    assert "old@parley.example, erased" in ravi_client.get(page_of(standing)).content.decode()


def test_who_clicks_twice_places_one_hold(ravi_client, olive):
    given = {**TERMS, "person": olive.email}
    assert "was placed" in ravi_client.post(ADD, given, follow=True).content.decode()
    assert "stands already" in ravi_client.post(ADD, given, follow=True).content.decode()
    assert Hold.objects.count() == 1
    ravi_client.post(ADD, {**given, "matter": "Case 8"})
    assert Hold.objects.count() == 2, "holds stack"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "either a person or a conversation"),
        ({"person": "nobody@parley.example"}, "no account with this email"),
        ({"conversation": "01990000-0000-7000-8000-000000000000"}, "no conversation with this id"),
        ({"conversation": "what?"}, "valid UUID"),
        ({"person": "olive@parley.example", "review_on": "2020-01-01"}, "still to come"),
        ({"person": "olive@parley.example", "matter": " "}, "required"),
        ({"person": "olive@parley.example", "reason": ""}, "required"),
    ],
)
def test_a_hold_that_can_not_be_placed_says_why(ravi_client, olive, given, says):
    answer = ravi_client.post(ADD, {**TERMS, **given})
    assert answer.status_code == 200
    assert says in answer.content.decode()
    assert not Hold.objects.exists()


def test_person_and_conversation_want_two_holds(ravi_client, olive, finished):
    both = {"person": olive.email, "conversation": str(finished().conversation.pk)}
    assert "two holds" in ravi_client.post(ADD, {**TERMS, **both}).content.decode()
    assert not Hold.objects.exists()


def test_an_officer_lifts_a_hold_with_a_reason(ravi_client, ravi, standing):
    page = ravi_client.get(lifting(standing)).content.decode()
    assert "It goes on for 30 days" in page
    assert "required" in ravi_client.post(lifting(standing), {"reason": " "}).content.decode()
    answer = ravi_client.post(lifting(standing), {"reason": "Settled."}, follow=True)
    assert "The hold was lifted." in answer.content.decode()
    standing.refresh_from_db()
    assert (standing.lifted_by, standing.lift_reason) == (ravi, "Settled.")


def test_a_hold_is_not_lifted_twice(ravi_client, ravi, standing):
    lift(standing, reason="Settled.", by=ravi)
    assert "lifted already" in ravi_client.get(lifting(standing)).content.decode()
    answer = ravi_client.post(lifting(standing), {"reason": "Again."}, follow=True)
    assert "lifted already" in answer.content.decode()
    assert "Lift this hold" not in answer.content.decode()


def test_overdue_reviews_stand_above_the_list(ravi_client, ravi, olive, standing):
    assert "to review" not in ravi_client.get(LIST).content.decode()
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    Hold.objects.create(
        user=olive,
        matter="Old",
        reason="A claim.",
        review_on=yesterday,
        placed_at=standing.placed_at,
    )
    page = ravi_client.get(LIST).content.decode()
    assert "1 hold to review." in page
    overdue = ravi_client.get(f"{LIST}?state=overdue").content.decode()
    assert "Old" in overdue
    assert "Case 7" not in overdue


@pytest.mark.parametrize("state", ["standing", "lifted", "ended"])
def test_the_list_is_filtered_by_state(ravi_client, standing, state):
    page = ravi_client.get(f"{LIST}?state={state}").content.decode()
    assert ("Case 7" in page) is (state == "standing")


@pytest.mark.parametrize("search", ["case", "olive@parley.example"])
def test_a_hold_is_found_by_matter_and_by_person(ravi_client, standing, search):
    assert str(standing.pk) in ravi_client.get(LIST, {"q": search}).content.decode()


def test_reading_holds_is_recorded(ravi_client, standing):
    ravi_client.get(LIST)
    ravi_client.get(page_of(standing))
    pages = Entry.objects.filter(event="hold.viewed").values_list("payload__page", flat=True)
    assert sorted(pages) == ["list", "record"]


def test_holds_are_for_those_alone_who_place_them(client, make_user, ada_client, standing):
    client.force_login(make_user("otto", "operator"))
    for reader in (client, ada_client):
        for page in (LIST, ADD, page_of(standing), lifting(standing)):
            assert reader.get(page).status_code == 403
        assert reader.post(lifting(standing), {"reason": "Mine."}).status_code == 403
        assert "hold" not in reader.get("/admin/").content.decode().lower().replace("threshold", "")


def test_a_hold_is_neither_edited_nor_removed(ravi_client, standing):
    ravi_client.post(page_of(standing), {**TERMS, "matter": "Another"})
    remove = reverse("admin:conversations_hold_delete", args=[standing.pk])
    assert ravi_client.post(remove, {"post": "yes"}).status_code == 403
    standing.refresh_from_db()
    assert standing.matter == "Case 7"
