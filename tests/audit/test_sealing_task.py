"""What the worker leaves for /health and the figures."""

import pytest
from django.core.cache import cache
from django.test import AsyncClient
from prometheus_client import REGISTRY

from audit import tasks
from audit.models import Leaf
from chatbot import health
from tests.audit.conftest import SEED, behind_the_triggers

TOKEN = {"authorization": "Bearer metrics-token-of-the-tests"}


@pytest.fixture(autouse=True)
def _forget_refusals():
    cache.delete("audit_sealing_refused")
    yield
    cache.delete("audit_sealing_refused")


def refusals(code: str) -> float:
    return REGISTRY.get_sample_value("parley_audit_sealing_refused_total", {"code": code}) or 0.0


def test_a_run_seals_all_that_waits(write_many, monkeypatch):
    write_many(70)
    sealing = tasks.sealing.seal
    monkeypatch.setattr(tasks.sealing, "seal", lambda: sealing(batch=20))
    before = REGISTRY.get_sample_value("parley_audit_sealed_total") or 0.0
    tasks.seal()
    assert Leaf.objects.count() == 70
    assert REGISTRY.get_sample_value("parley_audit_sealed_total") == before + 70
    assert tasks.last_refusal() is None


async def health_of_the_log() -> dict[str, object]:
    answer = (await AsyncClient().get("/health", headers=TOKEN)).json()
    return answer["parts"]["audit log"]


async def test_health_tells_operators_why_nothing_is_signed(folder, write, monkeypatch):
    from asgiref.sync import sync_to_async

    monkeypatch.setattr(health, "LIMIT_SECONDS", 20.0)
    run = sync_to_async(tasks.seal)
    monkeypatch.delenv("AUDIT_SIGNING_KEY")
    await sync_to_async(write)(1)
    before = refusals("no_key")
    await run()
    part = await health_of_the_log()
    assert part["ok"] is False
    assert part["needed"] is False
    assert "(no_key): AUDIT_SIGNING_KEY is not set" in str(part["detail"])
    assert refusals("no_key") == before + 1
    monkeypatch.setenv("AUDIT_SIGNING_KEY", SEED)
    await run()
    assert (await health_of_the_log())["ok"] is True


async def test_health_tells_when_nobody_seals(folder, write, monkeypatch):
    from asgiref.sync import sync_to_async

    monkeypatch.setattr(health, "LIMIT_SECONDS", 20.0)
    await sync_to_async(write)(1)
    assert (await health_of_the_log())["ok"] is True
    age = "UPDATE audit_entry SET recorded_at = now() - interval '10 minutes'"
    await sync_to_async(behind_the_triggers)(age)
    part = await health_of_the_log()
    assert part["ok"] is False
    assert "have waited 600 s" in str(part["detail"])
