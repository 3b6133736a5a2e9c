"""Placeholders go out, originals come back: whole, in pieces, and as models change them."""

import uuid
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conversations.encryption import SealKey
from conversations.keyring import KeyDay
from conversations.turn import pseudonyms
from conversations.turn.pii import detect
from conversations.turn.pseudonyms import Pseudonymiser, Restorer

TODAY = KeyDay(1, datetime.now(UTC).date())
CONVERSATION = SealKey(uuid.UUID(int=7), TODAY)
PERSONAL = [
    "olive@example.org",
    "OLIVE@example.org",
    "+49 30 23125 123",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "192.0.2.17",
    "SSN 219-09-9998",
    "password=Winter2024!x",
    "born on 12 March 1984",
    "Lange Str. 5, 70173 Stuttgart",
]
WORDS = st.sampled_from(
    [
        "Hello",
        ",",
        " ",
        "\n",
        "[",
        "]",
        "[EMAIL-",
        "[EMAIL-BCDFGHJK]",
        "[ip-BCDFGHJK ]",
        "é",
        "中",
        "7",
    ]
)
TEXTS = st.lists(st.sampled_from(PERSONAL) | WORDS).map(" ".join)
ANY_TEXT = (
    TEXTS | st.text(st.characters()) | st.lists(WORDS | st.sampled_from(PERSONAL)).map("".join)
)


def chunks(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def restored(restorer: Restorer, pieces: list[str]) -> str:
    return "".join(map(restorer.feed, pieces)) + restorer.finish()


@given(st.lists(ANY_TEXT, min_size=1, max_size=3), st.lists(st.integers(0, 400), max_size=8))
@example(["password=[EMAIL-BCDFGHJK]"], [])
def test_what_was_hidden_comes_back_however_it_is_cut(texts, cuts):
    hider = Pseudonymiser(CONVERSATION)
    hidden = [hider.hide(text) for text in texts]
    for text, sent in zip(texts, hidden, strict=True):
        assert restored(hider.restorer(), chunks(sent, cuts)) == text
        assert hider.restorer().restore(sent) == text


@given(TEXTS)
def test_nothing_that_was_found_is_sent(text):
    hidden = Pseudonymiser(CONVERSATION).hide(text)
    assert not any(text[found.start : found.end] in hidden for found in detect(text))


@given(st.lists(st.sampled_from(PERSONAL)))
def test_in_what_is_sent_nothing_is_found(values):
    assert detect(Pseudonymiser(CONVERSATION).hide("\n".join(values))) == []


@given(st.lists(st.integers(0, 60), max_size=6), st.data())
def test_a_changed_case_and_spaces_come_back_too(cuts, data):
    hider = Pseudonymiser(CONVERSATION)
    placeholder = hider.hide("olive@example.org")
    spaces = data.draw(st.lists(st.sampled_from(["", " "]), min_size=len(placeholder)))
    changed = "".join(map("".join, zip(placeholder, spaces, strict=False))).rstrip(" ")
    changed = data.draw(st.sampled_from([changed, changed.lower(), changed.title()]))
    assert restored(hider.restorer(), chunks(f"To {changed}!", cuts)) == "To olive@example.org!"


@given(ANY_TEXT, st.lists(st.integers(0, 400), max_size=8))
def test_pieces_give_what_the_whole_gives(text, cuts):
    hider = Pseudonymiser(CONVERSATION)
    answer = f"{hider.hide('olive@example.org')[:9]}{text}{hider.hide(text)}"
    restorer = hider.restorer()
    assert restored(hider.restorer(), chunks(answer, cuts)) == restorer.restore(answer)


def test_only_what_may_become_a_known_placeholder_waits():
    hider = Pseudonymiser(CONVERSATION)
    placeholder = hider.hide("olive@example.org")
    restorer = hider.restorer()
    assert restorer.feed("see [1] and [") == "see [1] and "
    assert restorer.feed("2] or [EM") == "[2] or "
    assert restorer.feed("PTY] or [PHONE-") == "[EMPTY] or [PHONE-"
    assert restorer.feed(placeholder[:-1]) == ""
    assert restorer.feed("]") == "olive@example.org"
    assert restorer.feed(placeholder[:5]) == ""
    assert restorer.finish() == placeholder[:5]


def test_a_value_keeps_its_placeholder_in_its_conversation_and_in_no_other():
    ours = Pseudonymiser(CONVERSATION).hide("olive@example.org")
    assert Pseudonymiser(CONVERSATION).hide("olive@example.org") == ours
    assert Pseudonymiser(SealKey(uuid.UUID(int=8), TODAY)).hide("olive@example.org") != ours


def test_a_placeholder_of_another_turn_stays_as_it_is():
    old = Pseudonymiser(CONVERSATION).hide("olive@example.org")
    hider = Pseudonymiser(CONVERSATION)
    hider.hide("sam@example.org")
    assert hider.restorer().restore(old) == old


@pytest.mark.parametrize("lookalike_first", [True, False])
def test_who_writes_a_placeholder_by_hand_gets_it_back_by_hand(lookalike_first):
    known = Pseudonymiser(CONVERSATION).hide("olive@example.org").lower()
    texts = [known, "olive@example.org"] if lookalike_first else ["olive@example.org", known]
    hider = Pseudonymiser(CONVERSATION)
    hidden = [hider.hide(text) for text in texts]
    assert [hider.restorer().restore(sent) for sent in hidden] == texts


def test_two_values_never_share_a_placeholder(monkeypatch):
    monkeypatch.setattr(
        Pseudonymiser, "_letters", lambda _self, _kind, _value, attempt: "BBBBBBB" + "BC"[attempt]
    )
    hider = Pseudonymiser(CONVERSATION)
    sent = hider.hide("olive@example.org sam@example.org")
    assert sent == "[EMAIL-BBBBBBBB] [EMAIL-BBBBBBBC]"
    assert hider.restorer().restore(sent) == "olive@example.org sam@example.org"


def test_what_comes_back_is_not_looked_at_again():
    hider = Pseudonymiser(CONVERSATION)
    inner = hider.hide("olive@example.org")
    outer = hider.hide(f"password='{inner.lower()}x1'")
    assert hider.restorer().restore(outer) == f"password='{inner.lower()}x1'"


def test_what_one_message_calls_a_secret_is_hidden_in_the_next():
    hider = Pseudonymiser(CONVERSATION)
    hider.hide("password=Winter2024!x")
    assert "Winter2024" not in hider.hide("Is Winter2024!x a good one?")


def test_a_message_is_looked_through_once_until_it_grows(monkeypatch):
    looked = []
    monkeypatch.setattr(pseudonyms, "detect", lambda text: looked.append(text) or detect(text))
    key = uuid.uuid4()
    hider = Pseudonymiser(CONVERSATION)
    sent = [hider.hide_message(key, "to olive@example.org") for _ in range(2)]
    assert sent[0] == sent[1] == hider.hide("to olive@example.org")
    assert len(looked) == 2  # once for the message, once for the text without one
    hider.hide_message(key, "to olive@example.org and sam@example.org")
    assert len(looked) == 3


def test_of_many_messages_the_oldest_are_forgotten(monkeypatch):
    monkeypatch.setattr(pseudonyms, "_REMEMBERED_MESSAGES", 3)
    hider = Pseudonymiser(CONVERSATION)
    for _ in range(5):
        hider.hide_message(uuid.uuid4(), "nothing")
    assert len(pseudonyms._remembered) == 3
