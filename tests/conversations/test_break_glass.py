"""Break-glass: who may read what others said, for how long, and what is left of it."""

import uuid
from datetime import UTC, date, datetime, timedelta
from unittest.mock import patch

import pytest
from django.db import DatabaseError, IntegrityError, transaction
from django.test import Client
from django.urls import reverse

from accounts.access import Denied
from accounts.models import User
from accounts.roles import ROLES
from audit.models import Entry
from conversations.break_glass import grants as break_glass
from conversations.break_glass.grants import (
    Asked,
    NotReadable,
    Refused,
    ask,
    decide,
    end,
    opened,
    state_of,
)
from conversations.models import (
    BreakGlassGrant,
    BreakGlassView,
    Conversation,
    Erasure,
    Message,
)

REASON = "The regulator asked for it."
LIST = reverse("admin:conversations_breakglassgrant_changelist")
ADD = reverse("admin:conversations_breakglassgrant_add")


def about(**given) -> Asked:
    return Asked(**{"matter": "2026-114", "reason": REASON, **given})


@pytest.fixture
def said(finished):
    """A conversation of olive's with a title."""
    turn = finished("What did the planted question say?", "A planted reply.")
    turn.conversation.title = "A planted title"
    turn.conversation.save()
    return turn.conversation


@pytest.fixture
def rita(make_user) -> User:
    """Another compliance officer."""
    return make_user("rita", "compliance_officer")


@pytest.fixture
def rita_client(rita) -> Client:
    client = Client()
    client.force_login(rita)
    return client


@pytest.fixture
def two_needed(settings):
    settings.BREAK_GLASS_NEEDS_APPROVAL = True


@pytest.fixture
def grant(said, ravi, olive) -> BreakGlassGrant:
    """Ravi may read what olive said."""
    return ask(by=ravi, asked=about(person=olive))


def listing_of(grant) -> str:
    return reverse("break_glass", args=[grant.pk])


def page_of(grant, conversation) -> str:
    return reverse("break_glass_conversation", args=[grant.pk, conversation.pk])


def admin_page(grant, name: str = "change") -> str:
    return reverse(f"admin:conversations_breakglassgrant_{name}", args=[grant.pk])


def at(moment: datetime):
    """Let break-glass take this moment for now."""

    class Then(datetime):
        @classmethod
        def now(cls, tz=None):
            return moment

    return patch.multiple("conversations.break_glass.grants", datetime=Then)


def events(*names: str) -> list[Entry]:
    return list(Entry.objects.filter(event__in=names).order_by("id"))


# --- asking ---------------------------------------------------------------------------------------


def test_it_begins_at_once_and_lasts_an_hour(grant):
    assert (grant.starts_at, grant.ends_at - grant.starts_at) == (
        grant.asked_at,
        timedelta(hours=1),
    )
    assert state_of(grant, datetime.now(UTC)) == "active"
    (entry,) = events("break_glass.requested")
    assert entry.payload == {
        "matter": "2026-114",
        "minutes": 60,
        "scope": {"account": str(grant.person_id)},
        "until": grant.ends_at.isoformat(),
    }


@pytest.mark.parametrize("role", sorted(set(ROLES) - {"compliance_officer"}))
def test_only_compliance_officers_ask(said, make_user, olive, role):
    with pytest.raises(Denied):
        ask(by=make_user("somebody", role), asked=about(person=olive))
    assert not BreakGlassGrant.objects.exists()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"matter": "  "}, "matter"),
        ({"reason": "because  "}, "reason"),
        ({"minutes": 0}, "minutes"),
        ({"minutes": 1441}, "minutes"),
        ({"person": None}, "person"),
        ({"conversation_id": uuid.uuid4()}, "person"),
        ({"person": None, "conversation_id": uuid.uuid4()}, "conversation_id"),
        ({"first_day": date(2026, 2, 2), "last_day": date(2026, 2, 1)}, "last_day"),
    ],
)
def test_what_can_not_be_asked_is_a_sentence(ravi, olive, wrong, field):
    with pytest.raises(Refused) as refused:
        ask(by=ravi, asked=about(**{"person": olive, **wrong}))
    assert refused.value.field == field
    assert not BreakGlassGrant.objects.exists()


def test_days_do_not_narrow_down_one_conversation(ravi, said):
    with pytest.raises(Refused):
        ask(by=ravi, asked=about(conversation_id=said.pk, first_day=said.created_at.date()))


