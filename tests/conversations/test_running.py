import asyncio
from dataclasses import replace

import pytest

from conversations.models import Conversation, Message
from conversations.turn import Refusal, TextArrived, ThinkingArrived, run_turn
from conversations.turn.context import CONTINUE, told_for
from conversations.turn.guard import Guard
from conversations.turn.policy import Policy, Rule
from conversations.turn.privacy import Mode
from conversations.turn.titles import MAX_TITLE_CHARACTERS, _cleaned, first_words
from prompts.catalogue import Offer
from prompts.provider import Finished, ProviderFault, ThinkingPiece, Usage

from .conftest import ScriptedProvider

State = Message.State
OFFER = Offer("small", "Small", "", "", "small-1", 8_000, 1_000, None)


class Ear:
    def __init__(self):
        self.heard = []
        self.publish = self.heard.append

    async def pause(self):
        await asyncio.sleep(0)


def unguarded() -> Guard:
    return Guard(Conversation(), Policy([]), Mode.OFF)


async def play(*script, until=None, guard=None):
    ear, provider = Ear(), ScriptedProvider(*script)
    ended = await run_turn(
        provider.stream(OFFER, [{"role": "user", "content": "?"}], max_tokens=100),
        guard or unguarded(),
        moderator=provider,
        listener=ear,
        until=until or asyncio.get_running_loop().create_future(),
    )
    assert provider.closed
    return ear.heard, ended


async def test_a_reply_is_told_piece_by_piece():
    told, ended = await play(
        ThinkingPiece("hm"), "Hel", "lo", Finished("stop", "m-2", Usage(1, 0, 2))
    )
    assert told == [ThinkingArrived("hm"), TextArrived("Hel"), TextArrived("lo")]
    assert (ended.outcome, ended.finish_reason, ended.model) == (State.COMPLETED, "stop", "m-2")
    assert ended.usage == Usage(1, 0, 2)
    assert ended.first_token_ms is not None


async def test_failure_after_some_text_keeps_the_text():
    told, ended = await play("Hel", "lo", ProviderFault("cut"))
    assert told == [TextArrived("Hel"), TextArrived("lo")]
    assert (ended.outcome, ended.fault) == (State.FAILED, "cut")


async def test_a_reply_without_text_is_a_failure():
    _, ended = await play(ThinkingPiece("hm"))
    assert (ended.outcome, ended.fault) == (State.FAILED, "empty")


async def test_a_content_filter_is_a_refusal_and_says_so():
    _, ended = await play("Wel", Finished("content_filter", "m", None))
    assert (ended.outcome, ended.fault) == (State.REFUSED, "content_filter")


async def test_a_stop_closes_the_request_and_keeps_the_text():
    until = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.05, until.set_result, (State.STOPPED, ""))
    told, ended = await play("Once", 30.0, "never", until=until)
    assert told == [TextArrived("Once")]
    assert ended.outcome == State.STOPPED


async def test_a_stop_before_the_first_word_is_noticed():
    until = asyncio.get_running_loop().create_future()
    until.set_result((State.INTERRUPTED, "restarted"))
    told, ended = await play(30.0, "never", until=until)
    assert (told, ended.outcome, ended.fault) == ([], State.INTERRUPTED, "restarted")


def test_the_provider_is_told_the_prompt_and_the_branch(finished, begin):
    first = finished("One?", reply="1")
    first.conversation.refresh_from_db()
    second = begin("Two?", first.conversation)
    told = second.call.messages
    assert [m["role"] for m in told] == ["system", "user", "assistant", "user"]
    assert [m["content"] for m in told[1:]] == ["One?", "1", "Two?"]


def test_a_continued_reply_tells_its_text_so_far(begin):
    turn = begin("Tell me")
    turn.reply.content = "Once upon"
    assert told_for("Be kind.", turn.reply, turn.question, OFFER, unguarded()).messages[-2:] == [
        {"role": "assistant", "content": "Once upon"},
        {"role": "user", "content": CONTINUE},
    ]


def test_telling_the_history_costs_one_query(finished, begin, django_assert_num_queries):
    turn = finished()
    for number in range(5):
        turn.conversation.refresh_from_db()
        turn = finished(f"Q{number}", conversation=turn.conversation)
    with django_assert_num_queries(1):
        told_for("Be kind.", turn.reply, turn.question, OFFER, unguarded())


def test_the_oldest_turns_are_left_out_when_the_window_is_full(finished, begin):
    turn = finished("word " * 300, reply="word " * 300)
    for number in range(3):
        turn.conversation.refresh_from_db()
        turn = finished(f"Q{number}", reply="word " * 300, conversation=turn.conversation)
    turn.conversation.refresh_from_db()
    last = begin("And now?", turn.conversation)
    told = told_for(
        "Be kind.", last.reply, last.question, replace(OFFER, context_window=2_300), unguarded()
    )
    assert [m["content"][:2] for m in told.messages[1:]] == ["Q1", "wo", "Q2", "wo", "An"]
    assert (told.turns_left_out, told.tokens <= 1_300) == (2, True)
    assert last.reply.turns_left_out == 0


