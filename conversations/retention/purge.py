"""The purge: what is due goes, and what went can be shown.

    purge(now)         one run, or the rest of one that was cut off; None beside another process
    confirm(run)       let a run go on that stopped to ask
    standing(now)      what is due, held and overdue at a moment

A run takes the messages that are older than their class's period, by class, conversation, age and
id, in chunks of a short transaction each. With each chunk the run's row learns what went, how far
it is and the tree over the ids so far: a killed run is gone on with, and its certificate is whole.
A chunk that can't be deleted is halved until the row to blame is alone; that one is left, counted
and tried again by the next run. Then the keys of days that are over are destroyed: of those on
which nothing is left but what a hold keeps.

A run that would delete an unusual share of everything stops before it begins: a clock may have
jumped. A run never deletes what the policies at hand no longer let go.

What is due and held stays, but unless HOLDS_ARE_TOLD its owner sees it no more: nobody could tell
by what is still there that a hold keeps it.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection, transaction
from django.db.models import BinaryField, Max, Min, Q, QuerySet, TextField
from django.db.models.functions import Cast, Substr

from accounts.access import Actor, System, require
from accounts.models import User
from accounts.roles import Permission
from audit.checkpoint import SigningKeyError
from audit.statements import signed_statement
from audit.trail import record
from audit.verify import CompactRange, leaf_hash
from chatbot import telemetry
from conversations.encryption import HEAD_BYTES, head_of
from conversations.keyring import KeyDay, KeyGone, keyring
from conversations.models import Conversation, Feedback, Message, MessageQuerySet, PurgeRun
from conversations.retention.deletion import (
    delete_messages,
    delete_windows,
    hide_held,
    let_go_of_days,
)
from conversations.retention.holds import keep_keys, only_held, without_held
from conversations.retention.policies import Period, in_words, periods

logger = structlog.get_logger(__name__)

BY = System("purge")
CHUNK = 4_000
CONVERSATIONS_AT_ONCE = 500
LOCK_SECONDS = 2
# The purge runs hourly: what has been due for longer should have gone.
OVERDUE_AFTER = timedelta(hours=2)
KINDS = ("messages", "conversations", "feedback", "reservations", "windows")
CERTIFICATE_HEADER = "parley-retention-purge/v1"
_LOCK = 7169401
_HASH_BYTES = 32

State = PurgeRun.State


@dataclass(frozen=True, slots=True)
class Cutoff:
    """What goes of one class: all that was said before `before`, by a version of its policy."""

    retention_class: int
    name: str
    version: int
    hours: int
    before: datetime

    @classmethod
    def of(cls, period: Period, now: datetime) -> "Cutoff":
        return cls(
            period.retention_class,
            period.name,
            period.version,
            period.hours,
            period.cutoff(now),
        )

    @classmethod
    def stored(cls, values: dict[str, Any]) -> "Cutoff":
        """Return it as a run's row has it."""
        return cls(**{**values, "before": datetime.fromisoformat(values["before"])})

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "before": self.before.isoformat()}

    @property
    def days_until(self) -> date:
        """The last day of which everything is due."""
        return self.before.astimezone(UTC).date() - timedelta(days=1)

    @property
    def in_words(self) -> str:
        return in_words(self.hours)


def cutoffs(now: datetime) -> list[Cutoff]:
    """Return what is due of each class at a moment, by class."""
    known = periods(now)
    return [Cutoff.of(known[each], now) for each in sorted(known)]


def purge(now: datetime, *, chunk: int = CHUNK) -> PurgeRun | None:
    """Delete what is due at `now`, or go on with what a run began that was cut off.

    Returns the run; one that asks has deleted nothing. None where another process is at it.
    """
    with _alone() as alone:
        if not alone:
            return None
        run = _current(now)
        if run.state == State.RUNNING:
            _Work(run, chunk).finish(now)
        certify()
        run.refresh_from_db()
        return run