# --- a second person ------------------------------------------------------------------------------


def test_another_officer_approves_and_it_begins_with_that(two_needed, said, ravi, rita, olive):
    grant = ask(by=ravi, asked=about(person=olive, minutes=30))
    assert state_of(grant, datetime.now(UTC)) == "waiting"
    with pytest.raises(NotReadable, match="not approved"):
        opened(grant.pk, by=ravi)
    decide(grant.pk, by=rita, approve=True)
    approved = opened(grant.pk, by=ravi)
    assert approved.ends_at - approved.decided_at == timedelta(minutes=30)
    (entry,) = events("break_glass.approved")
    assert (entry.actor_id, entry.target_id) == (str(rita.pk), str(grant.pk))


def test_nobody_decides_their_own(two_needed, said, ravi, olive):
    grant = ask(by=ravi, asked=about(person=olive))
    with pytest.raises(Refused, match="Nobody decides their own"):
        decide(grant.pk, by=ravi, approve=True)
    with pytest.raises(IntegrityError), transaction.atomic():
        BreakGlassGrant.objects.filter(pk=grant.pk).update(decided_by=ravi)


def test_nobody_decides_about_their_own_words(two_needed, ravi, rita):
    mine = Conversation.objects.create(owner=rita)
    for scope in ({"person": rita}, {"conversation_id": mine.pk}):
        grant = ask(by=ravi, asked=about(**scope))
        with pytest.raises(Refused, match="concerns you"):
            decide(grant.pk, by=rita, approve=True)


def test_administrators_decide_nothing(two_needed, said, ravi, ada, olive):
    grant = ask(by=ravi, asked=about(person=olive))
    with pytest.raises(Denied):
        decide(grant.pk, by=ada, approve=True)


def test_a_decision_is_final(two_needed, said, ravi, rita, olive):
    grant = ask(by=ravi, asked=about(person=olive))
    decide(grant.pk, by=rita, approve=False)
    with pytest.raises(Refused, match="any more"):
        decide(grant.pk, by=rita, approve=True)
    with pytest.raises(NotReadable, match="refused"):
        opened(grant.pk, by=ravi)
    assert len(events("break_glass.refused")) == 1


def test_a_request_lapses_after_a_day(two_needed, said, ravi, rita, olive):
    grant = ask(by=ravi, asked=about(person=olive))
    with at(grant.asked_at + timedelta(hours=24)), pytest.raises(Refused):
        decide(grant.pk, by=rita, approve=True)


# --- an end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "opens"), [(timedelta(minutes=59), True), (timedelta(minutes=60), False)]
)
def test_it_expires(grant, ravi, said, after, opens):
    with at(grant.starts_at + after):
        scope = Conversation.objects.readable_under(grant, grant.starts_at + after)
        assert scope.exists() is opens
        if opens:
            assert opened(grant.pk, by=ravi)
        else:
            with pytest.raises(NotReadable, match="expired"):
                opened(grant.pk, by=ravi)


@pytest.mark.parametrize("who", ["ravi", "rita"])
def test_it_can_be_ended_by_any_officer_once(grant, ravi, rita, who):
    end(grant.pk, by={"ravi": ravi, "rita": rita}[who])
    end(grant.pk, by=ravi)
    assert len(events("break_glass.ended")) == 1
    with pytest.raises(NotReadable, match="ended"):
        opened(grant.pk, by=ravi)


def test_a_grant_is_one_officers_alone(grant, rita):
    with pytest.raises(NotReadable, match="somebody else"):
        opened(grant.pk, by=rita)
    (entry,) = events("access.denied")
    assert (entry.actor_id, entry.target_id) == (str(rita.pk), str(grant.pk))


def test_who_lost_the_role_reads_nothing(grant, ravi):
    ravi.grants.all().delete()
    with pytest.raises(Denied):
        opened(grant.pk, by=User.objects.get(pk=ravi.pk))


