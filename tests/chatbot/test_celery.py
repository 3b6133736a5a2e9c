"""The worker on the real broker: threads, two queues."""

import threading

import pytest
from celery.contrib.testing.worker import start_worker
from django.core.cache import cache

from chatbot.celery import LONG_AT_ONCE, LongTask, app, worker_beat

go_on = threading.Event()
long_started = threading.Semaphore(0)
short_done = threading.Event()


@app.task(base=LongTask, name="tests.long")
def long_job() -> None:
    long_started.release()
    go_on.wait(30)


@app.task(name="tests.short")
def short_job() -> None:
    short_done.set()


@pytest.fixture(scope="module")
def worker():
    with start_worker(
        app, pool="threads", concurrency=4, queues="short,long", perform_ping_check=False
    ):
        yield
        go_on.set()


def test_a_short_job_does_not_wait_for_long_ones(worker):
    for _ in range(6):
        long_job.delay()
    for _ in range(LONG_AT_ONCE):
        assert long_started.acquire(timeout=20)
    short_job.delay()
    assert short_done.wait(20)
    assert not long_started.acquire(timeout=0.2), "more long jobs run at once than may"
    go_on.set()
    for _ in range(6 - LONG_AT_ONCE):
        assert long_started.acquire(timeout=30), "a long job that stepped back never came again"
    assert not long_started.acquire(timeout=1), "a job came twice"


def test_the_workers_sign_of_life_goes_through_the_broker(worker):
    cache.delete("worker_beat")
    worker_beat.delay()
    for _ in range(200):
        if cache.get("worker_beat"):
            return
        threading.Event().wait(0.05)
    pytest.fail("the worker left no sign of life")
