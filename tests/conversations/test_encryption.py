import base64
import uuid
from datetime import UTC, date, datetime, timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from conversations import keyring as keyring_module
from conversations.encryption import FORMAT, SealKey, day_of, open_sealed, seal
from conversations.keyring import KeyDay, KeyGone, Keyring, Unreadable, keyring
from conversations.keystores import FolderStore
from conversations.models import Conversation, Message
from conversations.turn import can_continue

TODAY = KeyDay(1, datetime.now(UTC).date())
TALK, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)
KEY = SealKey(TALK, TODAY)


@given(st.binary(), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_sealed_for_a_place_opens_there(plain, place):
    assert open_sealed(seal(plain, place, KEY), place, TALK) == plain


def test_a_value_moved_to_another_place_does_not_open():
    sealed = seal(b"mine", "message/1/content", KEY)
    with pytest.raises(Unreadable, match="changed or moved"):
        open_sealed(sealed, "message/2/content", TALK)


def test_a_value_moved_to_another_conversation_does_not_open():
    with pytest.raises(Unreadable, match="changed or moved"):
        open_sealed(seal(b"mine", "here", KEY), "here", OTHER)


@pytest.mark.django_db
@given(st.data())
def test_a_changed_byte_does_not_open(data):
    sealed = bytearray(seal(b"what was said", "here", KEY))
    index = data.draw(st.integers(0, len(sealed) - 1))
    sealed[index] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Unreadable):
        open_sealed(bytes(sealed), "here", TALK)


@pytest.mark.django_db
@given(st.binary(max_size=80))
def test_bytes_that_are_no_sealed_value_do_not_open(junk):
    with pytest.raises(Unreadable):
        open_sealed(junk, "here", TALK)


@given(st.integers(1, 255), st.dates(date(1970, 1, 1), date(2149, 6, 6)))
def test_a_value_says_which_day_opens_it(retention_class, day):
    days = (day - date(1970, 1, 1)).days.to_bytes(2)
    assert day_of(FORMAT + bytes([retention_class]) + days) == KeyDay(retention_class, day)


def test_the_same_text_is_sealed_differently_each_time():
    assert seal(b"x", "here", KEY) != seal(b"x", "here", KEY)


@pytest.mark.django_db
def test_without_the_key_of_the_day_nothing_opens(settings, tmp_path):
    settings.KEYRING = str(tmp_path)
    sealed = seal(b"said", "here", KEY)
    keyring().destroy(TODAY)
    with pytest.raises(KeyGone):
        open_sealed(sealed, "here", TALK)


@pytest.mark.django_db
def test_nothing_is_sealed_for_a_day_that_is_over_and_has_no_key(settings, tmp_path):
    settings.KEYRING = str(tmp_path)
    with pytest.raises(KeyGone):
        seal(b"late", "here", SealKey(TALK, KeyDay(1, TODAY.day - timedelta(40))))


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


def test_a_message_is_under_the_key_of_the_day_it_was_begun(finished):
    turn = finished()
    assert day_of(bytes(turn.reply.content_sealed)) == TODAY
    assert turn.reply.seal_key() == SealKey(turn.conversation.pk, TODAY)


def test_an_unreadable_message_is_reported_and_the_page_shows_the_others(client, finished, olive):
    turn = finished("a question", reply="a reply")
    Message.objects.filter(pk=turn.question.pk).update(content_sealed=b"\x02damaged")
    Conversation.objects.filter(pk=turn.conversation.pk).update(title_sealed=b"\x02damaged")
    client.force_login(olive)
    page = client.get(turn.conversation.get_absolute_url()).content.decode()
    assert "can't be read any more" in page
    assert "a reply" in page
    assert "New conversation" in page


@pytest.mark.parametrize("damaged", [b"", b"{}", b'{"master": "nobody\'s", "key": "00"}'])
def test_a_page_goes_on_without_what_a_damaged_key_sealed(
    client, finished, olive, settings, tmp_path, damaged
):
    settings.KEYRING = str(tmp_path)
    turn = finished("a question", reply="a reply")
    (tmp_path / f"{TODAY.name}.key").write_bytes(damaged)
    keyring_module._keyring_of.cache_clear()  # as a process that starts later
    client.force_login(olive)
    page = client.get(turn.conversation.get_absolute_url())
    assert page.status_code == 200
    assert "can't be read any more" in page.content.decode()
    assert "a reply" not in page.content.decode()


def test_an_unreadable_reply_is_not_continued(finished, begin):
    turn = begin("a question")
    Message.objects.filter(pk=turn.reply.pk).update(
        content_sealed=b"\x02damaged", state=Message.State.STOPPED
    )
    assert not can_continue(Message.objects.get(pk=turn.reply.pk))


@pytest.mark.django_db
def test_rotation_while_others_write_loses_nothing(settings, tmp_path, capsys):
    old, new = bytes(32), bytes(range(32))
    settings.KEYRING = str(tmp_path)
    settings.CONTENT_KEYS = base64.b64encode(old).decode()
    sealed = [seal(b"before", "0", KEY)]
    settings.CONTENT_KEYS = ",".join(base64.b64encode(key).decode() for key in (new, old))
    call_command("rotate_keys")
    assert "1 keys" in capsys.readouterr().out
    sealed.append(seal(b"after", "1", KEY))
    only_new = Keyring(FolderStore(tmp_path), [new])
    only_new.require_masters()
    settings.CONTENT_KEYS = base64.b64encode(new).decode()
    assert [open_sealed(one, str(place), TALK) for place, one in enumerate(sealed)] == [
        b"before",
        b"after",
    ]
    settings.CONTENT_KEYS = base64.b64encode(old).decode()
    with pytest.raises(ImproperlyConfigured, match="not among CONTENT_KEYS"):
        keyring().require_masters()
