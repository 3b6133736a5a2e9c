"""How far behind copies are is told to /health and to Prometheus."""

import datetime

import pytest
from django.core.cache import cache
from django.db import OperationalError
from django.test import AsyncClient, Client
from django.utils import timezone

from audit import figures, tasks
from audit.destinations import LATE_AFTER
from audit.models import Checkpoint, Destination
from audit.sealing import seal
from chatbot import health
from chatbot.celery import app
from tests.audit.conftest import behind_the_triggers

TOKEN = {"authorization": "Bearer metrics-token-of-the-tests"}


@pytest.fixture
def outside(settings, tmp_path):
    path = tmp_path / "outside"
    path.mkdir()
    settings.AUDIT_PUBLISH_TO = f"file://{path}"
    settings.AUDIT_STREAM_TO = "syslog+tcp://127.0.0.1:9"
    return path


@pytest.fixture
def _at_once():
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    monkeypatch.setattr(health, "LIMIT_SECONDS", 20.0)
    cache.delete("audit_sealing_refused")


def signed_earlier(by: datetime.timedelta) -> None:
    behind_the_triggers("UPDATE audit_checkpoint SET signed_at = signed_at - %s", [by])


@pytest.mark.usefixtures("_at_once")
def test_tasks_bring_copies_to_each_destination(write, outside):
    write(2)
    tasks.seal()
    tasks.publish()
    tasks.stream()
    assert (outside / "latest").read_text() == Checkpoint.objects.get().note
    stream = Destination.objects.get(purpose="stream")
    assert (stream.position, stream.failures) == (0, 1)
    found = {lag.purpose: lag for lag in figures.copies()}
    assert (found["publication"].entries, found["publication"].seconds) == (0, 0.0)
    assert found["stream"].entries == 2
    assert "refused" in found["stream"].fault
    assert not found["stream"].is_late


def test_destination_counts_from_the_first_checkpoint_that_it_lacks(write, outside):
    write(3)
    seal()
    signed_earlier(LATE_AFTER * 10)
    write(2)
    seal()
    lag, _ = figures.copies()
    assert (lag.entries, lag.is_late) == (5, True)
    head = Checkpoint.objects.last()
    Destination.objects.create(purpose="stream", name=lag.name, position=3, origin=head.origin)
    lag, _ = figures.copies()
    assert (lag.entries, lag.is_late) == (2, False)
    # Of a log of another name nothing is there.
    Destination.objects.update(origin="other.example/log")
    lag, _ = figures.copies()
    assert (lag.entries, lag.is_late) == (5, True)


def test_figures_cost_three_queries_however_many_destinations(
    write, outside, settings, django_assert_num_queries
):
    settings.AUDIT_STREAM_TO = ",".join(f"syslog+tcp://127.0.0.1:{port}" for port in range(1, 9))
    write(1)
    seal()
    with django_assert_num_queries(3):
        assert len(figures.copies()) == 9


def test_nothing_sealed_is_nothing_to_copy(folder, outside):
    assert figures.copies() == []


@pytest.fixture
def late(write, outside):
    """A stream that failed and is late, and a publication that never was tried."""
    write(3)
    seal()
    signed_earlier(LATE_AFTER * 2)
    Destination.objects.create(
        purpose="stream",
        name="syslog+tcp://127.0.0.1:9",
        failures=4,
        fault="The receiver can't be reached: refused.",
        retry_at=timezone.now(),
    )


async def test_health_names_who_is_late_and_why(late):
    part = (await AsyncClient().get("/health", headers=TOKEN)).json()["parts"]["audit copies"]
    assert not part["ok"]
    assert not part["needed"]
    assert "syslog+tcp://127.0.0.1:9 lacks 3 entries" in part["detail"]
    assert "can't be reached: refused." in part["detail"]
    strangers = (await AsyncClient().get("/health")).json()["parts"]["audit copies"]
    assert strangers == {"ok": False}


def test_prometheus_asks_the_database_when_it_is_asked(late, outside, write):
    write(1)
    text = Client().get("/metrics").content.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if "parley_audit" in line)
    stream = '{destination="syslog+tcp://127.0.0.1:9",purpose="stream"}'
    folder = f'{{destination="file://{outside}",purpose="publication"}}'
    for labels in (stream, folder):
        assert float(values[f"parley_audit_copy_behind_entries{labels}"]) == 3
        assert float(values[f"parley_audit_copy_behind_seconds{labels}"]) >= 240
    assert float(values["parley_audit_unsealed_entries"]) == 1


def test_other_figures_are_told_while_the_database_is_away(folder, monkeypatch, caplog):
    def away() -> None:
        raise OperationalError("the connection to chat.example failed")

    monkeypatch.setattr(figures, "refresh", away)
    response = Client().get("/metrics")
    assert response.status_code == 200
    assert b"parley_active_replies" in response.content
    assert "figures_unknown" in caplog.text
    assert "chat.example" not in caplog.text