# --- the database keeps it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"reason": "Another one altogether."},
        {"matter": "other"},
        {"minutes": 5},
        {"ends_at": datetime(2030, 1, 1, tzinfo=UTC)},
        {"starts_at": None, "ends_at": None},
        {"asked_at": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_was_asked_for_never_changes(grant, change):
    with pytest.raises(DatabaseError), transaction.atomic():
        BreakGlassGrant.objects.filter(pk=grant.pk).update(**change)


def test_grants_and_views_are_never_removed(grant, ravi, said):
    break_glass.read(grant, said.pk, by=ravi)
    for row in (BreakGlassGrant, BreakGlassView):
        with pytest.raises(DatabaseError), transaction.atomic():
            row.objects.all()._raw_delete("default")
    with pytest.raises(DatabaseError), transaction.atomic():
        BreakGlassView.objects.update(conversation_id=uuid.uuid4())


def test_no_grant_lasts_longer_than_a_day(two_needed, said, ravi, olive):
    grant = ask(by=ravi, asked=about(person=olive))
    now = datetime.now(UTC)
    with pytest.raises(IntegrityError), transaction.atomic():
        BreakGlassGrant.objects.filter(pk=grant.pk).update(
            starts_at=now, ends_at=now + timedelta(hours=24, seconds=1)
        )


# --- reading --------------------------------------------------------------------------------------


def test_a_conversation_is_shown_to_be_read_and_nothing_else(grant, ravi_client, said):
    answer = ravi_client.get(page_of(grant, said))
    page = answer.content.decode()
    for shown in ("What did the planted question say?", "A planted reply.", "A planted title"):
        assert shown in page
    for absent in ("<textarea", "hx-ws", "<script", "Continue", "data-copy-reply", ">You<"):
        assert absent not in page
    assert "Olive" in page
    assert "Matter: 2026-114." in page
    assert "60 minutes left" in page
    assert "End now" in page
    assert "no-store" in answer["Cache-Control"]


def test_each_view_is_an_entry_without_words(grant, ravi, ravi_client, said):
    for _ in range(2):
        ravi_client.get(page_of(grant, said))
    first, second = events("break_glass.viewed")
    assert (first.actor_id, first.target_id) == (str(ravi.pk), str(said.pk))
    assert first.payload == {"grant": str(grant.pk), "matter": "2026-114"}
    views = grant.views.order_by("id").values_list("conversation_id", "entry_id")
    assert list(views) == [(said.pk, first.pk), (said.pk, second.pk)]


def test_nothing_is_shown_when_it_can_not_be_recorded(grant, ravi_client, said):
    ravi_client.raise_request_exception = False
    with patch("conversations.break_glass.grants.record", side_effect=DatabaseError):
        answer = ravi_client.get(page_of(grant, said))
    assert answer.status_code == 500
    assert b"planted" not in answer.content


def test_the_list_names_what_is_open(grant, ravi_client, said):
    page = ravi_client.get(listing_of(grant)).content.decode()
    assert "A planted title" in page
    assert page_of(grant, said) in page
    (entry,) = events("break_glass.listed")
    assert entry.payload == {"matter": "2026-114", "count": 1}


def test_a_reply_that_broke_off_offers_no_continue(grant, ravi_client, said):
    said.messages.filter(role="assistant").update(state=Message.State.INTERRUPTED, fault="lost")
    page = ravi_client.get(page_of(grant, said)).content.decode()
    assert "notice" in page
    assert "/continue" not in page


@pytest.mark.parametrize("why", ["expired", "ended"])
def test_afterwards_there_is_a_sentence(grant, ravi, ravi_client, said, why):
    if why == "ended":
        end(grant.pk, by=ravi)
        answers = [ravi_client.get(listing_of(grant)), ravi_client.get(page_of(grant, said))]
    else:
        with at(grant.ends_at):
            answers = [ravi_client.get(listing_of(grant)), ravi_client.get(page_of(grant, said))]
    for answer in answers:
        assert answer.status_code == 403
        assert f"This access {'was ended' if why == 'ended' else 'has expired'}." in (
            answer.content.decode()
        )
        assert b"planted" not in answer.content
    assert not events("break_glass.viewed")


def test_end_now_ends_it(grant, ravi_client, said):
    answer = ravi_client.post(reverse("break_glass_end", args=[grant.pk]), follow=True)
    assert b"ended" in answer.content
    assert ravi_client.get(page_of(grant, said)).status_code == 403


def test_what_lies_outside_the_scope_is_not_there(grant, ravi, ravi_client, said, sam, olive):
    others = Conversation.objects.create(owner=sam)
    assert ravi_client.get(page_of(grant, others)).status_code == 404
    second = Conversation.objects.create(owner=olive)
    one = ask(by=ravi, asked=about(conversation_id=said.pk))
    assert ravi_client.get(page_of(one, said)).status_code == 200
    assert ravi_client.get(page_of(one, second)).status_code == 404


def test_days_leave_out_messages_and_conversations(ravi, ravi_client, olive, finished, begin):
    long_ago = datetime.now(UTC) - timedelta(days=9)
    turn = finished("An early question", "An early reply")
    Message.objects.filter(conversation=turn.conversation).update(created_at=long_ago)
    turn.conversation.refresh_from_db()
    finished("A late question", "A late reply", conversation=turn.conversation)
    other = finished("Another one of today").conversation
    grant = ask(
        by=ravi,
        asked=about(
            person=olive, first_day=long_ago.date() - timedelta(days=1), last_day=long_ago.date()
        ),
    )
    page = ravi_client.get(page_of(grant, turn.conversation)).content.decode()
    # A text that was re-dated is sealed under the key of its own day still.
    assert "An early reply" in page
    assert "A late" not in page
    assert ravi_client.get(page_of(grant, other)).status_code == 404
    assert str(other.pk) not in ravi_client.get(listing_of(grant)).content.decode()


def test_what_its_owner_deleted_is_readable_while_it_is_there(grant, ravi_client, said):
    Conversation.objects.filter(pk=said.pk).update(
        lifecycle=Conversation.Lifecycle.DELETED, deleted_at=datetime.now(UTC)
    )
    page = ravi_client.get(page_of(grant, said)).content.decode()
    assert "A planted reply." in page
    assert "deleted by its owner" in page
    assert "deleted by its owner" in ravi_client.get(listing_of(grant)).content.decode()


def test_a_long_conversation_is_read_page_by_page(grant, ravi_client, said, finished):
    turn = None
    for number in range(21):
        said.refresh_from_db()
        turn = finished(f"Question number {number}", "Yes.", conversation=said)
    page = ravi_client.get(page_of(grant, turn.conversation)).content.decode()
    assert "planted question" not in page
    before = page.split('href="?before=')[1][:36]
    earlier = ravi_client.get(page_of(grant, said), {"before": before}).content.decode()
    assert "planted question" in earlier
    assert len(events("break_glass.viewed")) == 2


def test_reading_costs_few_statements(grant, ravi_client, said, django_assert_max_num_queries):
    ravi_client.get(page_of(grant, said))
    savepoint = 2
    with django_assert_max_num_queries(7 + savepoint):
        ravi_client.get(page_of(grant, said))
    with django_assert_max_num_queries(5):
        ravi_client.get(listing_of(grant))


# --- the administration ---------------------------------------------------------------------------


def test_an_officer_asks_in_the_administration(ravi_client, said, olive):
    given = {
        "matter": "2026-114",
        "reason": REASON,
        "person": olive.email,
        "minutes": "45",
        "conversation_id": "",
    }
    answer = ravi_client.post(ADD, given, follow=True)
    grant = BreakGlassGrant.objects.get()
    assert answer.redirect_chain[-1][0] == admin_page(grant)
    assert listing_of(grant) in answer.content.decode()
    assert b"planted" not in answer.content
    assert grant.minutes == 45


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"reason": "short"}, "Give a reason, of 10 characters at least."),
        ({"person": "nobody@parley.example"}, "There is no account with this email or id."),
        ({"person": ""}, "Name one conversation or one person."),
        ({"minutes": "2000"}, "less than or equal to 1440"),
    ],
)
def test_a_form_that_is_not_right_says_where(ravi_client, olive, given, sentence):
    form = {"matter": "m", "reason": REASON, "person": olive.email, "minutes": "60"}
    answer = ravi_client.post(ADD, {**form, **given})
    assert (answer.status_code, sentence in answer.content.decode()) == (400, True)
    assert not BreakGlassGrant.objects.exists()


