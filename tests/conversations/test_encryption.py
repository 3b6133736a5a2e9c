import base64

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from conversations.encryption import Keyring, Unreadable, keyring
from conversations.models import Message

OLD, NEW = bytes(32), bytes(range(32))


@given(st.binary(), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_sealed_for_a_place_opens_there(plain, place):
    ring = Keyring([NEW])
    assert ring.open(ring.seal(plain, place), place) == plain


def test_a_value_moved_to_another_place_does_not_open():
    sealed = Keyring([NEW]).seal(b"mine", "message/1/content")
    with pytest.raises(Unreadable, match="changed or moved"):
        Keyring([NEW]).open(sealed, "message/2/content")


@given(st.data())
def test_a_changed_byte_does_not_open(data):
    sealed = bytearray(Keyring([NEW]).seal(b"what was said", "here"))
    index = data.draw(st.integers(0, len(sealed) - 1))
    sealed[index] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Unreadable):
        Keyring([NEW]).open(bytes(sealed), "here")


def test_an_older_key_still_opens_and_the_first_one_seals():
    before = Keyring([OLD]).seal(b"early", "here")
    both = Keyring([NEW, OLD])
    assert both.open(before, "here") == b"early"
    with pytest.raises(Unreadable, match="No key"):
        Keyring([OLD]).open(both.seal(b"late", "here"), "here")


def test_the_same_text_is_sealed_differently_each_time():
    assert Keyring([NEW]).seal(b"x", "here") != Keyring([NEW]).seal(b"x", "here")


@pytest.mark.parametrize("wrong", ["not base64!", base64.b64encode(b"short").decode()])
def test_a_malformed_key_is_said_in_a_sentence(settings, wrong):
    settings.CONTENT_KEYS = wrong
    with pytest.raises(ImproperlyConfigured, match="CONTENT_KEYS"):
        keyring()


def test_no_column_holds_what_people_say(finished):
    turn = finished("the planted question", reply="the planted reply")
    turn.conversation.title = "the planted title"
    turn.conversation.save()
    with connection.cursor() as cursor:
        for table in ("conversations_conversation", "conversations_message", "audit_entry"):
            cursor.execute(f"SELECT encode(convert_to(t::text, 'UTF8'), 'escape') FROM {table} t")
            rows = "".join(row for (row,) in cursor.fetchall())
            assert "planted" not in rows
            assert b"planted".hex() not in rows


def test_text_is_bound_to_row_and_column(finished):
    turn = finished()
    turn.reply.content_sealed = turn.question.content_sealed
    with pytest.raises(Unreadable):
        _ = turn.reply.content
    turn.reply.thinking_sealed = Message.content.sealed(turn.reply, "a reply")
    with pytest.raises(Unreadable):
        _ = turn.reply.thinking


def test_keys_derived_for_a_purpose_and_an_owner_are_their_own():
    ring = Keyring([NEW, OLD])
    derived = ring.derived(b"names", b"1")
    assert derived == Keyring([NEW]).derived(b"names", b"1")
    others = {ring.derived(b"names", b"2"), ring.derived(b"other", b"1")}
    assert len({derived, *others, Keyring([OLD]).derived(b"names", b"1"), NEW}) == 5
