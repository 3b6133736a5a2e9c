"""What a turn may cost: reserved before the provider is asked, settled when the reply ends.

A reply's cost counts in three windows at once: its conversation's session (begins with the first
charged turn, ends after the plan's hours, and the next turn begins another), its owner's day and
month (UTC). `reserve` holds the worst case, or what is left, in all three, by lowering the most
tokens the reply may have; it refuses only below a useful minimum. `settle` exchanges what was held
for what was used. So in every window spent + reserved never exceeds the limit, however many turns
begin at once, as long as a provider counts no more input than was estimated (`tokens`) and keeps to
the maximum of tokens; what it charges beyond that is charged here too, and the next turn sees it.

Both run inside the transaction that opens or closes the reply. Rows are locked in one order by
everybody: conversation or message first, then the reservation, then its windows by scope and key.
A transaction therefore reserves or settles once, and last.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from django.db import connection
from django.db.models import F, Q, QuerySet

from accounts.models import User
from conversations.models import BudgetWindow, Conversation, Message, Reservation
from conversations.turn.plans import Allowance, allowance_of
from conversations.turn.refusal import Refusal
from conversations.turn.tokens import estimated_tokens
from prompts.catalogue import Price
from prompts.provider import Usage

USEFUL_TOKENS = 200
"""A reply that may have fewer tokens than this is not begun."""

WARN_FROM = Decimal("0.8")
FORGOTTEN_AFTER = timedelta(minutes=30)

# The provider did no work: it was not reached, or turned the request down.
UNBILLED_FAULTS = frozenset(
    {"unreachable", "unauthorised", "rejected", "busy", "resting", "untrusted"}
)

_EXACT = Decimal("0.00000001")
_MILLION = 1_000_000
_MOST_TOKENS = 2**31 - 1

Scope = BudgetWindow.Scope


@dataclass(frozen=True, slots=True)
class Granted:
    """A reply may begin, with at most this many tokens; `amount` USD are held for it."""

    max_tokens: int
    amount: Decimal


# --- before the provider is asked --------------------------------------------------------------


def reserve(  # noqa: PLR0913 - all are named
    reply: Message,
    *,
    user: User,
    offer_price: Price | None,
    tokens_in_estimate: int,
    max_output_tokens: int,
    now: datetime,
    fallback_prices: Iterable[Price] = (),
) -> Granted:
    """Hold what the reply may cost, in the caller's transaction, and return its most tokens.

    `fallback_prices` are those of models that may answer in the offered one's place: what is held
    covers the dearest. A reply that is continued reserves anew. Raises Refusal: `price_unknown`,
    or `budget_spent` with the seconds until it renews. Five queries, six when a session begins; one
    more for an account that came without its roles.
    """
    if offer_price is None:
        raise _price_unknown()
    allowance = allowance_of(user)
    windows = _locked_windows(user.pk, reply.conversation_id, allowance, now)
    limited = [
        (window, limit) for window in windows if (limit := allowance.of(window.scope)) is not None
    ]
    wish = _Wish(_dearest([offer_price, *fallback_prices]), tokens_in_estimate, max_output_tokens)
    granted = _granted(limited, wish, now)
    BudgetWindow.objects.filter(pk__in=[window.pk for window in windows]).update(
        reserved_usd=F("reserved_usd") + granted.amount
    )
    day, month, session = windows
    reservation = Reservation(
        reply=reply,
        day=day,
        month=month,
        session=session,
        amount_usd=granted.amount,
        model=reply.model,
        input_price=offer_price.input,
        cached_input_price=offer_price.cached_input,
        output_price=offer_price.output,
        tokens_in_estimate=tokens_in_estimate,
        tokens_written_before=_tokens_written(reply),
        reserved_at=now,
    )
    if not _hold(reservation):
        # A process of a release that knew no budgets closed the reply's last run.
        settle(reply, None, now=now)
        _hold(reservation)
    return granted


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a reply would like to have."""

    price: Price
    tokens_in: int
    max_output: int

    @property
    def told_usd(self) -> Decimal:
        dearest = max(self.price.input, self.price.cached_input)
        return self.tokens_in * dearest / _MILLION

    @property
    def token_usd(self) -> Decimal:
        """The price of one token of the reply."""
        return self.price.output / _MILLION

    def usd(self, max_tokens: int) -> Decimal:
        """Return the worst case with so many tokens, rounded up to what is stored."""
        return (self.told_usd + max_tokens * self.token_usd).quantize(_EXACT, ROUND_CEILING)


