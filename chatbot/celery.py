"""Work in the background: one lean worker with two queues, `short` and `long`.

Both queues are served by the same threads. `LongTask` keeps some of them free: beyond
`LONG_AT_ONCE`, a long task steps back into the queue for a moment, so a short one never waits for
long ones.
"""

import os
import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery import Celery, Task
from celery.signals import setup_logging
from django.core.cache import cache

from chatbot import telemetry

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatbot.settings")

LONG_AT_ONCE = 2
LONG_RETRY_SECONDS = 2


class ActingTask(Task):  # type: ignore[misc]
    """Every task: what it records is done by who started it, or by the task itself.

    A message carries the ids of the person who acts where it is sent, and of their request. Tasks
    that beat starts act as the system, under the last part of their name.
    """

    def apply_async(self, *args: Any, headers: dict[str, Any] | None = None, **options: Any) -> Any:
        """Send the task, with who acts here."""
        from audit.acting import carried  # the settings import this module before there are models

        started = {"started_by": carried(), "started_in": telemetry.current_ids()}
        return super().apply_async(*args, headers={**started, **(headers or {})}, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run for who started it."""
        from accounts.access import System
        from audit.acting import acting_as_carried

        headers = self.request.headers or {}
        with (
            telemetry.only_ids(headers.get("started_in", {})),
            acting_as_carried(
                headers.get("started_by", {}), otherwise=System(self.name.rpartition(".")[2])
            ),
        ):
            return super().__call__(*args, **kwargs)


class LongTask(ActingTask):
    """A task that may take minutes: `@shared_task(base=LongTask)`. It goes to the queue `long`."""

    _slots = threading.BoundedSemaphore(LONG_AT_ONCE)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run when fewer than LONG_AT_ONCE long tasks run in this worker; else come again."""
        if not self._slots.acquire(blocking=False):
            raise self.retry(countdown=LONG_RETRY_SECONDS, max_retries=None)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self._slots.release()


def queue_of(
    _name: str, _args: Any, _kwargs: Any, _options: Any, task: Task | None = None, **_more: Any
) -> dict[str, str] | None:
    """Route tasks: long ones to their queue, all others to the default one."""
    return {"queue": "long"} if isinstance(task, LongTask) else None


def broker_url(redis_url: str) -> str:
    """Turn redis-py's address of a unix socket into kombu's; leave others as they are."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    number = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={number}"


app = Celery("parley", task_cls=ActingTask)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect
def _keep_our_logging(**_signal: Any) -> None:
    """Settings have configured the logs; Celery must not do so again."""


@app.task(name="chatbot.worker_beat", ignore_result=True, expires=30)
def worker_beat() -> None:
    """Leave a sign of life that went the whole way: beat, broker, worker."""
    cache.set("worker_beat", time.time(), timeout=600)
