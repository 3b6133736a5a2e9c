"""What the worker does for the log."""

from dataclasses import asdict

from celery import shared_task
from django.core.cache import cache
from django.utils import timezone

from audit import export, inspection_runs, publishing, removal, sealing, streams
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


@shared_task(base=LongTask, ignore_result=True)
def write_export(export_id: int) -> None:
    """Write an export, or go on with one whose writer died."""
    export.write(export_id)


@shared_task(ignore_result=True)
def tend_exports() -> None:
    """Go on with exports whose writer died, and remove the files of old ones."""
    export.tend()


@shared_task(base=LongTask, ignore_result=True)
def remove_old_entries() -> None:
    """Remove the entries of the log whose time is over."""
    removal.remove_old(timezone.now())


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


@shared_task(ignore_result=True)
def stream() -> None:
    """Let every stream catch up, each by a task of its own: a slow one holds no other."""
    for name in streams.configured_streams():
        stream_to.delay(name)


@shared_task(ignore_result=True, expires=60)
def stream_to(name: str) -> None:
    """Send one stream what it lacks."""
    streams.stream_to(name)


@shared_task(ignore_result=True)
def publish() -> None:
    """Bring the newest checkpoint everywhere, to each place by a task of its own."""
    for name in publishing.configured_publishers():
        publish_to.delay(name)


@shared_task(ignore_result=True, expires=60)
def publish_to(name: str) -> None:
    """Bring the newest checkpoint to one destination."""
    publishing.publish_to(name)