def _granted(
    limited: Sequence[tuple[BudgetWindow, Decimal]], wish: _Wish, now: datetime
) -> Granted:
    """Return what fits into all windows that are limited. Raises Refusal."""
    least = wish.usd(min(USEFUL_TOKENS, wish.max_output))
    short = [(window, limit) for window, limit in limited if _left(window, limit) < least]
    if short:
        # All must have room again: tell of the one that waiting helps least.
        window, limit = max(short, key=lambda pair: _obstacle(pair[0], pair[1], least))
        raise _budget_spent(window, limit, least, now)
    max_tokens = wish.max_output
    if limited and wish.token_usd:
        left = min(_left(window, limit) for window, limit in limited)
        max_tokens = min(max_tokens, int((left - wish.told_usd) / wish.token_usd))
    return Granted(max_tokens, wish.usd(max_tokens))


def _obstacle(window: BudgetWindow, limit: Decimal, least: Decimal) -> tuple[bool, bool, datetime]:
    """Order windows by what stands against `least` USD: too small, spent, or held by others."""
    return least > limit, limit - window.spent_usd < least, window.ends_at


def _left(window: BudgetWindow, limit: Decimal) -> Decimal:
    # A limit may have been lowered below what was spent.
    return max(limit - window.spent_usd - window.reserved_usd, Decimal(0))


def _dearest(prices: Sequence[Price]) -> Price:
    return Price(
        max(price.input for price in prices),
        max(price.cached_input for price in prices),
        max(price.output for price in prices),
    )


# Inserts or locks, day before month: a conflicting row is "updated" to itself, which locks it.
_CALENDAR_WINDOWS = """
    INSERT INTO conversations_budgetwindow
        (scope, subject, starts_at, ends_at, spent_usd, reserved_usd)
    VALUES ('day', %(user)s, %(day)s, %(day_ends)s, 0, 0),
        ('month', %(user)s, %(month)s, %(month_ends)s, 0, 0)
    ON CONFLICT (scope, subject, starts_at) DO UPDATE SET ends_at = EXCLUDED.ends_at
    RETURNING *
"""


def _locked_windows(
    user_id: uuid.UUID, conversation_id: uuid.UUID, allowance: Allowance, now: datetime
) -> list[BudgetWindow]:
    """Return the windows that `now` falls into, locked; those that are missing begin here."""
    day, month = _day_of(now), _month_of(now)
    times = {"day": day[0], "day_ends": day[1], "month": month[0], "month_ends": month[1]}
    windows = list(BudgetWindow.objects.raw(_CALENDAR_WINDOWS, {"user": user_id, **times}))
    # The locks above are the account's, so that no two sessions of a conversation begin at once.
    session = _running_session(conversation_id, now).select_for_update().first()
    if session is None:
        session = BudgetWindow.objects.create(
            scope=Scope.SESSION,
            subject=conversation_id,
            starts_at=now,
            ends_at=now + timedelta(hours=allowance.session_hours),
        )
    return sorted([*windows, session], key=lambda window: window.scope)


def _running_session(conversation_id: uuid.UUID, now: datetime) -> QuerySet[BudgetWindow]:
    running = BudgetWindow.objects.filter(
        scope=Scope.SESSION, subject=conversation_id, ends_at__gt=now
    )
    return running.order_by("-starts_at")


