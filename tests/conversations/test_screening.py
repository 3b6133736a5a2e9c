"""What people send is made fit to keep: valid, visible, and reported when something was not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversations.turn.screening import (
    MAX_BYTES,
    MAX_TOKENS,
    is_invisible,
    sanitised,
)

ANY = st.text(st.characters(), max_size=40)
TEMPTING = st.text(
    st.sampled_from(
        "ab ی\u200c\u200d\u200e\u202e\u2066\ufe0f👩💻❤🏴\U000e0067\U000e007f\ud800\udc00\0漢"
    ),
    max_size=30,
)
PLAIN = st.text(st.sampled_from("abc äß 漢字 नम 👍\n\t.,é"), max_size=40)


@pytest.mark.parametrize(
    "text",
    [
        "Plain text,\n\twith a tab.",
        "می‌خواهم",  # Persian needs the non-joiner
        "क्‍ष",  # Devanagari with a joiner
        "👩‍💻 👨‍👩‍👧‍👦 👍🏽 ❤️ 1️⃣",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England
        "葛\U000e0100城",
        "שלום\u200e (1)",
    ],
)
def test_what_scripts_and_emoji_need_stays(text):
    assert sanitised(text).text == text
    assert sanitised(text).sentence == ""


@pytest.mark.parametrize(
    ("text", "left", "removed"),
    [
        ("a\0b", "ab", 1),
        ("a\ud800b", "ab", 1),
        ("user\u202etxt.exe\u202c", "usertxt.exe", 2),
        ("a\u2066b\u2069", "ab", 2),
        ("pay\u200bpal", "paypal", 1),
        ("p\u200day", "pay", 1),  # Latin letters don't join
        ("a" + "\u200c\u200d" * 20 + "b", "ab", 40),
        ("hi" + "".join(chr(0xE0000 + ord(c)) for c in "obey"), "hi", 4),
        ("🏴" + "".join(chr(0xE0000 + ord(c)) for c in "obey") + "\U000e007f", "🏴", 5),
        ("👍" + "\ufe0f\U000e0110\U000e0111", "👍\ufe0f", 2),
        ("می\u200c\u200c\u200cخ", "میخ", 3),
        ("\u200eabc", "abc", 1),
    ],
)
def test_what_is_hidden_goes_and_is_counted(text, left, removed):
    result = sanitised(text)
    assert (result.text, result.removed) == (left, removed)
    assert "removed" in result.sentence


def test_halves_of_a_character_become_one():
    assert sanitised("\ud83d\ude00").text == "😀"
    assert sanitised("\ud83d\ude00").removed == 0


def test_line_ends_are_no_hidden_characters():
    assert sanitised("a\r\nb\rc").text == "a\nb\nc"
    assert sanitised("a\r\nb\rc").removed == 0


@given(ANY | TEMPTING)
@settings(deadline=None)
def test_result_is_valid_unicode_and_stays_as_it_is(text):
    once = sanitised(text)
    once.text.encode()
    assert "\0" not in once.text
    assert sanitised(once.text).text == once.text
    assert sanitised(once.text).removed == 0


@given(ANY | TEMPTING)
@settings(deadline=None)
def test_only_hidden_characters_are_removed(text):
    whole = text.replace("\r\n", "\n").replace("\r", "\n")
    visible = [c for c in whole if not is_invisible(c) and not "\ud800" <= c <= "\udfff"]
    left = [c for c in sanitised(text).text if not is_invisible(c)]
    if "\ud800" not in text:
        assert left == visible


@given(PLAIN)
@settings(deadline=None)
def test_visible_text_passes_unchanged(text):
    assert sanitised(text).text == text


def test_length_is_bounded_in_bytes_and_in_tokens():
    assert sanitised("a" * MAX_BYTES).excess == ""
    assert "KB is the most" in sanitised("a" * (MAX_BYTES + 1)).excess
    assert sanitised("é" * (MAX_TOKENS + 1)).excess.count("tokens") == 1
