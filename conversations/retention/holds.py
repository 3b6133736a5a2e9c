"""Legal holds: what is under one is never destroyed, whoever asks, until the hold has ended.

    place(person or conversation, …)   from now on all of it is kept
    lift(hold, …)                      begins the delay after which what is due may go
    end_due(now)                       ends the holds whose delay is over

Who deletes asks `held` (or filters by `without_held`) inside the deleting transaction, after it has
locked the conversations; placing locks the same rows first. So a hold keeps all that no committed
deletion has taken. The database refuses to remove a held conversation as well.

A day's key is destroyed for all conversations at once. So a hold has a key of its own, and under it
the keys of what is held: those of the days so far are written when it is placed, that of each later
day by `keep_keys` before the day's key is destroyed. `held_key` opens them for `encryption`.

Locks are taken in this order: hold, person, conversations by id.
"""

import asyncio
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.db import models, transaction
from django.db.models import Count, Exists, OuterRef, Q
from django.db.models.functions import Substr, TruncDate
from django.utils import timezone

from accounts.access import Actor, System, require
from accounts.models import User
from accounts.roles import Permission
from audit.trail import record
from chatbot import telemetry
from conversations.encryption import HEAD_BYTES, SealKey, day_of, head_of
from conversations.keyring import (
    KEPT_SECONDS,
    NONCE_BYTES,
    ConversationKey,
    KeyDay,
    KeyGone,
    Unreadable,
    keyring,
)
from conversations.models import Conversation, HeldKey, Hold, Message

logger = structlog.get_logger(__name__)

BY = System("holds")
MATTER_CHARACTERS, REASON_CHARACTERS = 200, 2_000  # as the columns have them
ROWS_AT_ONCE = 1_000

Row = TypeVar("Row", bound=models.Model)


