"""What the worker does for prompts."""

from celery import shared_task

from prompts import drift, guards


@shared_task(ignore_result=True)
def watch_releases() -> None:
    """Compare each canary with production; roll back, or offer the next step."""
    guards.watch()


@shared_task(ignore_result=True)
def look_for_drift() -> None:
    """Compare the last week of each live prompt with its baseline."""
    drift.look()
