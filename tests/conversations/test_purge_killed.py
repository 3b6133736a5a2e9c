"""A purge that is killed with SIGKILL, several times: what is left to do is done once."""

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.db.models import F

from audit.models import Entry
from audit.verify import CompactRange, leaf_hash
from conversations.models import Conversation, Message, PurgeRun
from conversations.retention.purge import purge

pytestmark = pytest.mark.django_db(transaction=True)

PURGER = """
import sys, django
from datetime import datetime
from django.conf import settings
settings.DATABASES["default"]["NAME"] = sys.argv[1]
django.setup()
from conversations.retention.purge import purge
purge(datetime.fromisoformat(sys.argv[2]), chunk=3)
"""
SLOWLY = """
CREATE FUNCTION delete_slowly() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(0.02); RETURN OLD; END $$;
CREATE TRIGGER delete_slowly BEFORE DELETE ON conversations_message
    FOR EACH ROW EXECUTE FUNCTION delete_slowly()
"""
AT_FULL_SPEED = "DROP FUNCTION delete_slowly CASCADE"


@pytest.fixture
def slow_deletes():
    with connection.cursor() as cursor:
        cursor.execute(SLOWLY)
        yield
        cursor.execute(AT_FULL_SPEED)


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def messages_purged() -> int:
    run = PurgeRun.objects.first()
    return run.counts["messages"] if run else 0


def kill_once_it_has_purged(more: int, now: datetime) -> None:
    """Start a purge in a process of its own and kill it when it has deleted so many more."""
    wanted = messages_purged() + more
    name = str(connection.settings_dict["NAME"])
    with subprocess.Popen([sys.executable, "-c", PURGER, name, now.isoformat()]) as purger:
        wait_until(lambda: messages_purged() >= wanted)
        purger.kill()


def test_a_killed_purge_is_gone_on_with_and_its_certificate_is_whole(finished, slow_deletes):
    for number in range(15):
        finished(f"Question {number}?")
    young = finished("And you?")
    old = Message.objects.exclude(conversation=young.conversation)
    old.update(created_at=F("created_at") - timedelta(days=31))
    Conversation.objects.update(key_day=F("key_day") - timedelta(days=31))
    ordered = list(old.order_by("conversation_id", "created_at", "pk").values_list("pk", flat=True))
    now = datetime.now(UTC)
    for _ in range(2):
        kill_once_it_has_purged(5, now)
    run = PurgeRun.objects.get()
    assert run.state == "running"
    assert 10 <= run.counts["messages"] < 30
    assert old.count() == 30 - run.counts["messages"], "what is gone is what the run says"
    # The killed process's connection may live a moment longer, and with it the lock.
    wait_until(lambda: bool(purge(now)))
    run = PurgeRun.objects.get()
    assert (run.state, run.counts["messages"], run.skipped) == ("finished", 30, 0)
    assert run.counts["conversations"] == 15
    tree = CompactRange()
    for pk in ordered:
        tree.append(leaf_hash(pk.bytes))
    assert bytes(run.root) == tree.root()
    assert Entry.objects.filter(event="retention.purged").count() == 1
    assert set(Message.objects.values_list("conversation", flat=True)) == {young.conversation.pk}


def test_two_purges_at_once_are_one(finished, slow_deletes):
    for number in range(5):
        finished(f"Question {number}?")
    Message.objects.update(created_at=F("created_at") - timedelta(days=31))
    Conversation.objects.update(key_day=F("key_day") - timedelta(days=31))
    now = datetime.now(UTC)
    name = str(connection.settings_dict["NAME"])
    with subprocess.Popen([sys.executable, "-c", PURGER, name, now.isoformat()]) as purger:
        wait_until(lambda: messages_purged() >= 1)
        assert purge(now) is None
        assert purger.wait(60) == 0
    assert PurgeRun.objects.get().counts["messages"] == 10