class HoldRefused(ValueError):
    """A hold can't be placed or lifted so. `field` is to blame; the message is a sentence."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


# --- what is held -----------------------------------------------------------------------------


def held(conversation_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    """Return which of these are under a hold, their own or their owner's. One query.

    Ask it in the transaction that deletes, once the conversations are locked.
    """
    found = Conversation.objects.filter(_is_held(Conversation), pk__in=list(conversation_ids))
    return set(found.order_by().values_list("pk", flat=True))


def without_held(rows: "models.QuerySet[Row]") -> "models.QuerySet[Row]":
    """Leave out what is under a hold, of conversations or of rows that have a `conversation`."""
    return rows.exclude(_is_held(rows.model))


def only_held(rows: "models.QuerySet[Row]") -> "models.QuerySet[Row]":
    """Leave out what is under no hold; for the same rows as `without_held`."""
    return rows.filter(_is_held(rows.model))


def is_person_held(user: User) -> bool:
    """Whether a hold stands on this person. One on a single conversation does not count here."""
    return Hold.objects.standing().filter(user_id=user.pk).exists()


def _is_held(model: type[models.Model]) -> Q:
    of_one, of_owner = (
        ("pk", "owner_id")
        if model is Conversation
        else ("conversation_id", "conversation__owner_id")
    )
    standing = Hold.objects.standing().order_by()
    return Q(Exists(standing.filter(conversation_id=OuterRef(of_one)))) | Q(
        Exists(standing.filter(user_id=OuterRef(of_owner)))
    )


# --- placing, lifting, ending -----------------------------------------------------------------


@transaction.atomic
def place(
    on: User | Conversation,
    *,
    matter: str,
    reason: str,
    review_on: date,
    by: Actor,
) -> Hold:
    """Keep everything of a person, or one conversation, until this is lifted and its delay over.

    What a purge has committed before is gone; all the rest is kept from here on. Raises Denied, and
    HoldRefused without a matter, a reason, or a day of review that is still to come.
    """
    require(by, Permission.PLACE_HOLDS)
    hold = Hold(
        user=on if isinstance(on, User) else None,
        conversation=on if isinstance(on, Conversation) else None,
        matter=_said("matter", matter),
        reason=_said("reason", reason),
        review_on=still_to_come(review_on),
        author=_person(by),
        placed_at=timezone.now(),
    )
    conversations = _locked(hold)
    if hold.conversation_id and not conversations:
        raise HoldRefused("conversation", "This conversation is gone: it was deleted just now.")
    # Made before the row is committed, and not taken back on a failure, which may come from a
    # commit that has happened: a key that wraps nothing does no harm, a missing one loses all.
    cipher = keyring().make_hold(hold.pk)
    hold.save(force_insert=True)
    _keep(hold.pk, cipher, _keys_in_use(conversations))
    record(
        by,
        "hold.placed",
        on,
        hold=str(hold.pk),
        conversations=len(conversations),
        review_on=hold.review_on.isoformat(),
    )
    return hold


@transaction.atomic
def lift(hold: Hold, *, reason: str, by: Actor) -> Hold:
    """Let a hold end once HOLD_DELAY_DAYS are over; until then it keeps as before.

    Raises Denied, and HoldRefused without a reason or for one that was lifted already.
    """
    require(by, Permission.PLACE_HOLDS)
    stored = Hold.objects.select_for_update().get(pk=hold.pk)
    if stored.lifted_at:
        raise HoldRefused("reason", "This hold was lifted already.")
    stored.lift_reason = _said("reason", reason)
    stored.lifted_at, stored.lifted_by = timezone.now(), _person(by)
    stored.ends_at = stored.lifted_at + timedelta(days=settings.HOLD_DELAY_DAYS)
    stored.save(update_fields=["lift_reason", "lifted_at", "lifted_by", "ends_at"])
    record(by, "hold.lifted", _target(stored), hold=str(stored.pk), ends=stored.ends_at.isoformat())
    return stored


def end_due(now: datetime) -> int:
    """End the holds whose delay is over and destroy their keys; return how many were ended.

    What was kept by these alone, and is due, goes with the next purge. Safe to repeat: a key that
    outlived its hold, because a process died here, goes with the next run.
    """
    due = Hold.objects.standing().filter(ends_at__lte=now).order_by("pk")
    ended = sum(_end(pk, now) for pk in list(due.values_list("pk", flat=True)))
    _destroy_keys_of_ended()
    return ended


@transaction.atomic(durable=True)
def _end(hold_id: uuid.UUID, now: datetime) -> bool:
    hold = Hold.objects.standing().select_for_update().filter(pk=hold_id).first()
    if hold is None:
        return False
    # Who places another hold on one of these copies the keys either before, or finds them gone.
    kept = HeldKey.objects.filter(hold=hold).order_by()
    _locked_by_id(Conversation.objects.filter(pk__in=kept.values("conversation")))
    kept.delete()
    hold.ended_at = now
    hold.save(update_fields=["ended_at"])
    record(BY, "hold.ended", _target(hold), hold=str(hold.pk))
    return True


def _destroy_keys_of_ended() -> None:
    left = Hold.objects.filter(pk__in=keyring().holds()).exclude(ended_at=None)
    for hold_id in left.values_list("pk", flat=True):
        keyring().destroy_hold(hold_id)


def _locked(hold: Hold) -> list[Conversation]:
    """Lock what a hold is on, the person first: then none of theirs can begin meanwhile."""
    if hold.conversation_id:
        return _locked_by_id(Conversation.objects.filter(pk=hold.conversation_id))
    User.objects.select_for_update().filter(pk=hold.user_id).get()
    return _locked_by_id(Conversation.objects.filter(owner_id=hold.user_id))


def _locked_by_id(conversations: "models.QuerySet[Conversation]") -> list[Conversation]:
    return list(conversations.select_for_update().order_by("pk"))


def _said(field: str, text: str) -> str:
    text = text.strip()
    if not text:
        raise HoldRefused(field, f"Say the {field}.")
    longest = MATTER_CHARACTERS if field == "matter" else REASON_CHARACTERS
    if len(text) > longest:
        raise HoldRefused(field, f"The {field} may have {longest:,} characters.")
    return text


def still_to_come(day: date) -> date:
    """Return the day of a review. Raises HoldRefused when it is not after today, by UTC."""
    if day <= datetime.now(UTC).date():
        raise HoldRefused("review_on", "The day of the review must be still to come.")
    return day


def _person(by: Actor) -> User | None:
    return by if isinstance(by, User) else None


def _target(hold: Hold) -> tuple[str, str]:
    if hold.user_id:
        return User._meta.label_lower, str(hold.user_id)
    return Conversation._meta.label_lower, str(hold.conversation_id)


def refresh_figures() -> None:
    """Set the figures of holds, so that they are true at this moment. One query."""
    figures = Hold.objects.aggregate(
        standing=Count("pk", filter=Q(ended_at=None)),
        to_review=Count("pk", filter=Q(lifted_at=None, review_on__lt=datetime.now(UTC).date())),
    )
    telemetry.holds_standing.set(figures["standing"])
    telemetry.holds_to_review.set(figures["to_review"])


# --- keys of what is held ---------------------------------------------------------------------


@transaction.atomic(durable=True)
def keep_keys(day: KeyDay) -> int:
    """Keep the keys of all held conversations for a day whose key is about to be destroyed.

    Returns how many keys were written. They are committed when it returns, so it is called in no
    transaction; a hold that is placed before the day's key is destroyed has kept its own.
    """
    # Locked, so that none of them ends before its keys are written.
    holds_on = defaultdict(list)
    for hold in Hold.objects.standing().select_for_update().order_by("pk"):
        holds_on[hold.conversation_id or hold.user_id].append(hold.pk)
    if not holds_on:
        return 0
    wanted = defaultdict(list)
    for pk, owner_id in _held_on(day):
        for hold_id in [*holds_on.get(pk, ()), *holds_on.get(owner_id, ())]:
            wanted[hold_id].append(SealKey(pk, day))
    return sum(_keep(pk, keyring().hold(pk), keys) for pk, keys in wanted.items())


def _held_on(day: KeyDay) -> "models.QuerySet[Conversation, tuple[uuid.UUID, uuid.UUID]]":
    """Return id and owner of each held conversation of which something is under a day's key."""
    begins = datetime(day.day.year, day.day.month, day.day.day, tzinfo=UTC)
    said = Message.objects.filter(
        conversation=OuterRef("pk"), created_at__gte=begins, created_at__lt=begins + timedelta(1)
    )
    titles = Q(title_head=head_of(day)) | Q(hidden_head=head_of(day))
    found = Conversation.objects.annotate(
        title_head=_head("title_sealed"), hidden_head=_head("hidden_title_sealed")
    ).filter(
        _is_held(Conversation),
        Q(key_day=day.day) | titles | Q(Exists(said)),
        retention_class=day.retention_class,
    )
    return found.order_by("pk").values_list("pk", "owner_id")


