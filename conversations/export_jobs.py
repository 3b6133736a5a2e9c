"""Files that a worker writes for people and that are there for a day: what all of them share.

    jobs = Jobs(PersonExport, task=…, suffix=…)
    jobs.hand_over(export)               the worker takes it; `tend` does so again
    jobs.take(export_id)                 whether this worker is to write it
    jobs.step(export, done=…)            a sign of life; raises Ended when somebody ended it
    jobs.path_of(export), file_of(…)     where it lies, sealed under a key that `key_of` gives

Each lies in EXPORT_FOLDER under a key of the day of temporary chats: it dies with that key,
whatever becomes of the file.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Generic, TypeVar

from celery import current_app
from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone

from conversations.encryption import SealKey
from conversations.keyring import KeyDay
from conversations.models import Conversation, CounselExport, PersonExport, RetentionClass
from conversations.rights.portable import Counted
from conversations.sealed_file import SealedFile

KEPT_FOR = timedelta(hours=24)
# One that nobody took is handed over again; what no worker took in time is dropped.
UNTAKEN_AFTER = timedelta(seconds=45)
HANDED_OVER_FOR_SECONDS = 55
# A writer that was silent for so long is taken for dead.
SILENT_AFTER = timedelta(minutes=3)
STEP_SECONDS = 0.5
CONVERSATIONS_AT_ONCE = 200

State = PersonExport.State
UNFINISHED = (State.WAITING, State.WRITING)


Export = TypeVar("Export", PersonExport, CounselExport)


class ExportRefused(Exception):
    """There is no such file, or it can't be asked for now. The message is a sentence for people."""


class Ended(Exception):
    """The export may not go on. The message says why, for people; empty when it was ended."""


@dataclass(frozen=True, slots=True)
class Jobs(Generic[Export]):
    """The exports of one kind: their rows, the task that writes them, how files are called."""

    model: type[Export]
    task: str
    suffix: str

    def hand_over(self, export: Export, **options: object) -> None:
        """Ask a worker to write it. `tend` asks again when the broker is away."""
        # By name: the task's module imports those that write.
        current_app.send_task(self.task, [str(export.pk)], queue="long", **options)

    def take(self, export_id: str) -> bool:
        """Whether it waited, and is the caller's to write now."""
        waiting = self._rows.filter(pk=export_id, state=State.WAITING)
        return bool(waiting.update(state=State.WRITING, beat_at=timezone.now()))

    def step(self, export: Export, **values: object) -> None:
        """Note how far an export is. Raises Ended if it was ended meanwhile."""
        mine = self._rows.filter(pk=export.pk, state=State.WRITING)
        if not mine.update(beat_at=timezone.now(), **values):
            raise Ended

    def fail(self, export: Export, reason: str) -> bool:
        """End one that is not finished, with a sentence; whether it was one."""
        mine = self._rows.filter(pk=export.pk, state__in=UNFINISHED)
        return bool(mine.update(state=State.FAILED, reason=reason, finished_at=timezone.now()))

    def hand_over_untaken(self, now: datetime) -> None:
        """Hand over what no worker took."""
        for export in self._unseen_since(now - UNTAKEN_AFTER, State.WAITING):
            self.hand_over(export, expires=HANDED_OVER_FOR_SECONDS)

    def silent(self, now: datetime) -> "QuerySet[Export]":
        """Return those whose writer is taken for dead."""
        return self._unseen_since(now - SILENT_AFTER, State.WRITING)

    def sweep(self) -> None:
        """Remove files whose export is not there: of writers that died, of rows that are gone."""
        found = list(Path(settings.EXPORT_FOLDER).glob(f"*{self.suffix}*"))  # first: more may come
        kept = self._rows.filter(state__in=[State.WRITING, State.READY])
        names = {self._name_of(pk) for pk in kept.values_list("pk", flat=True)}
        for path in found:
            if path.name.removesuffix(".new") not in names:
                path.unlink(missing_ok=True)

    def path_of(self, export: Export) -> Path:
        """Return where its file lies, or will."""
        return Path(settings.EXPORT_FOLDER) / self._name_of(export.pk)

    def file_of(self, export: Export) -> SealedFile:
        """Return its file, which may be gone."""
        return SealedFile(self.path_of(export), export.pk)

    def remove(self, export: Export) -> None:
        """Remove its file, if it is there."""
        self.path_of(export).unlink(missing_ok=True)

    def _name_of(self, pk: uuid.UUID) -> str:
        return f"{pk}{self.suffix}"

    def _unseen_since(self, moment: datetime, state: str) -> "QuerySet[Export]":
        never = Q(beat_at=None, requested_at__lt=moment)
        return self._rows.filter(never | Q(beat_at__lt=moment), state=state)

    @property
    def _rows(self) -> "QuerySet[Export]":
        return self.model._default_manager.all()


def key_of(export: PersonExport | CounselExport, made_at: datetime) -> SealKey:
    """Return the key for a file that is made at a moment."""
    day = made_at.astimezone(UTC).date()
    return SealKey(export.pk, KeyDay(RetentionClass.TEMPORARY, day))


def one_by_one(conversations: QuerySet[Conversation]) -> Iterator[Conversation]:
    """Yield them in the order of their ids, which is about that of their age."""
    ordered = conversations.select_related("satisfaction").order_by("pk")
    page = list(ordered[:CONVERSATIONS_AT_ONCE])
    while page:
        yield from page
        page = list(ordered.filter(pk__gt=page[-1].pk)[:CONVERSATIONS_AT_ONCE])


def now_and_then(note: Callable[[int], None]) -> Callable[[Counted], None]:
    """Return what tells `note` how many messages are written, not too often."""
    noted_at = 0.0

    def told(counted: Counted) -> None:
        nonlocal noted_at
        if time.monotonic() - noted_at > STEP_SECONDS:
            note(counted.messages)
            noted_at = time.monotonic()

    return told