@contextmanager
def _alone() -> Iterator[bool]:
    """Hold the lock of the purge, which ends with its connection; or say that another does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])
        (alone,) = cursor.fetchone()
    try:
        yield alone
    finally:
        if alone and connection.is_usable():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


# --- beginning --------------------------------------------------------------------------------


@transaction.atomic
def _current(now: datetime) -> PurgeRun:
    """Return the run that is open, or a new one, which asks where it would delete too much."""
    standing_run = PurgeRun.objects.filter(state__in=[State.ASKING, State.RUNNING]).first()
    if standing_run and standing_run.state == State.RUNNING:
        _cap(standing_run, now)
        return standing_run
    current = cutoffs(now)
    due, of = sum(due_of(each).count() for each in current), Message.objects.count()
    asks = is_unusual(due, of)
    if standing_run and asks:
        return standing_run
    if standing_run:
        _withdraw(standing_run, now)
    made = PurgeRun.objects.create(
        state=State.ASKING if asks else State.RUNNING,
        started_at=now,
        due=due,
        cutoffs=[each.as_json() for each in current],
        counts=dict.fromkeys(KINDS, 0),
    )
    if asks:
        record(BY, "retention.stopped", made, outcome="failed", due=due, of=of)
        logger.error("purge_stopped_to_ask", run=made.pk, due=due, of=of)
    return made


def is_unusual(due: int, of: int) -> bool:
    """Whether to delete `due` messages of so many wants to be confirmed."""
    floor = settings.RETENTION_MAX_MESSAGES_UNASKED
    return bool(due > floor and due > settings.RETENTION_MAX_SHARE * of)


def _withdraw(run: PurgeRun, now: datetime) -> None:
    run.state, run.finished_at = State.WITHDRAWN, now
    run.save(update_fields=["state", "finished_at"])
    record(BY, "retention.withdrawn", run, due=run.due)


def _cap(run: PurgeRun, now: datetime) -> None:
    """Let a run delete no more than what is due now: a policy or the clock may have changed.

    By what it deleted something, it says so for good: a later cutoff is put behind.
    """
    current = {each.retention_class: each for each in cutoffs(now)}
    begun = _going_by(run)
    capped = [min(each, current[each.retention_class], key=_before) for each in begun]
    changed = [each.as_json() for each in capped if each not in begun]
    if changed:
        run.cutoffs = [*run.cutoffs, *changed] if run.place else [each.as_json() for each in capped]
        run.save(update_fields=["cutoffs"])


def _going_by(run: PurgeRun) -> list[Cutoff]:
    """Return what a run deletes of each class from here on, by class."""
    last = {each.retention_class: each for each in map(Cutoff.stored, run.cutoffs)}
    return [last[each] for each in sorted(last)]


def _before(cutoff: Cutoff) -> datetime:
    return cutoff.before


@transaction.atomic
def confirm(run: PurgeRun, *, by: Actor, now: datetime) -> PurgeRun | None:
    """Let a run that asks go on with the next `purge`. None where it does not ask any more.

    Raises Denied.
    """
    require(by, Permission.MANAGE_RETENTION)
    asking = PurgeRun.objects.select_for_update().filter(pk=run.pk, state=State.ASKING).first()
    if asking is None:
        return None
    asking.state, asking.confirmed_at = State.RUNNING, now
    asking.confirmed_by = by if isinstance(by, User) else None
    asking.save(update_fields=["state", "confirmed_at", "confirmed_by"])
    record(by, "retention.confirmed", asking, due=asking.due)
    return asking


# --- what is due ------------------------------------------------------------------------------


def due_of(cutoff: Cutoff) -> QuerySet[Message]:
    """The messages of a class that may go."""
    return without_held(_past(cutoff))


def _past(cutoff: Cutoff) -> MessageQuerySet:
    """The messages of a class whose time is over. No conversation is older than its key's day."""
    return Message.objects.filter(
        conversation__retention_class=cutoff.retention_class,
        conversation__key_day__lte=cutoff.before.astimezone(UTC).date(),
        created_at__lt=cutoff.before,
    ).order_by()


# --- the work ---------------------------------------------------------------------------------

Row = tuple[uuid.UUID, str, uuid.UUID]