def _head(column: str) -> Substr:
    return Substr(column, 1, HEAD_BYTES, output_field=models.BinaryField())


def _keys_in_use(conversations: Collection[Conversation]) -> set[SealKey]:
    """Return under which keys something of these conversations is sealed. One query.

    Messages are under the day they were begun, feedback under that of its reply, a title under the
    day it was given; the conversation's own day gives its placeholders.
    """
    by_id = {one.pk: one for one in conversations}
    keys = {one.lasting_key() for one in conversations}
    keys |= {SealKey(one.pk, day) for one in conversations for day in _days_of_titles(one)}
    said = Message.objects.filter(conversation__in=by_id).order_by()
    days = said.annotate(day=TruncDate("created_at", tzinfo=UTC)).values_list(
        "conversation_id", "day"
    )
    keys |= {SealKey(pk, KeyDay(by_id[pk].retention_class, day)) for pk, day in days.distinct()}
    return keys


def _days_of_titles(conversation: Conversation) -> Iterator[KeyDay]:
    for title in (conversation.title_sealed, conversation.hidden_title_sealed):
        with suppress(Unreadable):  # empty or damaged: there is nothing to keep
            yield day_of(bytes(title))


def _keep(hold_id: uuid.UUID, cipher: AESGCM, keys: Collection[SealKey]) -> int:
    """Write these keys, wrapped for a hold; return how many there were. Repeating it is fine."""
    rows = [
        HeldKey(
            hold_id=hold_id,
            conversation_id=key.conversation_id,
            retention_class=key.day.retention_class,
            day=key.day.day,
            wrapped=_wrapped(cipher, hold_id, key, secret),
        )
        for key, secret in _secrets(keys)
    ]
    HeldKey.objects.bulk_create(rows, ROWS_AT_ONCE, ignore_conflicts=True)
    return len(rows)


