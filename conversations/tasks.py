"""What the worker does for conversations."""

from celery import shared_task

from conversations.turn import closing


@shared_task(ignore_result=True)
def forget_dead_runners() -> None:
    """Drop the rows of processes that ended long ago."""
    closing.forget_dead_runners()