class _Work:
    """One process's part in a run."""

    def __init__(self, run: PurgeRun, chunk: int) -> None:
        self.run = run
        self._chunk = chunk
        self._at = self._began = time.monotonic()

    def finish(self, now: datetime) -> None:
        """Go through all classes from where the run is, then destroy keys, and end the run."""
        for each in _going_by(self.run):
            self._take_all(each.retention_class, now)
        due = _going_by(self.run)
        if not settings.HOLDS_ARE_TOLD:
            for cutoff in due:
                self._hide(cutoff)
        for cutoff in due:
            self._let_go_of_days(cutoff)
        self._end(due, now)

    def _take_all(self, retention_class: int, now: datetime) -> None:
        """Delete what is due of a class, and with each chunk look whether it still is."""
        while rows := self._next(cutoff := self._cutoff(retention_class, now)):
            self._take(cutoff, rows)

    def _cutoff(self, retention_class: int, now: datetime) -> Cutoff:
        _cap(self.run, _ended(now, self._began))
        return next(each for each in _going_by(self.run) if each.retention_class == retention_class)

    def _next(self, cutoff: Cutoff) -> list[Row]:
        """Return what follows the run's place."""
        rows = due_of(cutoff)
        at_class, *behind = self.run.place or [0]
        if at_class > cutoff.retention_class:
            return []
        if at_class == cutoff.retention_class:
            owner, moment, pk = behind
            later = Q(created_at__gt=moment) | Q(created_at=moment, pk__gt=pk)
            rows = rows.filter(conversation__gte=owner).filter(
                Q(conversation__gt=owner) | Q(later, conversation=owner)
            )
        ordered = rows.order_by("conversation_id", "created_at", "pk")
        # As text, since all but the last moment are only carried along.
        moment = Cast("created_at", TextField())
        return list(ordered.values_list("conversation_id", moment, "pk")[: self._chunk])

    def _take(self, cutoff: Cutoff, rows: Sequence[Row]) -> None:
        """Delete a chunk, by halves where it can't be deleted as a whole."""
        try:
            self._delete(cutoff, rows)
        except DatabaseError as error:
            if not connection.is_usable():
                raise
            if len(rows) == 1:
                self._skip(cutoff, rows[0], error)
                return
            half = len(rows) // 2
            self._take(cutoff, rows[:half])
            self._take(cutoff, rows[half:])

    def _delete(self, cutoff: Cutoff, rows: Sequence[Row]) -> None:
        with transaction.atomic():
            self._lock()
            given = [(owner, pk) for owner, _, pk in rows]
            chunk = delete_messages(given, purged_before=cutoff.before)
            under_hold = chunk.deleted.held
            held = sum(owner in under_hold for owner, _ in given) if under_hold else 0
            self._grow(chunk.gone)
            self._count(chunk.deleted.counts())
            self.run.skipped += len(rows) - len(chunk.gone) - held
            self._save(cutoff, rows[-1])
        _tell(chunk.deleted.counts())

    def _skip(self, cutoff: Cutoff, row: Row, error: DatabaseError) -> None:
        _, _, pk = row
        logger.error("message_not_purged", message=str(pk), reason=type(error).__name__)
        with transaction.atomic():
            self._lock()
            self.run.skipped += 1
            self._save(cutoff, row)

    def _lock(self) -> None:
        """Lock the run's row and read it: what is added to it must be what is committed."""
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        self.run = PurgeRun.objects.select_for_update().get(pk=self.run.pk)

    def _grow(self, gone: Sequence[uuid.UUID]) -> None:
        """Add the ids to the tree of the run."""
        tree = _tree(self.run)
        tree.extend([leaf_hash(pk.bytes) for pk in gone])
        self.run.tree_hashes = b"".join(tree.hashes)

    def _count(self, counts: dict[str, int]) -> None:
        for kind, more in counts.items():
            self.run.counts[kind] += more

    def _save(self, cutoff: Cutoff | None = None, row: Row | None = None) -> None:
        if cutoff and row:
            owner, moment, pk = row
            self.run.place = [cutoff.retention_class, str(owner), moment, str(pk)]
        now = time.monotonic()
        self.run.seconds += now - self._at
        self._at = now
        self.run.save()

    # --- what is held

    def _hide(self, cutoff: Cutoff) -> None:
        """Hide from their owners what holds keep of a class and what is not hidden yet."""
        due = only_held(_past(cutoff).shown()).order_by("conversation_id")
        ids = list(due.values_list("conversation_id", flat=True).distinct())
        for start in range(0, len(ids), CONVERSATIONS_AT_ONCE):
            with transaction.atomic():
                self._lock()
                some = ids[start : start + CONVERSATIONS_AT_ONCE]
                hide_held(some, purged_before=cutoff.before)
                self._save()

    # --- days that are over

    def _let_go_of_days(self, cutoff: Cutoff) -> None:
        """Destroy the keys of a class's days that are wholly due, once nothing needs them."""
        days = [
            day
            for day in keyring().days()
            if day.retention_class == cutoff.retention_class and day.day <= cutoff.days_until
        ]
        if not days:
            return
        self._let_conversations_go(cutoff)
        for day in days:
            if _is_needed(day):
                logger.warning("day_key_still_needed", day=day.name)
                continue
            if _is_kept_for_holds(day):
                self._destroy(day)

    def _let_conversations_go(self, cutoff: Cutoff) -> None:
        clinging = list(_clinging(cutoff.retention_class, cutoff.days_until))
        for start in range(0, len(clinging), CONVERSATIONS_AT_ONCE):
            with transaction.atomic():
                self._lock()
                given = clinging[start : start + CONVERSATIONS_AT_ONCE]
                deleted = let_go_of_days(given, cutoff.days_until)
                self._count(deleted.counts())
                self._save()
            _tell(deleted.counts())

    def _destroy(self, day: KeyDay) -> None:
        # Noted first: a run that is cut off in between destroys it again.
        if day.name not in self.run.key_days:
            with transaction.atomic():
                self._lock()
                self.run.key_days.append(day.name)
                self._save()
        keyring().destroy(day)
        telemetry.retention_purged.labels("day_keys").inc()

    # --- the end

    def _end(self, due: Sequence[Cutoff], now: datetime) -> None:
        with transaction.atomic():
            self._lock()
            self._count({"windows": delete_windows(now)})
            self.run.held = sum(_past(each).count() - due_of(each).count() for each in due)
            self.run.root = _tree(self.run).root()
            self.run.state, self.run.finished_at = State.FINISHED, _ended(now, self._began)
            self._save()
            record(
                BY,
                "retention.purged",
                self.run,
                outcome="failed" if self.run.skipped else "succeeded",
                cutoffs=self.run.cutoffs,
                counts=self.run.counts,
                key_days=len(self.run.key_days),
                held=self.run.held,
                skipped=self.run.skipped,
                root=bytes(self.run.root).hex(),
            )