def test_an_erased_account_is_found_by_what_it_was_while_a_hold_keeps_that(
    ravi, ravi_client, said, olive, make_user
):
    Erasure.objects.create(person=olive, former_email="old@parley.example", former_name="Old Olive")
    form = {"matter": "m", "reason": REASON, "minutes": "60"}
    ravi_client.post(ADD, {**form, "person": "old@parley.example"})
    grant = BreakGlassGrant.objects.get()
    assert grant.person == olive
    assert "Old Olive" in ravi_client.get(page_of(grant, said)).content.decode()
    assert "Conversations of Old Olive" in ravi_client.get(listing_of(grant)).content.decode()
    assert "old@parley.example, erased" in ravi_client.get(LIST).content.decode()
    User.objects.create_user("old@parley.example")
    answer = ravi_client.post(ADD, {**form, "person": "old@parley.example"})
    assert f"Give the id: {olive.pk}, " in answer.content.decode()
    ravi_client.post(ADD, {**form, "person": str(olive.pk)})
    assert BreakGlassGrant.objects.filter(person=olive).count() == 2


def test_the_conversations_page_leads_to_the_request(ravi_client, said):
    page = ravi_client.get(reverse("admin:conversations_conversation_change", args=[said.pk]))
    address = f"{ADD}?conversation={said.pk}"
    assert address in page.content.decode()
    assert str(said.pk) in ravi_client.get(address).content.decode()


