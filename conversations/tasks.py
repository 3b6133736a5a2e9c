"""What the worker does for conversations."""

from datetime import UTC, datetime

from celery import shared_task
from django.db import transaction

from chatbot.celery import LongTask
from conversations import holds
from conversations import purge as purging
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


@shared_task(base=LongTask, ignore_result=True)
def purge() -> None:
    """Delete what is due, unless another worker is at it."""
    purging.purge(datetime.now(UTC))


@shared_task(ignore_result=True)
def end_holds() -> None:
    """End the legal holds whose delay is over."""
    holds.end_due(datetime.now(UTC))