def _ended(now: datetime, began: float) -> datetime:
    return now + timedelta(seconds=time.monotonic() - began)


def _tree(run: PurgeRun) -> CompactRange:
    """Return the tree over the ids of the messages that a run deleted, in its order."""
    hashes = bytes(run.tree_hashes)
    begins = range(0, len(hashes), _HASH_BYTES)
    return CompactRange(run.counts["messages"], [hashes[at : at + _HASH_BYTES] for at in begins])


def _tell(counts: dict[str, int]) -> None:
    for kind, many in counts.items():
        if many:
            telemetry.retention_purged.labels(kind).inc(many)


def _clinging(retention_class: int, until: date) -> QuerySet[Conversation, uuid.UUID]:
    """Conversations that need a key of a day up to `until`, for a title or as a whole; and those
    that a hold has left with a hidden title.
    """
    title = Q(
        title_head__gte=head_of(KeyDay(retention_class, date(1970, 1, 1))),
        title_head__lte=head_of(KeyDay(retention_class, until)),
    )
    found = (
        Conversation.objects.filter(retention_class=retention_class)
        .annotate(title_head=_title_head())
        .filter(title | Q(key_day__lte=until) | ~Q(hidden_title_sealed=b""))
    )
    return without_held(found).order_by("pk").values_list("pk", flat=True)


def _title_head() -> Substr:
    return Substr("title_sealed", 1, HEAD_BYTES, output_field=BinaryField())


def _is_needed(day: KeyDay) -> bool:
    """Whether something that no hold keeps is still under a day's key."""
    begins = datetime(day.day.year, day.day.month, day.day.day, tzinfo=UTC)
    said = Message.objects.filter(
        conversation__retention_class=day.retention_class,
        conversation__key_day__lte=day.day,
        created_at__gte=begins,
        created_at__lt=begins + timedelta(days=1),
    )
    if without_held(said).exists():
        return True
    whole = Conversation.objects.filter(retention_class=day.retention_class).annotate(
        title_head=_title_head()
    )
    return without_held(whole.filter(Q(key_day=day.day) | Q(title_head=head_of(day)))).exists()


def _is_kept_for_holds(day: KeyDay) -> bool:
    """Keep what holds need of a day; say whether its key may go. A lost key of a hold keeps it."""
    try:
        keep_keys(day)
    except (KeyGone, ImproperlyConfigured) as error:
        logger.error("day_key_kept_for_a_hold", day=day.name, error=type(error).__name__)
        return False
    return True


# --- evidence ---------------------------------------------------------------------------------


