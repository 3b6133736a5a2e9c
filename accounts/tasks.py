"""What the worker does for accounts."""

from celery import shared_task
from django.core.management import call_command


@shared_task(ignore_result=True)
def forget_ended_sessions() -> None:
    """Delete the rows of sessions that have expired."""
    call_command("clearsessions")
