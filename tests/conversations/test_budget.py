"""What a turn may cost: held before, settled after, and never more than the limit."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import close_old_connections, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.access import Denied
from accounts.models import User
from audit.models import Entry
from chatbot.kept import KEPT_SECONDS
from conversations.models import BudgetPlan, BudgetWindow, Conversation, Message, Reservation
from conversations.turn import Refusal
from conversations.turn.budget import (
    Granted,
    claim_abandoned,
    exchange,
    reserve,
    settle,
    standing,
    warning_for,
)
from conversations.turn.plans import allowance_of, save_plan
from conversations.turn.tokens import estimated_tokens, estimated_tokens_told
from prompts.catalogue import Price
from prompts.provider import Usage

State = Message.State
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


# A dollar for a million tokens in, four for a million out.
PRICE = Price(Decimal(1), Decimal("0.25"), Decimal(4))
FREE = Price(Decimal(0), Decimal(0), Decimal(0))


def plan(**limits: object) -> BudgetPlan:
    """Set what everybody may spend; what is not named is not limited."""
    unlimited = {"session_usd": None, "day_usd": None, "month_usd": None}
    made, _ = BudgetPlan.objects.update_or_create(role=None, defaults=unlimited | limits)
    return made


def new_reply(owner: User, conversation: Conversation | None = None) -> Message:
    conversation = conversation or Conversation.objects.create(owner=owner)
    return Message.objects.create(
        conversation=conversation, role="assistant", state=State.STREAMING, model="m-1"
    )


def hold(reply: Message, user: User, *, now: datetime = NOW, **given: object) -> Granted:
    wish = {"offer_price": PRICE, "tokens_in_estimate": 1000, "max_output_tokens": 1000}
    with transaction.atomic():
        return reserve(reply, user=user, now=now, **wish | given)


def end(reply: Message, usage: Usage | None, *, fault: str = "", content: str = "") -> None:
    """Close the reply as its runner would, without settling it."""
    reply.state, reply.fault, reply.content = State.COMPLETED, fault, content
    reply.save()


def windows() -> dict[str, tuple[Decimal, Decimal]]:
    return {w.scope: (w.spent_usd, w.reserved_usd) for w in BudgetWindow.objects.all()}


# --- reserving ---------------------------------------------------------------------------------


def test_the_worst_case_is_held_in_all_three_windows(olive):
    plan(session_usd="0.05")
    granted = hold(new_reply(olive), olive)
    assert granted == Granted(1000, Decimal("0.005"))
    assert windows() == dict.fromkeys(["day", "month", "session"], (0, Decimal("0.005")))


def test_a_reply_gets_fewer_tokens_when_the_worst_case_does_not_fit(olive):
    plan(day_usd="0.003")
    granted = hold(new_reply(olive), olive)
    assert granted == Granted(500, Decimal("0.003"))


def test_below_a_useful_minimum_it_is_refused_and_says_when_it_renews(olive):
    plan(day_usd="0.0027")
    assert hold(new_reply(olive), olive).max_tokens == 425
    BudgetWindow.objects.filter(scope="day").update(
        spent_usd=Decimal("0.00090001"), reserved_usd=Decimal(0)
    )
    with pytest.raises(Refusal) as refusal:
        hold(new_reply(olive), olive)
    assert refusal.value.code == "budget_spent"
    assert refusal.value.retry_after == 12 * 3600
    assert "23 November 2026 at 00:00 UTC" in refusal.value.sentence
    assert "today is used up" in refusal.value.headline


def test_exactly_the_useful_minimum_is_granted(olive):
    plan(day_usd="0.0018")
    assert hold(new_reply(olive), olive) == Granted(200, Decimal("0.0018"))


def test_a_model_of_short_replies_needs_no_more_than_its_own_maximum(olive):
    plan(day_usd="0.0014")
    assert hold(new_reply(olive), olive, max_output_tokens=100).max_tokens == 100


def test_the_window_that_renews_last_says_when(olive):
    plan(day_usd="0.01", month_usd="0.01")
    hold(new_reply(olive), olive, max_output_tokens=2250)
    BudgetWindow.objects.update(spent_usd=Decimal("0.01"), reserved_usd=0)
    with pytest.raises(Refusal, match="budget_spent") as refusal:
        hold(new_reply(olive), olive)
    assert "month" in refusal.value.headline
    assert "1 December 2026" in refusal.value.sentence


def test_a_turn_that_fits_into_no_window_is_not_told_to_wait(olive):
    plan(session_usd="0.05")
    with pytest.raises(Refusal) as refusal:
        hold(new_reply(olive), olive, tokens_in_estimate=60_000)
    assert refusal.value.retry_after is None
    assert "new conversation" in refusal.value.sentence
    assert "$0.05" in refusal.value.sentence


def test_what_other_replies_hold_becomes_free_when_they_end(olive):
    plan(day_usd="0.006")
    first = new_reply(olive)
    hold(first, olive)
    with pytest.raises(Refusal) as refusal:
        hold(new_reply(olive), olive)
    assert "Other replies" in refusal.value.headline
    settle(first, Usage(100, 0, 10), now=NOW)
    assert hold(new_reply(olive), olive).max_tokens == 1000


def test_a_window_that_is_spent_is_told_before_one_that_others_hold(olive):
    plan(day_usd="0.01", month_usd="0.01")
    hold(new_reply(olive), olive)
    BudgetWindow.objects.filter(scope="day").update(spent_usd=Decimal("0.01"), reserved_usd=0)
    BudgetWindow.objects.filter(scope="month").update(reserved_usd=Decimal("0.01"))
    with pytest.raises(Refusal) as refusal:
        hold(new_reply(olive), olive)
    assert refusal.value.headline == "Your budget for today is used up."


def test_an_unknown_price_is_refused_and_never_zero(olive):
    plan()
    with pytest.raises(Refusal, match="price_unknown") as refusal:
        hold(new_reply(olive), olive, offer_price=None)
    assert "administrator" in refusal.value.sentence
    assert not BudgetWindow.objects.exists()


def test_a_free_model_answers_when_everything_is_spent(olive):
    plan(session_usd="0", day_usd="0", month_usd="0")
    assert hold(new_reply(olive), olive, offer_price=FREE) == Granted(1000, Decimal(0))


def test_a_dearer_fallback_is_covered_and_the_offered_price_is_pinned(olive):
    plan(day_usd="1")
    reply = new_reply(olive)
    dear = Price(Decimal(2), Decimal(2), Decimal(8))
    assert hold(reply, olive, fallback_prices=[dear]).amount == Decimal("0.010")
    assert reply.reservation.output_price == 4
    assert settle(reply, Usage(1000, 0, 1000), now=NOW, price=dear) == Decimal("0.010")


def test_a_run_that_was_closed_without_settling_is_settled_when_it_goes_on(olive):
    plan()
    reply = new_reply(olive)
    hold(reply, olive, tokens_in_estimate=100)
    end(reply, None, content="so far")
    granted = hold(reply, olive, tokens_in_estimate=200)
    assert reply.usage_estimated
    assert windows()["day"] == (reply.cost_usd, granted.amount)
    settle(reply, Usage(200, 0, 10), now=NOW)
    assert windows()["day"] == (reply.cost_usd, Decimal(0))


# --- settling ----------------------------------------------------------------------------------


def test_real_usage_is_charged_and_the_reservation_released(olive):
    plan(day_usd="1")
    reply = new_reply(olive)
    hold(reply, olive)
    cost = settle(reply, Usage(tokens_in=900, tokens_cached=400, tokens_out=300), now=NOW)
    assert cost == Decimal("0.0018")  # 500 at 1, 400 at 0.25, 300 at 4
    assert set(windows().values()) == {(cost, Decimal(0))}
    reply.refresh_from_db()
    assert (reply.cost_usd, reply.usage_estimated) == (cost, False)


def test_settling_twice_charges_once(olive):
    plan()
    reply = new_reply(olive)
    hold(reply, olive)
    assert settle(reply, Usage(10, 0, 10), now=NOW) is not None
    before = windows()
    assert settle(reply, Usage(10, 0, 10), now=NOW) is None
    assert windows() == before


def test_a_reply_without_a_reservation_is_left_alone(olive):
    reply = new_reply(olive)
    assert settle(reply, Usage(1, 0, 1), now=NOW) is None
    assert reply.cost_usd is None


def test_a_stopped_reply_is_charged_by_estimate_and_marked(olive):
    plan()
    reply = new_reply(olive)
    hold(reply, olive, tokens_in_estimate=100)
    end(reply, None, content="six words in lower case here")
    cost = settle(reply, None, now=NOW)
    reply.refresh_from_db()
    assert (reply.tokens_in, reply.tokens_out) == (100, 10)
    assert reply.usage_estimated
    assert reply.cost_usd == cost == Decimal("0.000140")


def test_an_estimate_takes_no_more_than_was_held(olive):
    plan()
    reply = new_reply(olive)
    granted = hold(reply, olive, max_output_tokens=200)
    end(reply, None, content="x" * 100_000)
    assert settle(reply, None, now=NOW) == granted.amount


def test_a_request_that_the_provider_turned_down_costs_nothing(olive):
    plan()
    reply = new_reply(olive)
    hold(reply, olive)
    end(reply, None, fault="unreachable")
    assert settle(reply, None, now=NOW) == 0
    assert not reply.usage_estimated
    assert set(windows().values()) == {(Decimal(0), Decimal(0))}


@pytest.mark.parametrize("usage", [Usage(-1, 0, 5), Usage(5, 9, 5), Usage(10**15, 0, 10**15)])
def test_usage_that_can_not_be_is_replaced_by_an_estimate(olive, usage):
    plan()
    reply = new_reply(olive)
    granted = hold(reply, olive)
    end(reply, usage, content="Hello.")
    assert 0 < settle(reply, usage, now=NOW) <= granted.amount
    assert reply.usage_estimated


def test_a_continued_reply_reserves_anew_and_adds_up(olive):
    plan()
    reply = new_reply(olive)
    hold(reply, olive, tokens_in_estimate=100)
    end(reply, None, content="a first half")
    first = settle(reply, None, now=NOW)
    hold(reply, olive, tokens_in_estimate=100)
    end(reply, None, content="a first half and a second one")
    second = settle(reply, None, now=NOW)
    reply.refresh_from_db()
    assert reply.cost_usd == first + second
    assert reply.tokens_in == 200
    assert reply.tokens_out == estimated_tokens("a first half and a second one")
    assert windows()["session"] == (first + second, Decimal(0))
    assert Reservation.objects.count() == 1


def test_replies_of_dead_processes_are_settled_together(olive, sam):
    plan()
    replies = [new_reply(olive), new_reply(sam), new_reply(olive)]
    for reply in replies:
        hold(reply, reply.conversation.owner)
        end(reply, None, content="so far")
    exchange(claim_abandoned(replies, now=NOW))
    assert not BudgetWindow.objects.exclude(reserved_usd=0).exists()
    assert all(reply.usage_estimated and reply.cost_usd > 0 for reply in replies)


def test_a_reply_that_is_removed_gives_back_what_it_held(olive):
    plan()
    reply, settled = new_reply(olive), new_reply(olive)
    hold(reply, olive)
    hold(settled, olive)
    settle(settled, Usage(1000, 0, 0), now=NOW)
    Conversation.objects.filter(pk=reply.conversation_id).delete()
    Conversation.objects.filter(pk=settled.conversation_id).delete()
    assert windows()["day"] == (Decimal("0.001"), Decimal(0))


# --- windows -----------------------------------------------------------------------------------


def test_a_session_begins_with_its_first_turn_and_renews_so_that_no_conversation_dies(olive):
    plan(session_usd="0.005", session_hours=24)
    reply = new_reply(olive)
    hold(reply, olive)
    end(reply, None)
    settle(reply, Usage(1000, 0, 1000), now=NOW)
    late, following = NOW + timedelta(hours=23, minutes=59), new_reply(olive, reply.conversation)
    with pytest.raises(Refusal) as refusal:
        hold(following, olive, now=late)
    assert refusal.value.retry_after == 60
    renewed = NOW + timedelta(hours=24)
    assert hold(following, olive, now=renewed).max_tokens == 1000
    assert BudgetWindow.objects.filter(scope="session").count() == 2


def test_another_conversation_has_a_session_of_its_own(olive):
    plan(session_usd="0.005")
    hold(new_reply(olive), olive)
    assert hold(new_reply(olive), olive).max_tokens == 1000


@pytest.mark.parametrize(
    ("field", "last", "next_one"),
    [
        ("day_usd", datetime(2026, 11, 22, 23, 59, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC)),
        ("month_usd", datetime(2026, 12, 31, 23, 59, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_days_and_months_renew_at_midnight_utc(olive, field, last, next_one):
    plan(**{field: "0.005"})
    hold(new_reply(olive), olive, now=last)
    with pytest.raises(Refusal):
        hold(new_reply(olive), olive, now=last)
    assert hold(new_reply(olive), olive, now=next_one).max_tokens == 1000


def test_a_turn_over_midnight_is_charged_to_the_day_it_began(olive):
    plan(day_usd="1")
    reply = new_reply(olive)
    hold(reply, olive)
    settle(reply, Usage(1000, 0, 0), now=NOW + timedelta(days=1))
    (day,) = BudgetWindow.objects.filter(scope="day")
    assert (day.starts_at.day, day.spent_usd) == (22, Decimal("0.001"))


# --- plans -------------------------------------------------------------------------------------


def test_the_most_generous_of_a_persons_roles_applies(make_user):
    plan(session_usd="0.05", day_usd="1")
    BudgetPlan.objects.create(role_id="operator", session_usd="0.5", session_hours=12, day_usd="2")
    BudgetPlan.objects.create(role_id="prompt_editor", session_usd="0.01", day_usd=None)
    both = allowance_of(make_user("pat", "operator", "prompt_editor"))
    assert (both.session_usd, both.session_hours, both.day_usd) == (Decimal("0.5"), 12, None)
    strict = allowance_of(make_user("kim", "prompt_editor"))
    assert (strict.session_usd, strict.day_usd) == (Decimal("0.01"), None)
    mixed = allowance_of(make_user("lee", "prompt_editor", "member"))
    assert mixed.session_usd == Decimal("0.05")


def test_without_any_plan_five_cents_for_a_day_hold(olive):
    BudgetPlan.objects.all().delete()
    allowance = allowance_of(olive)
    assert (allowance.session_usd, allowance.session_hours) == (Decimal("0.05"), 24)
    assert allowance.day_usd is allowance.month_usd is None


def test_a_turn_costs_no_query_for_its_plan(olive, django_assert_num_queries):
    general = plan(session_usd="0.05")
    olive = User.objects.with_roles().get(pk=olive.pk)
    with django_assert_num_queries(1):
        allowance_of(olive)
    with django_assert_num_queries(0):
        assert allowance_of(olive).session_usd == Decimal("0.05")
    general.session_usd = Decimal("0.10")
    general.save()
    assert allowance_of(olive).session_usd == Decimal("0.10")


def test_a_plan_changed_by_another_process_holds_within_seconds(olive, monkeypatch):
    plan(session_usd="0.05")
    allowance_of(olive)
    BudgetPlan.objects.update(session_usd="0.10")  # announced to nobody here
    assert allowance_of(olive).session_usd == Decimal("0.05")
    later = time.monotonic() + KEPT_SECONDS + 0.1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert allowance_of(olive).session_usd == Decimal("0.10")


def test_only_who_manages_limits_changes_a_plan(olive, ada):
    general = plan(session_usd="0.05")
    general.session_usd = Decimal("0.10")
    with pytest.raises(Denied):
        save_plan(general, by=olive)
    save_plan(general, by=ada)
    entry = Entry.objects.latest("id")
    assert (entry.event, entry.actor_id) == ("budget.changed", str(ada.pk))
    assert entry.payload == {"role": "", "changes": {"session_usd": ["0.0500", "0.1000"]}}


def test_an_administrator_edits_plans_in_the_administration(ada_client, olive_client):
    general = plan(session_usd="0.05")
    address = "/admin/conversations/budgetplan/"
    figures = {"session_usd": "0.2", "session_hours": "24", "day_usd": "", "month_usd": "5"}
    assert ada_client.post(f"{address}{general.pk}/change/", figures).status_code == 302
    assert ada_client.post(f"{address}add/", {"role": "operator", **figures}).status_code == 302
    again = ada_client.post(f"{address}add/", {"role": "", **figures})
    assert "There is a plan for that already." in again.content.decode()
    assert ada_client.post(f"{address}{general.pk}/delete/", {"post": "yes"}).status_code == 403
    special = BudgetPlan.objects.get(role="operator")
    assert ada_client.post(f"{address}{special.pk}/delete/", {"post": "yes"}).status_code == 302
    assert Entry.objects.filter(event="budget.changed").count() == 3
    assert "Everybody else" in ada_client.get(address).content.decode()
    assert ada_client.get("/admin/conversations/budgetwindow/").status_code == 200
    assert olive_client.get(address, follow=True).status_code == 403


# --- what people are told ----------------------------------------------------------------------


def test_the_page_learns_how_the_windows_stand(olive):
    plan(session_usd="0.05", month_usd="2")
    reply = new_reply(olive)
    hold(reply, olive)
    told = {one.window: one for one in standing(olive, reply.conversation, now=NOW)}
    assert list(told) == ["session", "day", "month"]
    assert told["session"].reserved == Decimal("0.005")
    assert told["session"].renews_at == NOW + timedelta(hours=24)
    assert told["day"].limit is None
    assert told["month"].renews_at == datetime(2026, 12, 1, tzinfo=UTC)


def test_near_the_limit_a_sentence_warns(olive):
    plan(session_usd="0.01")
    reply = new_reply(olive)
    assert warning_for(olive, reply.conversation, now=NOW) == ""
    hold(reply, olive)
    settle(reply, Usage(0, 0, 1975), now=NOW)
    assert warning_for(olive, reply.conversation, now=NOW) == ""
    BudgetWindow.objects.update(spent_usd=Decimal("0.0087"))
    warned = warning_for(olive, reply.conversation, now=NOW)
    assert warned.startswith("This conversation's budget of $0.01 is 87 % used.")
    assert "23 November 2026 at 12:00 UTC" in warned
    BudgetWindow.objects.update(spent_usd=Decimal("0.01"))
    assert "is used up" in warning_for(olive, reply.conversation, now=NOW)


# --- price of it -------------------------------------------------------------------------------


def test_a_turn_costs_few_queries(olive, django_assert_num_queries):
    plan(session_usd="0.05")
    reply = new_reply(olive)
    olive = User.objects.with_roles().get(pk=olive.pk)
    wish = {"offer_price": PRICE, "tokens_in_estimate": 100, "max_output_tokens": 300}
    with transaction.atomic():
        allowance_of(olive)
        with django_assert_num_queries(3):
            reserve(reply, user=olive, now=NOW, **wish)
        with django_assert_num_queries(3):
            settle(reply, Usage(100, 0, 50), now=NOW)
        with django_assert_num_queries(2):
            reserve(reply, user=olive, now=NOW, **wish)
        with django_assert_num_queries(1):
            warning_for(olive, reply.conversation, now=NOW)


# --- whatever the order ------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),  # whose turn it is: the number of a conversation
        st.integers(1, 5000),  # tokens told
        st.integers(1, 5000),  # most tokens of the reply
        st.floats(0, 1),  # the share of them that is used
        st.sampled_from(["usage", "none", "twice"]),
    ),
    max_size=14,
)


@given(steps=STEPS, limit=st.decimals("0.001", "0.05", places=4))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_the_order_no_limit_is_exceeded_and_nothing_stays_reserved(olive, steps, limit):
    with transaction.atomic():
        plan(session_usd=limit, day_usd=limit * 2, month_usd=limit * 3)
        open_replies: dict[int, tuple[Message, int, int]] = {}
        for number, told, most, share, how in steps:
            if number in open_replies:
                _settled(*open_replies.pop(number), share, how)
            else:
                reply = new_reply(olive)
                try:
                    granted = hold(reply, olive, tokens_in_estimate=told, max_output_tokens=most)
                except Refusal:
                    continue
                assert 1 <= granted.max_tokens <= most
                open_replies[number] = (reply, told, granted.max_tokens)
            _within(limit)
        for reply, told, most in open_replies.values():
            _settled(reply, told, most, 1.0, "usage")
        _within(limit)
        assert not BudgetWindow.objects.exclude(reserved_usd=0).exists()
        charged = sum(m.cost_usd for m in Message.objects.exclude(cost_usd=None))
        day = BudgetWindow.objects.filter(scope="day").first()
        assert charged == (day.spent_usd if day else 0)
        transaction.set_rollback(True)


def _settled(reply: Message, told: int, most: int, share: float, how: str) -> None:
    used = Usage(int(told * share), int(told * share * share), int(most * share))
    settle(reply, None if how == "none" else used, now=NOW)
    if how == "twice":
        settle(reply, used, now=NOW)


def _within(limit: Decimal) -> None:
    limits = {"session": limit, "day": limit * 2, "month": limit * 3}
    for scope, (spent, reserved) in windows().items():
        assert spent >= 0
        assert reserved >= 0
        assert spent + reserved <= limits[scope]


# --- many at once ------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_fifty_turns_at_once_against_a_budget_for_twenty(olive):
    # Each costs half a cent at the worst; a day's budget has room for twenty of them.
    plan(day_usd="0.1", session_usd="0.05")
    replies = [new_reply(olive) for _ in range(50)]
    granted = [outcome for outcome in _at_once(_reserved, replies) if outcome]
    assert len(granted) == 20
    spent_and_held = windows()["day"]
    assert spent_and_held == (0, Decimal("0.1"))
    costs = [cost for cost in _at_once(_charged, replies) if cost is not None]
    assert len(costs) == 20
    assert windows()["day"] == (sum(costs), Decimal(0))
    assert sum(costs) <= Decimal("0.1")


@pytest.mark.django_db(transaction=True)
def test_a_turn_that_waited_for_another_sees_what_that_one_spent(olive):
    # The session is read in the statement that waits for the day: it must not be read from before.
    plan(session_usd="0.012")
    conversation = Conversation.objects.create(owner=olive)
    first, second = new_reply(olive, conversation), None
    hold(first, olive, max_output_tokens=2000)  # 0.009
    with ThreadPoolExecutor(1) as thread:
        with transaction.atomic():
            settle(first, Usage(1000, 0, 2000), now=NOW)
            first.state = State.COMPLETED
            first.save()
            second = Message(conversation=conversation, role="assistant", model="m-1")
            waiting = thread.submit(_held_beside, second, olive)
            _wait_until_somebody_waits_for_a_lock()
        granted = waiting.result(20)
    assert granted == Granted(500, Decimal("0.003"))
    assert windows()["session"] == (Decimal("0.009"), Decimal("0.003"))


def _held_beside(reply: Message, user: User) -> Granted:
    try:
        with transaction.atomic():
            reply.state = State.STOPPED
            reply.save()
            return hold(reply, user)
    finally:
        connection.close()


def _wait_until_somebody_waits_for_a_lock() -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
        time.sleep(0.02)
    raise AssertionError("Nobody waits.")


@pytest.mark.django_db(transaction=True)
def test_opening_closing_and_clearing_up_at_once_wait_for_each_other(olive, sam):
    plan()
    replies = [new_reply(user) for _ in range(10) for user in (olive, sam)]
    for reply in replies:
        hold(reply, reply.conversation.owner)
    waiting = [new_reply(user) for _ in range(5) for user in (olive, sam)]
    halves: list[Callable[[], object]] = [
        lambda: _abandoned(replies[:8]),
        lambda: _abandoned(replies[15:7:-1]),
        *[lambda reply=reply: _charged(reply) for reply in replies[16:]],
        *[lambda reply=reply: _reserved(reply) for reply in waiting],
    ]
    _at_once(lambda work: work(), halves)
    held = Reservation.objects.filter(settled_at=None)
    assert set(held.values_list("pk", flat=True)) == {reply.pk for reply in waiting}
    for day in BudgetWindow.objects.filter(scope="day"):
        assert day.reserved_usd == 5 * Decimal("0.005")


def _at_once(work: Callable[..., object], subjects: list) -> list:
    def alone(subject: object) -> object:
        try:
            return work(subject)
        finally:
            connection.close()
            close_old_connections()

    with ThreadPoolExecutor(12) as threads:
        return list(threads.map(alone, subjects))


def _reserved(reply: Message) -> Granted | None:
    try:
        with transaction.atomic():
            Conversation.objects.select_for_update().get(pk=reply.conversation_id)
            return hold(reply, User.objects.with_roles().get(pk=reply.conversation.owner_id))
    except Refusal:
        return None


def _charged(reply: Message) -> Decimal | None:
    with transaction.atomic():
        Message.objects.filter(pk=reply.pk).update(state=State.COMPLETED)
        return settle(reply, Usage(900, 0, 700), now=NOW)


def _abandoned(replies: list[Message]) -> None:
    with transaction.atomic():
        list(Message.objects.select_for_update().filter(pk__in=[r.pk for r in replies]))
        exchange(claim_abandoned(replies, now=NOW))


# --- tokens ------------------------------------------------------------------------------------


@given(st.text())
def test_tokens_are_at_most_bytes_and_never_none(text):
    size = len(text.encode(errors="surrogatepass"))
    assert 0 <= estimated_tokens(text) <= size
    assert (estimated_tokens(text) == 0) == (size == 0)


@given(st.text(), st.text())
def test_two_texts_have_no_fewer_tokens_apart_than_together(one, other):
    assert estimated_tokens(one + other) <= estimated_tokens(one) + estimated_tokens(other)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("words in lower case", 7),
        ("3.1415926", 9),
        ("AKIA-7F3Q", 9),
        ("\u65e5\u672c\u8a9e", 5),
        ("\N{GRINNING FACE}", 2),
        ("\ud800", 2),
    ],
)
def test_words_have_fewer_tokens_for_their_bytes_than_figures_and_keys(text, tokens):
    assert estimated_tokens(text) == tokens


def test_each_message_counts_its_marks():
    told = [{"role": "system", "content": ""}, {"role": "user", "content": "abc"}]
    assert estimated_tokens_told(told) == 2 * 8 + 1
