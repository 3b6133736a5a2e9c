import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import close_old_connections, connection

from accounts.access import Denied
from accounts.models import User
from audit.models import Entry
from conversations.models import Conversation, Message
from conversations.turn import (
    Progress,
    Refusal,
    TurnEnded,
    close_reply,
    continue_turn,
    request_stop,
    start_turn,
)
from conversations.turn.screening import MAX_BYTES

State = Message.State


def test_question_and_empty_reply_are_stored_together(begin):
    turn = begin("What is a ledger?")
    assert turn.question.content == "What is a ledger?"
    assert (turn.reply.state, turn.reply.content) == (State.STREAMING, "")
    assert turn.reply.parent_id == turn.question.pk
    assert str(turn.reply.prompt_version) == "General assistant v1"
    assert (turn.reply.model, turn.reply.arm) == ("gpt-4o-mini", "production")
    assert turn.reply.fence == turn.conversation.fence == 1


def test_the_next_question_hangs_on_the_last_reply(finished, begin):
    first = finished()
    second = begin("And then?", first.conversation)
    assert second.question.parent_id == first.reply.pk
    assert second.reply.fence == 2


def test_a_question_costs_few_statements(finished, begin, olive, django_assert_num_queries):
    conversation = finished().conversation
    olive = User.objects.with_roles().get(pk=olive.pk)
    savepoint = 2  # of the test alone, in whose transaction everything happens
    with django_assert_num_queries(8 + savepoint):
        begin("And then?", conversation, by=olive)
    with django_assert_num_queries(11 + savepoint):
        begin("In a new one", by=olive)


def test_the_same_key_arrives_once(begin):
    first = begin("Once", key="k")
    again = begin("Once", first.conversation, key="k")
    assert (again.is_new, again.question.pk, again.reply.pk) == (
        False,
        first.question.pk,
        first.reply.pk,
    )
    assert Message.objects.count() == 2
    assert Entry.objects.filter(event="turn.started").count() == 1


@pytest.mark.parametrize(("text", "code"), [("", "empty"), (" \n\t ", "empty"), ("\x00", "empty")])
def test_nothing_is_refused_as_empty(begin, text, code):
    with pytest.raises(Refusal) as refusal:
        begin(text)
    assert refusal.value.code == code
    assert not Conversation.objects.exists()


def test_a_megabyte_is_refused_in_a_sentence(begin):
    with pytest.raises(Refusal) as refusal:
        begin("x" * 1_000_000)
    assert refusal.value.code == "too_long"
    assert "64 KB" in refusal.value.sentence


def test_the_longest_question_is_taken(begin):
    assert begin("a" * MAX_BYTES).is_new


def test_a_second_question_waits_for_the_open_reply(begin):
    turn = begin()
    with pytest.raises(Refusal) as refusal:
        begin("Me too", turn.conversation)
    assert refusal.value.code == "reply_open"


def test_somebody_elses_conversation_does_not_exist(begin, sam):
    turn = begin()
    with pytest.raises(Conversation.DoesNotExist):
        begin("Hello", turn.conversation, by=sam)
    with pytest.raises(Conversation.DoesNotExist):
        request_stop(turn.conversation.pk, by=sam)


def test_a_deleted_conversation_takes_no_question(finished, begin):
    turn = finished()
    Conversation.objects.update(lifecycle="deleted")
    with pytest.raises(Conversation.DoesNotExist):
        begin("Still there?", turn.conversation)


def test_who_may_not_chat_is_denied(make_user, begin):
    auditor = make_user("aud", "external_auditor")
    with pytest.raises(Denied):
        begin(by=auditor)


def test_each_act_leaves_an_entry_without_words(begin, olive):
    turn = begin("planted words")
    request_stop(turn.conversation.pk, by=olive)
    events = list(Entry.objects.order_by("id").values_list("event", flat=True))
    assert events[-3:] == ["conversation.created", "turn.started", "turn.stop_requested"]
    assert not any("planted" in str(entry.payload) for entry in Entry.objects.all())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("same_key", [True, False])
def test_two_at_once_begin_one_reply(olive, runner_row, same_key):
    conversation_id = uuid.uuid4()

    def ask(number: int):
        close_old_connections()
        try:
            return start_turn(
                conversation_id,
                by=olive,
                text="Now",
                key="same" if same_key else f"key {number}",
                runner_id=runner_row.pk,
            )
        except Refusal as refusal:
            return refusal
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(ask, range(4)))
    assert Message.objects.filter(role="assistant").count() == 1
    refused = [result for result in results if isinstance(result, Refusal)]
    assert len(refused) == (0 if same_key else 3)


def _ended(turn, state, content="", **facts):
    assert close_reply(turn.reply, Progress(content, "", 0), TurnEnded(state, **facts))
    return turn


@pytest.mark.parametrize("state", [State.STOPPED, State.FAILED, State.INTERRUPTED])
def test_a_reply_that_ended_early_goes_on_under_a_new_fence(begin, olive, runner_row, state):
    turn = _ended(begin(), state, "So far", fault="cut")
    again = continue_turn(turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk)
    assert (again.reply.state, again.reply.content) == (State.STREAMING, "So far")
    assert (again.reply.fence, again.reply.fault) == (2, "")


def test_a_finished_reply_can_not_be_continued(finished, olive, runner_row):
    turn = finished()
    with pytest.raises(Refusal):
        continue_turn(turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk)


def test_a_reply_cut_by_its_length_can_be_continued(begin, olive, runner_row):
    turn = _ended(begin(), State.COMPLETED, "Long", finish_reason="length")
    assert continue_turn(
        turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk
    ).is_new


def test_only_the_last_reply_can_be_continued(begin, olive, runner_row):
    first = _ended(begin(), State.FAILED)
    first.conversation.refresh_from_db()
    _ended(begin("Next", first.conversation), State.COMPLETED, "Done")
    with pytest.raises(Refusal):
        continue_turn(first.conversation.pk, first.reply.pk, by=olive, runner_id=runner_row.pk)


def test_a_double_click_on_continue_runs_once(begin, olive, runner_row):
    turn = _ended(begin(), State.INTERRUPTED, "So far")
    ids = (turn.conversation.pk, turn.reply.pk)
    assert continue_turn(*ids, by=olive, runner_id=runner_row.pk).is_new
    assert not continue_turn(*ids, by=olive, runner_id=runner_row.pk).is_new


def test_a_reply_that_lost_its_question_to_the_purge_is_not_continued(begin, olive, runner_row):
    turn = begin()
    Message.objects.filter(pk=turn.reply.pk).update(state=State.INTERRUPTED, parent=None)
    with pytest.raises(Refusal) as refusal:
        continue_turn(turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk)
    assert refusal.value.code == "not_continuable"
