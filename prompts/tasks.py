"""What the worker does for prompts."""

import uuid
from typing import Any

from celery import shared_task
from celery.signals import worker_shutting_down
from django.utils import timezone

from chatbot.celery import LongTask
from prompts import drift
from prompts.evaluation import engine, runs, schedule
from prompts.release import guards


@shared_task(ignore_result=True)
def watch_releases() -> None:
    """Compare each canary with production; roll back, or offer the next step."""
    guards.watch()


@shared_task(ignore_result=True)
def look_for_drift() -> None:
    """Compare the last week of each live prompt with its baseline."""
    drift.look()


@shared_task(base=LongTask, ignore_result=True)
def run_evaluation(run_id: str) -> None:
    """Put a version through an evaluation set, unless another process is at it."""
    engine.work(uuid.UUID(run_id))


@shared_task(ignore_result=True)
def tend_evaluations() -> None:
    """Hand over evaluations that no worker took, or whose worker died."""
    runs.tend(timezone.now())


@shared_task(ignore_result=True)
def evaluate_live_prompts() -> None:
    """Begin the scheduled evaluations that are due, and look at those that have ended."""
    schedule.look(timezone.now())


@shared_task(ignore_result=True)
def forget_evaluation_replies() -> None:
    """Remove what models said in old evaluations."""
    runs.forget_replies(timezone.now())


@worker_shutting_down.connect
def stop_evaluations(**_signal: Any) -> None:
    """Let running evaluations make no new call: another worker goes on with them."""
    engine.stopping.set()
