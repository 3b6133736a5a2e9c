"""Asks for retraining when a live prompt declined: a signal in the worker, and signed webhooks.

    ask_for_retraining.delay(fact)      `fact`: what `prompts.drift.declined` tells; no content

Receivers of the signal `retraining_asked` run in the worker. Each address of RETRAINING_WEBHOOK
gets the fact as JSON, signed as `audit.posting` says; one that fails is tried again after growing
pauses, and holds no other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlunsplit

import orjson
import structlog
from celery import Task, shared_task
from django.dispatch import Signal

from audit.destinations import DeliveryFault, destinations, pause_after, webhook_name
from audit.posting import post_signed

logger = structlog.get_logger(__name__)

MOST_ATTEMPTS = 100
"""About eight hours of trying."""

retraining_asked = Signal()
"""A live prompt fell below its baseline. `fact`: what the webhooks get, as a dict."""


@dataclass(frozen=True, slots=True)
class Hook:
    """A webhook that is asked for retraining."""

    name: str
    url: str

    @classmethod
    def at(cls, parts: SplitResult) -> "Hook":
        """Raises ValueError for an address on another machine that isn't encrypted."""
        return cls(webhook_name(parts), urlunsplit(parts))

    def post(self, fact: Mapping[str, Any]) -> None:
        """Send a fact as JSON. Raises DeliveryFault."""
        post_signed(self.url, orjson.dumps(fact), "application/json")


def configured_hooks() -> dict[str, Hook]:
    """Return the hooks of RETRAINING_WEBHOOK by name. Raises ImproperlyConfigured."""
    return destinations("RETRAINING_WEBHOOK", {"https": Hook.at, "http": Hook.at})


@shared_task(ignore_result=True)
def ask_for_retraining(fact: dict[str, Any]) -> None:
    """Send the signal, and one task for each webhook."""
    for receiver, answer in retraining_asked.send_robust(sender=Hook, fact=fact):
        if isinstance(answer, Exception):
            logger.error("retraining_receiver_failed", receiver=str(receiver), exc_info=answer)
    for name in configured_hooks():
        post_to_hook.delay(name, fact)


@shared_task(bind=True, ignore_result=True, max_retries=MOST_ATTEMPTS)
def post_to_hook(self: Task, name: str, fact: dict[str, Any]) -> None:
    """Send one webhook what was noticed; try again after growing pauses."""
    hook = configured_hooks().get(name)
    if hook is None:  # it was taken from the settings meanwhile
        return
    try:
        hook.post(fact)
    except DeliveryFault as fault:
        attempt = self.request.retries + 1
        logger.warning("retraining_hook_fault", hook=name, attempt=attempt, fault=str(fault))
        raise self.retry(countdown=pause_after(attempt).total_seconds(), exc=fault) from None