def _day_of(now: datetime) -> tuple[datetime, datetime]:
    start = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return start, start + timedelta(days=1)


def _month_of(now: datetime) -> tuple[datetime, datetime]:
    start = _day_of(now)[0].replace(day=1)
    return start, (start + timedelta(days=31)).replace(day=1)


_HOLD = """
    INSERT INTO conversations_reservation
        (reply_id, day_id, month_id, session_id, amount_usd, model, input_price,
         cached_input_price, output_price, tokens_in_estimate, tokens_written_before, reserved_at)
    VALUES (%(reply_id)s, %(day_id)s, %(month_id)s, %(session_id)s, %(amount_usd)s, %(model)s,
        %(input_price)s, %(cached_input_price)s, %(output_price)s, %(tokens_in_estimate)s,
        %(tokens_written_before)s, %(reserved_at)s)
    ON CONFLICT (reply_id) DO UPDATE SET
        day_id = EXCLUDED.day_id, month_id = EXCLUDED.month_id, session_id = EXCLUDED.session_id,
        amount_usd = EXCLUDED.amount_usd, model = EXCLUDED.model,
        input_price = EXCLUDED.input_price, cached_input_price = EXCLUDED.cached_input_price,
        output_price = EXCLUDED.output_price, tokens_in_estimate = EXCLUDED.tokens_in_estimate,
        tokens_written_before = EXCLUDED.tokens_written_before,
        reserved_at = EXCLUDED.reserved_at, settled_at = NULL
    WHERE conversations_reservation.settled_at IS NOT NULL
"""


def _hold(reservation: Reservation) -> bool:
    """Store it, over the settled one of an earlier run; False, and nothing, over an open one."""
    columns = {
        field.attname: getattr(reservation, field.attname)
        for field in Reservation._meta.concrete_fields
    }
    with connection.cursor() as cursor:
        cursor.execute(_HOLD, columns)
        return bool(cursor.rowcount)


def _tokens_written(reply: Message) -> int:
    return estimated_tokens(reply.content) + estimated_tokens(reply.thinking)


# --- when the reply has ended ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Charge:
    """What one run of a reply cost; `estimated` holds tokens that nobody counted."""

    usd: Decimal
    estimated: Usage | None = None


def settle(
    reply: Message, usage: Usage | None, *, now: datetime, price: Price | None = None
) -> Decimal | None:
    """Charge what the reply used and release what was held for it, in the caller's transaction.

    Call it after the guarded update that closed the reply, whose columns `reply` holds. `price` is
    that of the model that answered, where it was not the one offered. Without usage (stopped,
    killed, not reported) the tokens are estimated from the text and the reply is marked. The cost
    is added to the reply, row and object, and returned; None when there was nothing to settle, as
    the second time. Four queries.
    """
    for reservation in _claimed([reply], now):
        charge = _charge(reply, reservation, usage, price)
        _exchange([(reservation, charge)])
        _write(reply, charge)
        return charge.usd
    return None


def settle_title(reply: Message, usage: Usage | None, *, now: datetime) -> None:
    """Charge what a title used that was made after `reply`; the reply's own cost stays."""
    for reservation in _claimed([reply], now):
        _exchange([(reservation, _charge(reply, reservation, usage, None))])


def settle_abandoned(replies: Sequence[Message], *, now: datetime) -> None:
    """Settle replies whose process died, by estimate, in the transaction that closed them.

    All at once and after all of them were closed: the windows of several people are locked here,
    and two processes that clear up may not do so in different orders.
    """
    by_id = {reply.pk: reply for reply in replies}
    charged = [
        (reservation, _charge(by_id[reservation.reply_id], reservation, None, None))
        for reservation in _claimed(replies, now)
    ]
    _exchange(charged)
    for reservation, charge in charged:
        _write(by_id[reservation.reply_id], charge)