def _secrets(keys: Collection[SealKey]) -> Iterator[tuple[SealKey, bytes]]:
    """Yield the keys that exist: while the day's key does, or where another hold keeps them."""
    gone = []
    for key in sorted(keys, key=lambda key: (key.day, key.conversation_id)):
        try:
            yield key, keyring().conversation_key(key.day, key.conversation_id).secret
        except KeyGone:
            gone.append(key)
    kept = _kept_by_holds({key.conversation_id for key in gone})
    for key in gone:
        if key in kept:
            yield key, kept[key]


def _kept_by_holds(conversation_ids: Collection[uuid.UUID]) -> dict[SealKey, bytes]:
    """Return all keys that holds keep of these conversations; one query, one look for each hold."""
    if not conversation_ids:
        return {}
    rows = HeldKey.objects.filter(conversation_id__in=conversation_ids).order_by()
    ciphers: dict[uuid.UUID, AESGCM | None] = {}
    found: dict[SealKey, bytes] = {}
    for row in rows:
        key = SealKey(row.conversation_id, KeyDay(row.retention_class, row.day))
        if row.hold_id not in ciphers:
            ciphers[row.hold_id] = _cipher_of(row.hold_id)
        cipher = ciphers[row.hold_id]
        if cipher and key not in found and (secret := _unwrapped(cipher, row, key)):
            found[key] = secret
    return found


def _cipher_of(hold_id: uuid.UUID) -> AESGCM | None:
    try:
        return keyring().hold(hold_id)
    except KeyGone:
        return None  # the hold has ended just now


def _wrapped(cipher: AESGCM, hold_id: uuid.UUID, key: SealKey, secret: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, secret, _bound_to(hold_id, key))


def _unwrapped(cipher: AESGCM, row: HeldKey, key: SealKey) -> bytes | None:
    wrapped = bytes(row.wrapped)
    nonce, body = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
    try:
        return cipher.decrypt(nonce, body, _bound_to(row.hold_id, key))
    except (InvalidTag, ValueError):
        logger.error("held_key_damaged", hold=str(row.hold_id), row=row.pk)
        return None


def _bound_to(hold_id: uuid.UUID, key: SealKey) -> bytes:
    return f"held/{hold_id}/{key.conversation_id}/{key.day.name}".encode()


# --- reading ----------------------------------------------------------------------------------

_MOST_CONVERSATIONS = 1_000


@dataclass(frozen=True, slots=True)
class _Kept:
    """The held keys of a conversation, as they were at one moment (CLOCK_MONOTONIC).

    None for those that were asked for and that no hold keeps. This is final: a day's key is
    destroyed after those of what is held are committed.
    """

    keys: dict[SealKey, ConversationKey | None]
    at: float


_kept: dict[uuid.UUID, _Kept] = {}


def held_key(key: SealKey) -> ConversationKey | None:
    """Return a key that a hold keeps; None where none does. One query a minute and conversation.

    On an event loop nothing is asked: there is only what a thread has read in the last minute.
    """
    kept = _kept.get(key.conversation_id)
    if kept and time.monotonic() - kept.at > KEPT_SECONDS:
        kept = None
    if kept and key in kept.keys:
        return kept.keys[key]
    if _is_on_a_loop():
        return None
    if len(_kept) >= _MOST_CONVERSATIONS:
        _kept.clear()
    keys: dict[SealKey, ConversationKey | None] = dict.fromkeys(kept.keys if kept else ())
    found = _kept_by_holds([key.conversation_id])
    keys |= {one: ConversationKey(secret) for one, secret in found.items()}
    _kept[key.conversation_id] = _Kept({key: None, **keys}, time.monotonic())
    return keys.get(key)


def forget_held_keys() -> None:
    """Let this process ask the database again."""
    _kept.clear()


def _is_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
