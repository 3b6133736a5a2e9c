import time

import pytest
from django.core.cache import cache
from django.test import AsyncClient, Client

from chatbot import health
from prompts.provider import client_library

PARTS = ("database", "redis", "worker", "audit log", "audit copies", "provider")
TOKEN = {"authorization": "Bearer metrics-token-of-the-tests"}


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """A busy machine, or the first import of the client library, is not what is tested here."""
    client_library()
    monkeypatch.setattr(health, "LIMIT_SECONDS", 20.0)


@pytest.fixture
def worker_seen():
    cache.set("worker_beat", time.time())
    yield
    cache.delete("worker_beat")


@pytest.mark.django_db(transaction=True)
async def test_all_parts_are_told_without_details(worker_seen, simulator, settings):
    settings.OPENAI_BASE_URL = simulator
    response = await AsyncClient().get("/health")
    answer = response.json()
    assert response.status_code == 200, answer
    assert answer["parts"] == {name: {"ok": True} for name in PARTS}
    assert answer["status"] == "ok"


@pytest.mark.django_db(transaction=True)
async def test_details_are_for_operators(worker_seen):
    answer = (await AsyncClient().get("/health", headers=TOKEN)).json()
    assert answer["parts"]["database"]["detail"].startswith("PostgreSQL ")
    assert answer["parts"]["redis"]["detail"].startswith("Redis ")


@pytest.mark.django_db(transaction=True)
async def test_without_redis_the_site_is_unavailable(settings, monkeypatch):
    settings.REDIS_URL = "redis://127.0.0.1:9/0"
    response = await AsyncClient().get("/health")
    assert response.status_code == 503
    assert response.json()["parts"]["redis"] == {"ok": False}
    assert (await AsyncClient().get("/health/ready")).status_code == 503
    assert (await AsyncClient().get("/health/live")).status_code == 200


@pytest.mark.django_db(transaction=True)
async def test_a_silent_worker_degrades(monkeypatch, simulator, settings):
    settings.OPENAI_BASE_URL = simulator
    cache.set("worker_beat", time.time() - 300)
    response = await AsyncClient().get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")


@pytest.mark.django_db(transaction=True)
async def test_a_part_that_does_not_answer_is_given_up(monkeypatch):
    import asyncio

    async def never() -> str:
        await asyncio.sleep(60)
        return "never"

    monkeypatch.setattr(health, "LIMIT_SECONDS", 0.1)
    monkeypatch.setitem(health.PARTS, "redis", (never, True))
    assert (await AsyncClient().get("/health/ready")).status_code == 503


def test_metrics_are_for_loopback_or_the_token(db):
    assert Client().get("/metrics").status_code == 200
    afar = Client(REMOTE_ADDR="203.0.113.9")
    assert afar.get("/metrics").status_code == 403
    assert Client(headers={"x-forwarded-for": "203.0.113.9"}).get("/metrics").status_code == 403
    response = afar.get("/metrics", headers=TOKEN)
    assert response.status_code == 200
    assert b"parley_active_replies" in response.content
