"""What entries tell of may go; the entries stay as they were."""

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.models import ProtectedError

from accounts.access import System
from accounts.models import User
from audit.models import ModelChange
from audit.trail import record
from conversations.models import Conversation

pytestmark = pytest.mark.django_db
BY = System("tests")


def whole_log() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_jsonb(entry)::text FROM audit_entry AS entry ORDER BY id")
        return [text for (text,) in cursor.fetchall()]


def assert_still_there(before: list[str]) -> None:
    assert whole_log()[: len(before)] == before


def test_deleted_account_leaves_the_log_as_it_was(sam: User):
    record(sam, "auth.password_changed", sam)
    before = whole_log()
    sam.delete()
    assert_still_there(before)


def test_account_with_conversations_stays(finished, olive):
    finished()
    with pytest.raises(ProtectedError):
        olive.delete()


def test_deleted_conversation_leaves_the_log_as_it_was(finished):
    turn = finished()
    before = whole_log()
    assert any(str(turn.conversation.pk) in text for text in before)
    Conversation.objects.filter(pk=turn.conversation.pk).delete()
    assert not Conversation.objects.exists()
    assert_still_there(before)


def test_deleted_content_type_leaves_the_log_as_it_was(ada):
    kind = ContentType.objects.create(app_label="gone", model="gone")
    change = ModelChange(content_type=kind, object_pk="1", object_repr="", action=0, actor=ada)
    ModelChange.objects.bulk_create([change])
    record(BY, "account.created", ("gone.gone", "1"))
    before = whole_log()
    kind.delete()
    assert_still_there(before)
    assert ModelChange.objects.filter(object_pk="1").exists()
