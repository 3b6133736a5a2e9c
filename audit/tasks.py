"""What the worker does for the log."""

from dataclasses import asdict

from celery import shared_task
from django.core.cache import cache

from audit import inspection_runs, sealing
from audit.sealing import Refused
from chatbot import telemetry
from chatbot.celery import LongTask

_REFUSAL = "audit_sealing_refused"
_KEPT_SECONDS = 600


@shared_task(ignore_result=True)
def seal() -> None:
    """Seal what waits, and leave what came of it for /health and the figures."""
    more = True
    while more:
        result = sealing.seal()
        more = not isinstance(result, Refused) and result.more
        _tell(result)
    waiting = sealing.state()
    telemetry.audit_unsealed.set(waiting.unsealed)
    telemetry.audit_oldest_unsealed.set(waiting.oldest_seconds)


def _tell(result: sealing.Sealed | Refused) -> None:
    if isinstance(result, Refused):
        telemetry.audit_refused.labels(result.code).inc()
        cache.set(_REFUSAL, asdict(result), timeout=_KEPT_SECONDS)
    else:
        telemetry.audit_sealed.inc(result.entries)
        cache.delete(_REFUSAL)


def last_refusal() -> Refused | None:
    """Return why the last run refused to seal, None when it did not or nothing is known."""
    known = cache.get(_REFUSAL)
    return Refused(**known) if known else None


@shared_task(base=LongTask, ignore_result=True)
def inspect(run_id: int) -> None:
    """Verify the log, as somebody asked in the administration."""
    inspection_runs.run(run_id)
