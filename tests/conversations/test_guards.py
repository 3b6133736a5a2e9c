"""What a turn may cost and who answers it, from the first transaction to the page."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from audit.models import Entry
from conversations.models import (
    BudgetPlan,
    BudgetWindow,
    Conversation,
    Message,
    PolicyRule,
    Reservation,
)
from conversations.turn import (
    Progress,
    Refusal,
    TurnEnded,
    close_abandoned,
    close_reply,
    continue_turn,
)
from conversations.turn.budget import FORGOTTEN_AFTER, settle_forgotten
from conversations.turn.closing import settle_abandoned_titles
from conversations.turn.policy import Policy, current_policy, kept_policy
from conversations.turn.rules import save_rule
from conversations.turn.titles import _call_for_title, _store_and_settle
from prompts.models import LanguageModel
from prompts.offering import define_model
from prompts.provider import Usage

pytestmark = pytest.mark.django_db
State = Message.State
USED = Usage(tokens_in=1_000, tokens_cached=0, tokens_out=2_000)
# The price of the tests' model: 0.15 and 0.60 USD per million tokens.
COST = Decimal("0.00135")


def reserved() -> Decimal:
    return sum((window.reserved_usd for window in BudgetWindow.objects.all()), Decimal(0))


def test_a_turn_reserves_when_it_begins_and_settles_when_it_ends(begin):
    turn = begin()
    held = Reservation.objects.get(reply=turn.reply)
    assert held.amount_usd > 0
    assert reserved() == 3 * held.amount_usd
    close_reply(turn.reply, Progress("Hi.", "", 1), TurnEnded(State.COMPLETED, usage=USED))
    assert reserved() == 0
    stored = Message.objects.get(pk=turn.reply.pk)
    assert (stored.cost_usd, stored.usage_estimated) == (COST, False)
    assert {window.spent_usd for window in BudgetWindow.objects.all()} == {COST}


def test_a_reply_without_usage_is_charged_by_estimate_and_says_so(begin, olive_client):
    turn = begin()
    close_reply(turn.reply, Progress("word " * 100, "", 1), TurnEnded(State.STOPPED))
    stored = Message.objects.get(pk=turn.reply.pk)
    assert stored.usage_estimated
    assert stored.cost_usd > 0
    assert ", estimated" in olive_client.get(turn.conversation.get_absolute_url()).content.decode()


def test_a_reply_whose_process_died_keeps_no_reservation(begin, runner_row):
    begin()
    runner_row.beat_at = datetime.now(UTC) - timedelta(minutes=1)
    runner_row.save()
    assert close_abandoned()
    assert reserved() == 0


def test_where_the_budget_is_spent_nothing_is_stored(begin):
    BudgetPlan.objects.update_or_create(role=None, defaults={"session_usd": Decimal("0.0001")})
    with pytest.raises(Refusal) as refused:
        begin()
    assert refused.value.code == "budget_spent"
    assert not Conversation.objects.exists()
    assert reserved() == 0


def test_the_end_of_a_reply_warns_when_the_budget_is_nearly_spent(begin, olive_client):
    turn = begin()
    most_of_it = Usage(tokens_in=0, tokens_cached=0, tokens_out=75_000)  # 0.045 of 0.05
    closed = close_reply(
        turn.reply, Progress("x", "", 1), TurnEnded(State.COMPLETED, usage=most_of_it)
    )
    assert "90 % used" in closed.warning
    assert "90 % used" in olive_client.get(turn.conversation.get_absolute_url()).content.decode()


def test_a_model_without_a_price_is_not_asked(begin, settings):
    settings.OPENAI_MODEL = "nobody-knows-this-one"
    with pytest.raises(Refusal) as refused:
        begin()
    assert refused.value.code == "price_unknown"


def test_a_fallback_without_a_price_is_left_out(begin, ada):
    unpriced = LanguageModel(
        slug="spare",
        label="Spare",
        remote_name="nobody-knows-this-one",
        context_window=8_000,
        max_output_tokens=500,
    )
    define_model(unpriced, roles=[], by=ada)
    standard = LanguageModel.objects.get(slug="default")
    standard.fallback = unpriced
    define_model(standard, roles=[], by=ada)
    assert begin().call.offer.fallbacks == ()


def test_the_page_says_who_answered_in_whose_place_and_what_was_left_out(begin, olive_client):
    turn = begin()
    turn.reply.turns_left_out = 3
    turn.reply.save()
    spare = replace(turn.call.offer, remote_name="spare-1")
    ended = TurnEnded(State.COMPLETED, model="spare-1", offer=spare, usage=USED)
    close_reply(turn.reply, Progress("Hi.", "", 1), ended)
    page = olive_client.get(turn.conversation.get_absolute_url()).content.decode()
    assert "gpt-4o-mini did not answer" in page
    assert "oldest 3 turns left out" in page
    assert "$0.0014" in page


def test_a_title_counts_in_the_budget_and_is_settled_at_last_whatever_happens(begin, runner_row):
    turn = begin()
    close_reply(turn.reply, Progress("Hi.", "", 1), TurnEnded(State.COMPLETED, usage=USED))
    call = _call_for_title(turn, runner_row.pk)
    assert call.max_tokens <= 120
    assert reserved() > 0
    settle_forgotten(now=datetime.now(UTC))
    assert reserved() > 0, "it may still be asked for"
    settle_forgotten(now=datetime.now(UTC) + FORGOTTEN_AFTER)
    assert reserved() == 0
    assert Message.objects.get(pk=turn.reply.pk).cost_usd == COST
    assert all(window.spent_usd > COST for window in BudgetWindow.objects.all())


def test_a_title_whose_process_died_is_settled_when_that_is_noticed(begin, runner_row):
    turn = begin()
    close_reply(turn.reply, Progress("Hi.", "", 1), TurnEnded(State.COMPLETED, usage=USED))
    assert _call_for_title(turn, runner_row.pk)
    settle_abandoned_titles()
    assert reserved() > 0, "its process lives"
    runner_row.beat_at = datetime.now(UTC) - timedelta(minutes=1)
    runner_row.save()
    settle_abandoned_titles()
    assert reserved() == 0
    stored = Message.objects.get(pk=turn.reply.pk)
    assert (stored.cost_usd, stored.runner) == (COST, None)
    spent = {window.spent_usd for window in BudgetWindow.objects.all()}
    # It was only paused and comes back: settled is settled.
    assert _store_and_settle(turn, runner_row.pk, "A title", USED).title == "A title"
    assert {window.spent_usd for window in BudgetWindow.objects.all()} == spent


def test_a_title_does_not_settle_what_is_held_for_the_reply_that_goes_on(begin, olive, runner_row):
    turn = begin()
    at_its_limit = TurnEnded(State.COMPLETED, finish_reason="length", usage=USED)
    close_reply(turn.reply, Progress("Hi.", "", 1), at_its_limit)
    assert _call_for_title(turn, runner_row.pk)
    where = (turn.conversation.pk, turn.reply.pk)
    goes_on = continue_turn(*where, by=olive, runner_id=runner_row.pk)
    _store_and_settle(turn, runner_row.pk, "A title", USED)
    assert Reservation.objects.get(reply=turn.reply).settled_at is None
    close_reply(goes_on.reply, Progress("Hi. Ho.", "", 1), TurnEnded(State.COMPLETED, usage=USED))
    assert reserved() == 0
    assert Message.objects.get(pk=turn.reply.pk).cost_usd == 2 * COST


# --- rules and personal data -------------------------------------------------------------------


def test_personal_data_goes_to_the_provider_as_placeholders_and_stays_as_written_here(begin):
    turn = begin("I am Olive, olive@parley.example, and 4111 1111 1111 1111 is my card.")
    told = turn.call.messages[-1]["content"]
    assert "olive@" not in told
    assert "4111" not in told
    assert "olive@parley.example" in Message.objects.get(pk=turn.question.pk).content


def test_the_same_value_keeps_its_placeholder_in_the_next_turn(begin, finished):
    first = finished("Mail olive@parley.example", reply="I wrote to olive@parley.example.")
    first.conversation.refresh_from_db()
    second = begin("And olive@parley.example again", first.conversation)
    told = [message["content"] for message in second.call.messages[1:]]
    placeholder = told[0].removeprefix("Mail ")
    assert placeholder.startswith("[EMAIL-")
    assert all(placeholder in text and "@" not in text for text in told)


def test_where_personal_data_is_blocked_the_message_is_refused_by_kind(begin, settings):
    settings.PII_MODE = "block"
    with pytest.raises(Refusal) as refused:
        begin("Write to olive@parley.example")
    assert refused.value.code == "personal_data"
    assert "email" in refused.value.sentence
    assert "olive" not in refused.value.sentence
    assert not Conversation.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_rule_refuses_a_message_and_the_log_names_the_rule_alone(begin, rule):
    made = rule(action="block", words="tulip", message="Ask the board.")
    with pytest.raises(Refusal) as refused:
        begin("About the tulip")
    assert "Ask the board." in refused.value.sentence
    assert not Conversation.objects.exists()
    entry = Entry.objects.get(event="policy.hit")
    assert (entry.outcome, entry.payload["rule"]) == ("denied", str(made.pk))
    assert "tulip" not in str(entry.payload)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [("Ask the board.", "Ask the board."), ("", "The rule “Plans” of this organisation")],
)
def test_the_page_says_in_its_own_words_which_rule_ended_a_reply(
    begin, rule, ada, olive_client, message, sentence
):
    made = rule(direction="output", action="block", words="tulip", message=message)
    turn, applied = begin(), current_policy().rules[0]
    made.message = "Another text, which was not in force."
    save_rule(made, by=ada)
    ended = TurnEnded(State.REFUSED, fault="policy", refused_by=applied)
    close_reply(turn.reply, Progress("Plant a", "", 1), ended)
    page = olive_client.get(turn.conversation.get_absolute_url()).content.decode()
    assert sentence in page
    assert "which was not in force" not in page


def test_what_a_rule_masks_is_masked_for_the_provider_only(begin, rule):
    rule(action="mask", words="tulip")
    turn = begin("About the tulip")
    assert turn.call.messages[-1]["content"] == "About the \u25ae\u25ae\u25ae"
    assert turn.question.content == "About the tulip"


def test_a_message_that_passed_is_screened_once_and_again_by_a_younger_rule(
    finished, begin, rule, monkeypatch
):
    rule(action="mask", words="tulip")
    conversation = finished("About the rose").conversation
    screened = []
    screen = Policy.screen_input
    monkeypatch.setattr(
        Policy, "screen_input", lambda self, text: screened.append(text) or screen(self, text)
    )
    second = finished("And the tulip", conversation=conversation)
    assert "About the rose" not in screened
    rule(action="mask", words="rose")
    asked = begin("So?", second.conversation).call.messages
    assert [m["content"] for m in asked if m["role"] == "user"] == [
        "About the \u25ae\u25ae\u25ae",
        "And the \u25ae\u25ae\u25ae",
        "So?",
    ]


def test_hidden_characters_are_taken_out_and_the_person_is_told(begin):
    turn = begin("Pay\u202e now\U000e0041")
    assert turn.question.content == "Pay now"
    assert turn.remark.startswith("2 hidden characters were removed")


def test_a_rule_that_can_not_be_applied_lets_nothing_pass_and_the_page_opens(
    begin, rule, olive_client
):
    made = rule(action="flag", kind="pattern", pattern="fine")
    PolicyRule.objects.filter(pk=made.pk).update(pattern="(broken", direction="both")
    kept_policy.forget()
    with pytest.raises(Refusal) as refused:
        begin("Hello?")
    assert refused.value.code == "policy_broken"
    assert olive_client.get("/").status_code == 200
