"""What the worker does for conversations."""

from datetime import UTC, datetime

from celery import shared_task
from django.db import transaction

from conversations.turn import closing
from conversations.turn.budget import settle_forgotten


@shared_task(ignore_result=True)
def forget_dead_runners() -> None:
    """Drop the rows of processes that ended long ago."""
    closing.forget_dead_runners()


@shared_task(ignore_result=True)
def settle_forgotten_reservations() -> None:
    """Settle what was held for a title and never given back."""
    with transaction.atomic():
        settle_forgotten(now=datetime.now(UTC))