def test_the_list_begins_with_the_newest(ravi_client, ravi, olive, said):
    asked = [ask(by=ravi, asked=about(matter=f"M{n}", person=olive)) for n in range(3)]
    # In the table the oldest row comes last: what was written last is not what was asked last.
    end(asked[1].pk, by=ravi)
    end(asked[0].pk, by=ravi)
    shown = [each.grant.matter for each in ravi_client.get(LIST).context["found"]]
    assert shown == ["M2", "M1", "M0"]


def test_the_last_day_that_there_is_narrows_nothing_down(ravi, ravi_client, olive, said):
    grant = ask(by=ravi, asked=about(person=olive, first_day=date.min, last_day=date.max))
    assert "A planted title" in ravi_client.get(listing_of(grant)).content.decode()


def test_the_list_tells_how_often_was_read(grant, ravi_client, rita_client, said):
    for _ in range(3):
        ravi_client.get(page_of(grant, said))
    page = rita_client.get(LIST).content.decode()
    assert '<td class="num">3<' in page
    assert "open until" in page
    trail = rita_client.get(admin_page(grant)).content.decode()
    assert trail.count(str(said.pk)) == 4  # three views, once in the scope
    assert listing_of(grant) not in trail
    assert "planted" not in trail


def test_an_officer_decides_in_the_administration(
    two_needed, said, ravi, ravi_client, rita_client, olive
):
    grant = ask(by=ravi, asked=about(person=olive))
    mine = ravi_client.get(admin_page(grant)).content.decode()
    assert "nobody decides their own" in mine
    assert 'value="approve"' not in mine
    ravi_client.post(admin_page(grant, "decide"), {"decision": "approve"})
    grant.refresh_from_db()
    assert grant.starts_at is None
    assert "planted" not in mine
    assert 'value="approve"' in rita_client.get(admin_page(grant)).content.decode()
    rita_client.post(admin_page(grant, "decide"), {"decision": "approve"})
    assert ravi_client.get(listing_of(grant)).status_code == 200


@pytest.mark.parametrize("role", sorted(set(ROLES) - {"compliance_officer"}))
def test_others_have_no_part_in_it(grant, make_user, said, role):
    client = Client()
    client.force_login(make_user("somebody", role))
    answers = [
        client.get(LIST),
        client.get(ADD),
        client.post(ADD, {"matter": "m", "reason": REASON, "minutes": "60"}),
        client.get(admin_page(grant)),
        client.post(admin_page(grant, "decide"), {"decision": "approve"}),
        client.post(admin_page(grant, "end")),
        client.get(listing_of(grant)),
        client.get(page_of(grant, said)),
        client.post(reverse("break_glass_end", args=[grant.pk])),
    ]
    # Who has no section in the administration at all is sent to its sign-in, which says 403.
    assert {answer.status_code for answer in answers} <= {302, 403}
    assert [answer.status_code for answer in answers[6:]] == [403] * 3
    grant.refresh_from_db()
    assert grant.ended_at is None


def test_the_pages_ask_the_database_little(
    grant, ravi, ravi_client, said, django_assert_max_num_queries
):
    for _ in range(5):
        ask(by=ravi, asked=about(conversation_id=said.pk))
    ravi_client.get(LIST)
    with django_assert_max_num_queries(3):
        ravi_client.get(LIST)
    with django_assert_max_num_queries(5):
        ravi_client.get(admin_page(grant))