def settle_forgotten(*, now: datetime) -> None:
    """Settle what a process held for titles when it died: their replies were closed before."""
    held = Q(reservation__settled_at=None, reservation__reserved_at__lt=now - FORGOTTEN_AFTER)
    closed = Message.objects.filter(held).exclude(state=Message.State.STREAMING)
    by_id = {reply.pk: reply for reply in closed.order_by("pk")[:100]}
    _exchange(
        [
            (reservation, _charge(by_id[reservation.reply_id], reservation, None, None))
            for reservation in _claimed(list(by_id.values()), now)
        ]
    )


_CLAIM = """
    UPDATE conversations_reservation SET settled_at = %s
    WHERE reply_id = ANY(%s) AND settled_at IS NULL RETURNING *
"""


def _claimed(replies: Sequence[Message], now: datetime) -> list[Reservation]:
    """Return the open reservations of these replies, marked as settled: each comes once."""
    return list(Reservation.objects.raw(_CLAIM, [now, [reply.pk for reply in replies]]))


def _charge(
    reply: Message, reservation: Reservation, usage: Usage | None, price: Price | None
) -> _Charge:
    price = price or Price(
        reservation.input_price, reservation.cached_input_price, reservation.output_price
    )
    if usage and _is_plausible(usage):
        return _Charge(_cost(price, usage))
    written = max(0, _tokens_written(reply) - reservation.tokens_written_before)
    if not written and reply.fault in UNBILLED_FAULTS:
        return _Charge(Decimal(0))
    estimated = Usage(reservation.tokens_in_estimate, 0, written)
    # An estimate takes no more than was set aside for it.
    return _Charge(min(_cost(price, estimated), reservation.amount_usd), estimated)


def _cost(price: Price, usage: Usage) -> Decimal:
    """Return the cost in USD, to what is stored."""
    exact = price.cost(usage.tokens_in, usage.tokens_cached, usage.tokens_out)
    return exact.quantize(_EXACT, ROUND_HALF_EVEN)


def _is_plausible(usage: Usage) -> bool:
    return (
        0 <= usage.tokens_cached <= usage.tokens_in <= _MOST_TOKENS
        and 0 <= usage.tokens_out <= _MOST_TOKENS
    )


def _exchange(charged: Sequence[tuple[Reservation, _Charge]]) -> None:
    """Let go of what was reserved and count what was spent, in all windows."""
    ids = {pk for reservation, _ in charged for pk in _window_ids(reservation)}
    locked = BudgetWindow.objects.select_for_update().filter(pk__in=ids).order_by("scope", "pk")
    list(locked.values_list("pk"))
    for reservation, charge in charged:
        BudgetWindow.objects.filter(pk__in=_window_ids(reservation)).update(
            reserved_usd=F("reserved_usd") - reservation.amount_usd,
            spent_usd=F("spent_usd") + charge.usd,
        )


def _window_ids(reservation: Reservation) -> tuple[int, int, int]:
    return reservation.day_id, reservation.month_id, reservation.session_id


def _write(reply: Message, charge: _Charge) -> None:
    """Add the cost, and tokens that were estimated, to what earlier runs of the reply cost."""
    reply.cost_usd = (reply.cost_usd or Decimal(0)) + charge.usd
    names = ["cost_usd"]
    if charge.estimated:
        reply.tokens_in = (reply.tokens_in or 0) + charge.estimated.tokens_in
        reply.tokens_out = (reply.tokens_out or 0) + charge.estimated.tokens_out
        reply.usage_estimated = True
        names += ["tokens_in", "tokens_out", "usage_estimated"]
    Message.objects.filter(pk=reply.pk).update(**{name: getattr(reply, name) for name in names})


# --- what people are told ----------------------------------------------------------------------


class Standing(NamedTuple):
    """How a window stands, in USD. `limit` is None where nothing limits it, `renews_at` while no
    session runs."""

    window: str
    limit: Decimal | None
    spent: Decimal
    reserved: Decimal
    renews_at: datetime | None


