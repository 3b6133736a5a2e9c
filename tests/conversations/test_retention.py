"""How long conversations are kept: which policy holds, for whom, and how one is changed."""

from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, transaction
from django.db.models import F
from django.urls import reverse

from accounts.access import Denied
from audit.models import Entry
from conversations.models import Conversation, Message, RetentionPolicy, RetentionVersion
from conversations.retention.policies import (
    LONGEST_HOURS,
    PeriodRefused,
    add_policy,
    class_for,
    in_words,
    periods,
    preview,
    seed_policies,
    set_period,
    standard_hours,
)

pytestmark = pytest.mark.django_db

NOW = datetime(2031, 5, 4, 13, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def standard() -> RetentionPolicy:
    return RetentionPolicy.objects.get(pk=1)


def hours(now: datetime, retention_class: int = 1) -> int:
    return periods(now)[retention_class].hours


# --- which holds ------------------------------------------------------------------------------


def test_messages_are_kept_thirty_days_and_temporary_ones_a_day():
    assert (hours(NOW, 1), hours(NOW, 2)) == (720, 24)


def test_a_longer_period_holds_at_once(standard, ravi):
    set_period(standard, 800, by=ravi, now=NOW)
    assert hours(NOW) == 800


def test_a_shorter_period_waits(standard, ravi):
    made = set_period(standard, 100, by=ravi, now=NOW)
    assert made.effective_at == NOW + 24 * HOUR
    assert hours(NOW + 23 * HOUR) == 720
    assert hours(NOW + 24 * HOUR) == 100


def test_a_change_that_waits_is_given_up_by_the_next(standard, ravi):
    set_period(standard, 100, by=ravi, now=NOW)
    set_period(standard, 720, by=ravi, now=NOW + HOUR)
    assert hours(NOW + 48 * HOUR) == 720
    set_period(standard, 100, by=ravi, now=NOW + 2 * HOUR)
    set_period(standard, 200, by=ravi, now=NOW + 20 * HOUR)
    assert hours(NOW + 30 * HOUR) == 720, "the shorter one never held"
    assert hours(NOW + 44 * HOUR) == 200


def test_the_same_change_once_more_does_not_begin_its_delay_anew(standard, ravi):
    made = set_period(standard, 100, by=ravi, now=NOW)
    with pytest.raises(PeriodRefused, match="on its way already"):
        set_period(standard, 100, by=ravi, now=NOW + HOUR)
    assert standard.versions.latest("number") == made


def test_what_held_before_is_told_for_a_moment_before(standard, ravi):
    set_period(standard, 100, by=ravi, now=NOW)
    set_period(standard, 900, by=ravi, now=NOW + 48 * HOUR)
    assert hours(NOW + 30 * HOUR) == 100


@pytest.mark.parametrize("wrong", [0, -1, -(10**9), LONGEST_HOURS + 1, 10**30])
def test_no_time_and_more_than_a_lifetime_are_refused(standard, ravi, wrong):
    with pytest.raises(PeriodRefused):
        set_period(standard, wrong, by=ravi)
    with pytest.raises(PeriodRefused):
        preview(standard, wrong, NOW)
    with pytest.raises(PeriodRefused):
        add_policy("operator", wrong, by=ravi)
    assert standard.versions.count() == 1


def test_the_same_period_is_no_change(standard, ravi):
    with pytest.raises(PeriodRefused, match="30 days already"):
        set_period(standard, 720, by=ravi)


def test_who_may_not_changes_nothing(standard, ada):
    with pytest.raises(Denied):
        set_period(standard, 800, by=ada)


def test_a_change_is_recorded_with_its_reason(standard, ravi):
    set_period(standard, 800, by=ravi, note="The auditors ask.", now=NOW)
    entry = Entry.objects.get(event="retention.changed")
    assert entry.reason == "The auditors ask."
    assert (entry.payload["before_hours"], entry.payload["hours"]) == (720, 800)


def test_versions_stay():
    with pytest.raises(DatabaseError, match="never changed"), transaction.atomic():
        RetentionVersion.objects.update(hours=1)
    with pytest.raises(DatabaseError, match="never changed"), transaction.atomic():
        RetentionVersion.objects.all().delete()


@pytest.mark.parametrize("days", [0, -3, 10**6])
def test_a_setting_that_is_no_period_is_refused_with_a_sentence(settings, days):
    settings.RETENTION_DAYS = days
    with pytest.raises(ImproperlyConfigured, match="Nothing was deleted"):
        standard_hours()


def test_seeding_again_changes_nothing(settings):
    settings.RETENTION_DAYS = 3
    seed_policies()
    assert hours(NOW) == 720
    assert RetentionVersion.objects.count() == 2


def test_periods_in_words():
    assert [in_words(n) for n in (1, 24, 25, 48, 8760)] == [
        *("1 hour", "24 hours", "25 hours", "2 days", "365 days")
    ]


# --- who falls under which --------------------------------------------------------------------


def test_a_conversation_gets_the_longest_of_its_owners_roles(make_user, ravi):
    both = make_user("both", "member", "operator", "prompt_editor")
    assert class_for(both) == 1
    short = add_policy("operator", 48, by=ravi)
    assert class_for(both) == short.pk, "a role's own policy stands before the standard one"
    long = add_policy("prompt_editor", 96, by=ravi)
    assert class_for(both) == long.pk
    assert class_for(both, temporary=True) == 2


def test_no_role_has_two_policies(ravi):
    add_policy("operator", 48, by=ravi)
    with pytest.raises(PeriodRefused, match="Change that one"):
        add_policy("operator", 96, by=ravi)


def test_a_conversation_keeps_its_class_when_roles_get_a_policy(finished, olive, ravi):
    turn = finished()
    made = add_policy("member", 48, by=ravi)
    other = finished("Another?")
    assert Conversation.objects.get(pk=turn.conversation.pk).retention_class == 1
    assert Conversation.objects.get(pk=other.conversation.pk).retention_class == made.pk
    finished("More?", conversation=turn.conversation)
    assert Conversation.objects.get(pk=turn.conversation.pk).retention_class == 1


# --- what a change would remove ---------------------------------------------------------------


def test_a_preview_counts_what_would_go_sooner(standard, finished, ravi):
    now = datetime.now(UTC)
    for number, days in enumerate((3, 8, 29.5)):
        turn = finished(f"Question {number}?")
        turn.conversation.messages.update(created_at=F("created_at") - timedelta(days=days))
    shown = preview(standard, 7 * 24, now)
    # What is 29.5 days old would be gone in a day all the same.
    assert (shown.messages, shown.conversations, shown.people) == (2, 1, 1)
    assert (shown.of_messages, shown.held) == (6, 0)
    assert shown.effective_at == now + 24 * HOUR
    assert Message.objects.count() == 6
    assert preview(standard, 800, now).messages == 0


# --- pages ------------------------------------------------------------------------------------


def test_a_temporary_chat_is_in_no_list(olive_client, olive, begin, runner_row):
    page = olive_client.get("/?temporary").content.decode()
    assert 'name="temporary" value="1"' in page
    assert "Each message is deleted after 24 hours" in page
    turn = begin("A secret plan?")
    Conversation.objects.filter(pk=turn.conversation.pk).update(retention_class=2)
    assert f'id="item-{turn.conversation.pk}"' not in olive_client.get("/").content.decode()
    own = olive_client.get(turn.conversation.get_absolute_url()).content.decode()
    assert "A secret plan?" in own
    assert "this chat is in no list" in own


def test_the_first_screen_offers_a_temporary_chat(olive_client):
    page = olive_client.get("/").content.decode()
    assert 'href="/?temporary"' in page
    assert 'name="temporary"' not in page


def test_a_living_conversation_says_what_was_deleted(olive_client, finished):
    turn = finished()
    Conversation.objects.update(purged_before=datetime(2026, 10, 23, 13, tzinfo=UTC))
    page = olive_client.get(turn.conversation.get_absolute_url()).content.decode()
    assert "Messages before 23 October 2026, 13:00 UTC were deleted, as the rules" in page


# --- the administration -----------------------------------------------------------------------


def change_url() -> str:
    return reverse("admin:conversations_retentionpolicy_change", args=[1])


def test_a_change_is_previewed_before_it_is_saved(ravi_client, standard, finished):
    finished().conversation.messages.update(created_at=F("created_at") - timedelta(days=8))
    wanted = {"amount": "7", "unit": "24", "note": "Less is more."}
    page = ravi_client.post(change_url(), wanted).content.decode()
    assert "2 messages would be deleted sooner" in page
    assert standard.versions.count() == 1
    # Whoever changes the figure behind the preview sees another one first.
    ravi_client.post(change_url(), {**wanted, "amount": "3", "previewed": "168"})
    assert standard.versions.count() == 1
    response = ravi_client.post(change_url(), {**wanted, "previewed": "168"})
    assert response.status_code == 302
    made = standard.versions.get(number=2)
    assert (made.hours, made.note) == (168, "Less is more.")
    listed = ravi_client.get(response["Location"]).content.decode()
    assert "7 days" in listed


@pytest.mark.parametrize("amount", ["0", "-3", "99999999999999999999", "many", ""])
def test_a_period_that_is_none_is_refused_on_the_page(ravi_client, standard, amount):
    wanted = {"amount": amount, "unit": "24", "note": "Why not.", "previewed": "0"}
    response = ravi_client.post(change_url(), wanted)
    assert response.status_code == 200
    assert 'id="amount-error"' in response.content.decode()
    assert standard.versions.count() == 1


def test_a_role_gets_a_policy(ravi_client):
    url = reverse("admin:conversations_retentionpolicy_add")
    wanted = {"role": "operator", "amount": "12", "unit": "1", "note": "They see much."}
    assert ravi_client.post(url, {**wanted, "amount": "0"}).status_code == 200
    assert ravi_client.post(url, wanted).status_code == 302
    policy = RetentionPolicy.objects.get(role="operator")
    assert (policy.pk, policy.versions.get().hours) == (3, 12)
    assert '<option value="operator">' not in ravi_client.get(url).content.decode()


def test_only_those_who_manage_retention_change_it(ada_client, olive_client, make_user, client):
    for each in (ada_client, olive_client):
        assert each.get(change_url()).status_code in {302, 403}
    client.force_login(make_user("otto", "operator"))
    wanted = {"amount": "7", "unit": "24", "note": "Mine.", "previewed": "168"}
    assert client.post(change_url(), wanted).status_code == 403
    assert client.get(reverse("admin:conversations_retentionpolicy_add")).status_code == 403
    assert RetentionVersion.objects.count() == 2
