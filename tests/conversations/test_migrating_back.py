"""The schema goes back to before retention, and forward again, with what was said in it."""

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import DatabaseError
from django.utils import timezone

from conversations.models import Hold, RetentionPolicy
from conversations.retention import holds

pytestmark = pytest.mark.django_db(transaction=True)
BEFORE = "0007"


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    migrate()


def migrate(*to: str) -> None:
    call_command("migrate", "conversations", *to, verbosity=0)


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