def standing(
    user: User, conversation: Conversation, *, now: datetime | None = None
) -> list[Standing]:
    """Return how the session, the day and the month stand. Two queries, nothing is locked."""
    now = now or datetime.now(UTC)
    allowance = allowance_of(user)
    calendar = Q(scope=Scope.DAY, starts_at=_day_of(now)[0]) | Q(
        scope=Scope.MONTH, starts_at=_month_of(now)[0]
    )
    session = Q(scope=Scope.SESSION, subject=conversation.pk, ends_at__gt=now)
    found = BudgetWindow.objects.filter(calendar & Q(subject=user.pk) | session)
    by_scope = {window.scope: window for window in found.order_by("starts_at")}
    ends = {Scope.SESSION: None, Scope.DAY: _day_of(now)[1], Scope.MONTH: _month_of(now)[1]}
    return [
        _standing_of(scope, allowance.of(scope), by_scope.get(scope), ends_at)
        for scope, ends_at in ends.items()
    ]


def _standing_of(
    scope: str, limit: Decimal | None, window: BudgetWindow | None, ends_at: datetime | None
) -> Standing:
    if window is None:
        return Standing(scope, limit, Decimal(0), Decimal(0), ends_at)
    return Standing(scope, limit, window.spent_usd, window.reserved_usd, window.ends_at)


_NAMES = {
    Scope.SESSION: "This conversation's budget",
    Scope.DAY: "Your budget for today",
    Scope.MONTH: "Your budget for this month",
}


def warning_for(user: User, conversation: Conversation, *, now: datetime | None = None) -> str:
    """Return a sentence when a window is nearly or wholly spent, else nothing. Two queries."""
    limited = [
        (one.spent / one.limit, one)
        for one in standing(user, conversation, now=now)
        if one.limit and one.spent >= WARN_FROM * one.limit
    ]
    if not limited:
        return ""
    share, fullest = max(limited, key=lambda pair: pair[0])
    assert fullest.limit is not None, "only limited windows are looked at"
    renews = f" It renews {_when(fullest.renews_at)}." if fullest.renews_at else ""
    used = "is used up" if share >= 1 else f"is {int(share * 100)} % used"
    return f"{_NAMES[Scope(fullest.window)]} of {_usd(fullest.limit)} {used}.{renews}"


def _price_unknown() -> Refusal:
    return Refusal(
        "price_unknown",
        "This model has no price yet.",
        "Without one nobody can say what a reply costs, so nothing was sent."
        " An administrator has to set the model's price; until then choose another model.",
    )


def _budget_spent(window: BudgetWindow, limit: Decimal, least: Decimal, now: datetime) -> Refusal:
    """Return the refusal for a window that has not even `least` USD left."""
    scope, seconds = Scope(window.scope), None
    is_too_small, is_spent, ends_at = _obstacle(window, limit, least)
    if is_too_small:  # it will not fit into a new window either
        headline = "This turn would cost more than its budget allows."
        sentence = (
            f"{_NAMES[scope]} is {_usd(limit)}. A shorter message or a new conversation costs less;"
            " an administrator can raise the budget."
        )
    elif is_spent:
        headline = f"{_NAMES[scope]} is used up."
        beside = " Or begin a new conversation." if scope == Scope.SESSION else ""
        sentence = f"It renews {_when(ends_at)}; an administrator can raise it.{beside}"
        seconds = max(1.0, (ends_at - now).total_seconds())
    else:
        headline = "Other replies hold the rest of your budget."
        sentence = "Send it when they have ended: what they don't use becomes free again."
    return Refusal("budget_spent", headline, f"{sentence} Nothing was sent.", retry_after=seconds)


def _when(moment: datetime) -> str:
    return f"on {moment.astimezone(UTC):%-d %B %Y at %H:%M} UTC"


def _usd(amount: Decimal) -> str:
    """Return an amount in dollars and cents, or finer where it is."""
    rounded = amount.quantize(Decimal("0.01"))
    return f"${rounded if rounded == amount else amount.normalize():f}"