def test_a_question_that_does_not_fit_the_window_is_refused(begin):
    turn = begin("word " * 1_000)
    with pytest.raises(Refusal, match="too_long"):
        told_for(
            "Be kind.", turn.reply, turn.question, replace(OFFER, context_window=1_000), unguarded()
        )


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ('"Late interest."', "Late interest"),
        ("Title: Late interest\nand more", "Late interest"),
        ("\n\n**Bold**", "Bold"),
        ("", ""),
    ],
)
def test_a_title_is_one_clean_line(said, title):
    assert _cleaned(said) == title


def test_a_title_is_bounded():
    assert len(_cleaned("word " * 100)) <= MAX_TITLE_CHARACTERS
    assert first_words("  a \n b ") == "a b"


# --- what the guard lets through ---------------------------------------------------------------

SECRET = Rule(
    "r", 1, "Plans", "words", "output", "block", words=("tulip",), message="Ask the board."
)
MASKED = Rule("m", 1, "Names", "words", "output", "mask", words=("tulip",))
JUDGED = Rule("j", 1, "Judged", "moderation", "both", "block")


def guarded(*rules: Rule, mode: Mode = Mode.PSEUDONYMISE) -> Guard:
    return Guard(Conversation(), Policy(rules), mode)


async def test_a_forbidden_word_ends_the_reply_before_a_letter_of_it_is_told():
    told, ended = await play("The plan is tu", "li", "p and more", guard=guarded(SECRET))
    assert "".join(event.text for event in told) == "The plan is "
    assert (ended.outcome, ended.fault) == (State.REFUSED, "policy")
    assert ended.refused_by == SECRET
    assert [(hit.rule.id, hit.count) for hit in ended.hits] == [("r", 1)]


async def test_what_is_masked_is_counted_in_thinking_too():
    told, ended = await play(ThinkingPiece("tulip?"), "A tulip.", guard=guarded(MASKED))
    assert [event.text for event in told] == ["\u25ae\u25ae\u25ae?", "A \u25ae\u25ae\u25ae."]
    assert ended.outcome == State.COMPLETED
    assert sum(hit.count for hit in ended.hits) == 2


async def test_placeholders_come_back_as_what_they_stand_for_however_they_are_split():
    guard = guarded()
    question = Message(role="user", conversation=Conversation())
    question.content = "Write to olive@parley.example, please."
    hidden = guard.hidden(question)
    assert "olive" not in hidden
    placeholder = hidden.removeprefix("Write to ").removesuffix(", please.")
    told, _ = await play("Dear ", *placeholder, "!", guard=guard)
    assert "".join(event.text for event in told) == "Dear olive@parley.example!"


async def test_a_failure_tells_what_was_held_back():
    told, _ = await play("Dear [EM", ProviderFault("cut"), guard=guarded())
    assert "".join(event.text for event in told) == "Dear [EM"


async def test_what_the_moderation_refuses_is_not_asked_or_not_told():
    class Moderator(ScriptedProvider):
        async def flagged_categories(self, text):
            return frozenset({"harm"} if "bad" in text else ())

    guard, question = guarded(JUDGED), Message(role="user", conversation=Conversation())
    question.content = "Something bad"
    guard.hidden(question)
    ear, provider = Ear(), Moderator("Never.")
    ended = await run_turn(
        provider.stream(OFFER, [], max_tokens=5),
        guard,
        moderator=provider,
        listener=ear,
        until=asyncio.get_running_loop().create_future(),
    )
    assert (ear.heard, ended.outcome, ended.fault) == ([], State.REFUSED, "policy")
    assert not provider.asked

    question.content = "Something"
    guard.hidden(question)
    provider = Moderator("Good so far. ", "This is bad. ", "And on.")
    ended = await run_turn(
        provider.stream(OFFER, [], max_tokens=5),
        guard,
        moderator=provider,
        listener=ear,
        until=asyncio.get_running_loop().create_future(),
    )
    assert "".join(event.text for event in ear.heard) == "Good so far. "
    assert ended.outcome == State.REFUSED


async def test_what_the_moderation_only_notes_about_the_question_is_a_hit():
    class Moderator(ScriptedProvider):
        async def flagged_categories(self, text):
            return frozenset({"harm"} if "odd" in text else ())

    noted = Rule("n", 1, "Noted", "moderation", "input", "flag")
    guard, question = guarded(noted), Message(role="user", conversation=Conversation())
    question.content = "Something odd"
    guard.hidden(question)
    provider = Moderator("Hi.")
    ended = await run_turn(
        provider.stream(OFFER, [], max_tokens=5),
        guard,
        moderator=provider,
        listener=Ear(),
        until=asyncio.get_running_loop().create_future(),
    )
    assert ended.outcome == State.COMPLETED
    assert [(hit.rule.id, hit.direction) for hit in ended.hits] == [("n", "input")]


async def test_hits_of_thinking_are_kept_when_the_text_is_blocked():
    named = Rule("f", 1, "Flowers", "words", "output", "flag", words=("rose",))
    _, ended = await play(ThinkingPiece("rose "), "tulip ", guard=guarded(named, SECRET))
    assert ended.outcome == State.REFUSED
    assert {hit.rule.id for hit in ended.hits} == {"f", "r"}