def certify() -> None:
    """Sign the certificates of finished runs that have none. Without the log's key they wait."""
    for run in PurgeRun.objects.filter(state=State.FINISHED, certificate="").order_by("pk"):
        try:
            run.certificate = signed_statement(CERTIFICATE_HEADER, certificate_lines(run))
        except SigningKeyError as error:
            logger.error("purge_not_certified", run=run.pk, reason=str(error))
            return
        run.save(update_fields=["certificate"])


def certificate_lines(run: PurgeRun) -> Iterator[str]:
    """Yield what the certificate of a finished run says, below the log's name."""
    assert run.finished_at is not None, "a finished run has ended"
    yield f"purge {run.pk}"
    yield f"began {_iso(run.started_at)}"
    yield f"ended {_iso(run.finished_at)}"
    for each in map(Cutoff.stored, run.cutoffs):
        yield (
            f"class {each.retention_class} version {each.version} hours {each.hours}"
            f" before {_iso(each.before)}"
        )
    for kind in sorted(run.counts):
        yield f"deleted {run.counts[kind]} {kind}"
    for name in run.key_days:
        yield f"destroyed key {name}"
    yield f"held {run.held} messages"
    yield f"skipped {run.skipped} messages"
    yield f"root {bytes(run.root).hex()} over {run.counts['messages']} ids"
    yield f"seconds {run.seconds:.3f}"


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True, slots=True)
class Standing:
    """How one kind stands: due and not yet purged, due and held, due for too long; and purged."""

    kind: str
    due: int
    held: int
    overdue: int
    purged: int


def standing(now: datetime, *, days: int = 30) -> list[Standing]:
    """Return how messages, feedback and the keys of days stand, and what went in so many days."""
    current = cutoffs(now)
    late = cutoffs(now - OVERDUE_AFTER)
    since = now - timedelta(days=days)
    runs = PurgeRun.objects.filter(finished_at__gte=since).values_list("counts", "key_days")
    gone = [{**counts, "day_keys": len(keys)} for counts, keys in runs]

    def of(kind: str, due: int, late: int, past: int) -> Standing:
        return Standing(kind, due, past - due, late, sum(each.get(kind, 0) for each in gone))

    return [
        of("messages", *(sum(x) for x in _figures_of_messages(current, late))),
        of("feedback", *(sum(x) for x in _figures_of_feedback(current, late))),
        _standing_of_keys(current, late, sum(each["day_keys"] for each in gone)),
    ]


Figures = tuple[list[int], list[int], list[int]]


def _figures_of_messages(current: Sequence[Cutoff], late: Sequence[Cutoff]) -> Figures:
    return (
        [due_of(each).count() for each in current],
        [due_of(each).count() for each in late],
        [_past(each).count() for each in current],
    )


def _figures_of_feedback(current: Sequence[Cutoff], late: Sequence[Cutoff]) -> Figures:
    def about(messages: QuerySet[Message]) -> int:
        return Feedback.objects.filter(reply__in=messages).count()

    return (
        [about(due_of(each)) for each in current],
        [about(due_of(each)) for each in late],
        [about(_past(each)) for each in current],
    )


def _standing_of_keys(current: Sequence[Cutoff], late: Sequence[Cutoff], purged: int) -> Standing:
    """Keys of days that are wholly due; a day on which a hold keeps something counts once."""
    days = keyring().days()

    def over(of: Sequence[Cutoff]) -> int:
        until = {each.retention_class: each.days_until for each in of}
        return sum(day.day <= until.get(day.retention_class, date.min) for day in days)

    return Standing("day_keys", over(current), 0, over(late), purged)


def oldest_due(now: datetime) -> float:
    """Return for how many seconds the oldest message that may go has been due; 0 for none."""
    waits = [
        (each.before - oldest).total_seconds()
        for each in cutoffs(now)
        if (oldest := due_of(each).aggregate(at=Min("created_at"))["at"])
    ]
    return max(waits, default=0.0)


def refresh_figures(now: datetime) -> None:
    """Set the figures that the database knows."""
    telemetry.retention_oldest_due.set(oldest_due(now))
    asking = PurgeRun.objects.filter(state=State.ASKING).exists()
    telemetry.retention_asking.set(int(asking))


def last_finished() -> datetime | None:
    """Return when a purge ended last."""
    found: datetime | None = PurgeRun.objects.aggregate(at=Max("finished_at"))["at"]
    return found
