"""Records whose edits are captured as differences, by django-auditlog, and become entries.

For records that people edit in the administration and whose verbs do not record the change
themselves: what a verb records is not watched, so that one act has one entry. The library listens
to saves of single records and has its limits:

- bulk writes and relations of many to many are not seen: no watched model has such a relation, and
  a test looks through the source for bulk writes on watched models;
- an update is captured before it is saved: it must stand in a transaction, or it is refused here;
- who acted it knows only inside its own middleware, which we do not use: `audit.acting` says it,
  in streams, tasks and sockets too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from auditlog.models import AbstractLogEntry
from auditlog.registry import auditlog
from auditlog.signals import post_log, pre_log
from django.db import transaction
from django.db.models import Model
from django.db.models.signals import pre_save

from accounts.models import User
from audit.models import ModelChange
from audit.trail import current_actor, record

CHANGED = "(changed)"


class NotInTransactionError(RuntimeError):
    """A watched record was changed outside of a transaction."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"{model} was changed outside of a transaction: its entry could tell of a change that"
            " was never saved. Wrap the change in transaction.atomic()."
        )


@dataclass(frozen=True, slots=True)
class _Watch:
    withheld: frozenset[str]
    only_updates: bool


_watched: dict[type[Model], _Watch] = {}


def watch(
    model: type[Model],
    *,
    fields: Iterable[str],
    withheld: Iterable[str] = (),
    only_updates: bool = False,
) -> None:
    """Let changes of these fields become entries `record.changed`.

    Of the fields `withheld` an entry tells that they changed, and no value. With `only_updates`
    adding and removing records is somebody else's to record.
    """
    withheld = frozenset(withheld)
    _watched[model] = _Watch(withheld, only_updates)
    auditlog.register(
        model,
        include_fields=sorted({*fields, *withheld}),
        mask_fields=sorted(withheld),
        mask_callable=f"{__name__}.without_value",
    )


def watched() -> list[type[Model]]:
    """Return the models whose edits are captured."""
    return list(_watched)


def without_value(_value: str) -> str:
    """Return what stands for a withheld value in what django-auditlog keeps."""
    return CHANGED


def connect() -> None:
    """Begin to listen, and watch accounts; other apps watch their own models."""
    pre_log.connect(_is_ours, dispatch_uid="audit.is_ours")
    post_log.connect(_take, dispatch_uid="audit.take")
    pre_save.connect(_complete, sender=ModelChange, dispatch_uid="audit.complete")
    # Creating and switching off have events of their own; a password and a last sign-in are none.
    watch(User, fields=(), withheld=("email", "name"), only_updates=True)


def _is_ours(sender: type[Model], action: int, **_: Any) -> bool:
    """Say whether to look for a difference at all."""
    seen = _watched.get(sender)
    is_update = action == AbstractLogEntry.Action.UPDATE
    return seen is not None and (is_update or not seen.only_updates)


def _complete(instance: ModelChange, **_: Any) -> None:
    """Let a captured difference say who acts, and name its record by the id alone."""
    model = instance.content_type.model_class()
    if not transaction.get_connection().in_atomic_block:
        raise NotInTransactionError(model.__name__)
    actor = current_actor()
    if isinstance(actor, User):
        instance.actor_id = actor.pk
    instance.object_repr = f"{model._meta.verbose_name} {instance.object_pk}"


def _take(
    sender: type[Model],
    instance: Model,
    action: int,
    changes: Mapping[str, Any] | None,
    log_entry: ModelChange | None,
    **_: Any,
) -> None:
    """Take a captured difference into the log."""
    if log_entry is None:
        return
    withheld = _watched[sender].withheld
    told = {
        name: CHANGED if name in withheld else list(pair) for name, pair in (changes or {}).items()
    }
    done = str(dict(ModelChange.Action.choices)[action])
    record(None, "record.changed", instance, action=done, changes=told)
