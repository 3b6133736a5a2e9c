"""What the worker does for conversations."""

from datetime import UTC, datetime

from celery import shared_task
from django.db import transaction

from chatbot.celery import LongTask
from conversations.break_glass import counsel_export
from conversations.retention import holds
from conversations.retention import purge as purging
from conversations.rights import deleting as rights
from conversations.rights import erasure, person_export
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
def destroy_deleted() -> None:
    """Destroy what people deleted, its time for undo being over."""
    rights.destroy_due(datetime.now(UTC))


@shared_task(base=LongTask, ignore_result=True)
def write_person_export(export_id: str) -> None:
    """Write the file of all that is held about somebody."""
    person_export.write(export_id)


@shared_task(ignore_result=True)
def tend_person_exports() -> None:
    """Hand over or end exports that got stuck, and remove old ones."""
    person_export.tend(datetime.now(UTC))


@shared_task(base=LongTask, ignore_result=True)
def write_counsel_export(export_id: str) -> None:
    """Write the file of what a hold keeps, for counsel."""
    counsel_export.write(export_id)


@shared_task(ignore_result=True)
def tend_counsel_exports() -> None:
    """Hand over or end exports for counsel that got stuck, and remove old ones."""
    counsel_export.tend(datetime.now(UTC))


@shared_task(ignore_result=True)
def finish_erasures() -> None:
    """Destroy what was still held of erased accounts."""
    erasure.finish_all(datetime.now(UTC))


@shared_task(ignore_result=True)
def end_holds() -> None:
    """End the legal holds whose delay is over."""
    holds.end_due(datetime.now(UTC))
