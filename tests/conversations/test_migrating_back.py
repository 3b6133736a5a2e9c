"""The schema goes back to before retention, and forward again, with what was said in it."""

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.utils import timezone

from conversations.models import Hold, RetentionPolicy
from conversations.retention import holds
from tests.flush import despite_deadlocks

# Each goes through all migrations of an app twice, which takes long on a busy machine.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]
BEFORE = "0007"


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    migrate()


def migrate(*to: str) -> None:
    despite_deadlocks(lambda: call_command("migrate", "conversations", *to, verbosity=0))


def test_what_was_said_is_there_after_going_back_and_forward(finished):
    reply = finished("Still there?").reply
    migrate(BEFORE)
    migrate()
    reply.refresh_from_db()
    assert reply.parent.content == "Still there?"
    assert list(RetentionPolicy.objects.values_list("pk", flat=True)) == [1, 2]


def test_nobody_goes_back_while_a_hold_stands(olive, ravi):
    soon = timezone.now().date() + timedelta(days=30)
    holds.place(olive, matter="Case 7", reason="A claim.", review_on=soon, by=ravi)
    with pytest.raises(DatabaseError, match="Legal holds stand"):
        migrate(BEFORE)
    assert Hold.objects.standing().exists()


BEFORE_INDEXES = "0016"


def state_of(index: str) -> str:
    with connection.cursor() as cursor:
        asked = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
        cursor.execute(asked, [index])
        found = cursor.fetchone()
    return {None: "gone", (True,): "whole", (False,): "broken off"}[found]


def execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def test_indexes_go_and_come_without_a_lock_that_stops_writing():
    migrate(BEFORE_INDEXES)
    assert state_of("replies_of_release") == "gone"
    migrate()
    assert state_of("replies_of_release") == "whole"


def test_an_index_that_was_broken_off_is_built_again_and_a_whole_one_is_kept(finished):
    for _ in range(2):
        finished()
    migrate(BEFORE_INDEXES)
    with pytest.raises(DatabaseError, match="duplicated"):
        execute(
            "CREATE UNIQUE INDEX CONCURRENTLY replies_of_release ON conversations_message (role)"
        )
    execute("CREATE INDEX open_reservations ON conversations_reservation (settled_at)")
    assert state_of("replies_of_release") == "broken off"
    migrate()
    assert state_of("replies_of_release") == "whole"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_indexdef('open_reservations'::regclass)")
        assert "(settled_at)" in cursor.fetchone()[0]
    migrate(BEFORE_INDEXES)
