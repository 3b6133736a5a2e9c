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

The statements are written out: through Django's models each would cost this process more than it
costs the database, and the windows would take one more.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Q

from accounts.models import User
from conversations.models import BudgetWindow, Conversation, Message
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
    or `budget_spent` with the seconds until it renews. Two queries, three when a session begins;
    one more for an account that came without its roles.
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
    wanted = {
        **_ids_by_scope(windows),
        "reply": reply.pk,
        "amount": granted.amount,
        "model": reply.model,
        "input": offer_price.input,
        "cached_input": offer_price.cached_input,
        "output": offer_price.output,
        "tokens_in": tokens_in_estimate,
        "tokens_before": _tokens_written(reply),
        "now": now,
    }
    if not _held(wanted):
        # A process of a release that knew no budgets closed the reply's last run.
        settle(reply, None, now=now)
        _held(wanted)
    return granted


class _Window(NamedTuple):
    """A locked row of BudgetWindow."""

    id: int
    scope: str
    ends_at: datetime
    spent_usd: Decimal
    reserved_usd: Decimal


_WINDOW = ", ".join(_Window._fields)


def _ids_by_scope(windows: Iterable[_Window]) -> dict[str, int]:
    return {window.scope: window.id for window in windows}


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


def _granted(limited: Sequence[tuple[_Window, Decimal]], wish: _Wish, now: datetime) -> Granted:
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


def _obstacle(window: _Window, limit: Decimal, least: Decimal) -> tuple[bool, bool, datetime]:
    """Order windows by what stands against `least` USD: too small, spent, or held by others."""
    return least > limit, limit - window.spent_usd < least, window.ends_at


def _left(window: _Window, limit: Decimal) -> Decimal:
    # A limit may have been lowered below what was spent.
    return max(limit - window.spent_usd - window.reserved_usd, Decimal(0))


def _dearest(prices: Sequence[Price]) -> Price:
    return Price(
        max(price.input for price in prices),
        max(price.cached_input for price in prices),
        max(price.output for price in prices),
    )


# Day, month, session: locked in this order, since the session waits for the count of the others. A
# calendar window that exists is "updated" to itself, which locks it.
_LOCK = f"""
    WITH calendar AS (
        INSERT INTO conversations_budgetwindow
            (scope, subject, starts_at, ends_at, spent_usd, reserved_usd)
        VALUES ('day', %(user)s, %(day)s, %(day_ends)s, 0, 0),
            ('month', %(user)s, %(month)s, %(month_ends)s, 0, 0)
        ON CONFLICT (scope, subject, starts_at) DO UPDATE SET ends_at = EXCLUDED.ends_at
        RETURNING {_WINDOW}
    ), running AS (
        SELECT {_WINDOW} FROM conversations_budgetwindow
        WHERE scope = 'session' AND subject = %(conversation)s AND ends_at > %(now)s
            AND (SELECT count(*) FROM calendar) = 2
        ORDER BY starts_at DESC LIMIT 1 FOR UPDATE
    )
    SELECT * FROM calendar UNION ALL SELECT * FROM running
"""  # noqa: S608 - our own names, as in all that follow

# The locks on the account's windows let one session of a conversation begin at a time. Another that
# began while we waited for them is seen here: this statement is younger than the locks.
_BEGIN_SESSION = f"""
    WITH running AS (
        SELECT {_WINDOW} FROM conversations_budgetwindow
        WHERE scope = 'session' AND subject = %(conversation)s AND ends_at > %(now)s
        ORDER BY starts_at DESC LIMIT 1 FOR UPDATE
    ), begun AS (
        INSERT INTO conversations_budgetwindow
            (scope, subject, starts_at, ends_at, spent_usd, reserved_usd)
        SELECT 'session', %(conversation)s, %(now)s, %(session_ends)s, 0, 0
        WHERE NOT EXISTS (SELECT FROM running)
        RETURNING {_WINDOW}
    )
    SELECT * FROM running UNION ALL SELECT * FROM begun
"""  # noqa: S608


def _locked_windows(
    user_id: uuid.UUID, conversation_id: uuid.UUID, allowance: Allowance, now: datetime
) -> list[_Window]:
    """Return the windows that `now` falls into, locked; those that are missing begin here."""
    (day, day_ends), (month, month_ends) = _day_of(now), _month_of(now)
    values: dict[str, Any] = {
        "user": user_id,
        "conversation": conversation_id,
        "now": now,
        "day": day,
        "day_ends": day_ends,
        "month": month,
        "month_ends": month_ends,
        "session_ends": now + timedelta(hours=allowance.session_hours),
    }
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, values)
        windows = [_Window(*row) for row in cursor.fetchall()]
        if Scope.SESSION not in _ids_by_scope(windows):
            cursor.execute(_BEGIN_SESSION, values)
            windows += [_Window(*row) for row in cursor.fetchall()]
    return windows


def _day_of(now: datetime) -> tuple[datetime, datetime]:
    start = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return start, start + timedelta(days=1)


def _month_of(now: datetime) -> tuple[datetime, datetime]:
    start = _day_of(now)[0].replace(day=1)
    return start, (start + timedelta(days=31)).replace(day=1)


_HOLD = """
    WITH held AS (
        INSERT INTO conversations_reservation
            (reply_id, day_id, month_id, session_id, amount_usd, model, input_price,
             cached_input_price, output_price, tokens_in_estimate, tokens_written_before,
             reserved_at)
        VALUES (%(reply)s, %(day)s, %(month)s, %(session)s, %(amount)s, %(model)s, %(input)s,
            %(cached_input)s, %(output)s, %(tokens_in)s, %(tokens_before)s, %(now)s)
        ON CONFLICT (reply_id) DO UPDATE SET
            day_id = EXCLUDED.day_id, month_id = EXCLUDED.month_id,
            session_id = EXCLUDED.session_id, amount_usd = EXCLUDED.amount_usd,
            model = EXCLUDED.model, input_price = EXCLUDED.input_price,
            cached_input_price = EXCLUDED.cached_input_price,
            output_price = EXCLUDED.output_price,
            tokens_in_estimate = EXCLUDED.tokens_in_estimate,
            tokens_written_before = EXCLUDED.tokens_written_before,
            reserved_at = EXCLUDED.reserved_at, settled_at = NULL
        WHERE conversations_reservation.settled_at IS NOT NULL
        RETURNING reply_id
    )
    UPDATE conversations_budgetwindow SET reserved_usd = reserved_usd + %(amount)s
    WHERE id IN (%(day)s, %(month)s, %(session)s) AND EXISTS (SELECT FROM held)
"""


def _held(wanted: Mapping[str, Any]) -> bool:
    """Hold it in locked windows, over the settled reservation of an earlier run.

    False, and nothing, over an open one.
    """
    with connection.cursor() as cursor:
        cursor.execute(_HOLD, wanted)
        return bool(cursor.rowcount)


def _tokens_written(reply: Message) -> int:
    return estimated_tokens(reply.shown_content or "") + estimated_tokens(reply.shown_thinking)


# --- when the reply has ended ------------------------------------------------------------------


class Held(NamedTuple):
    """What a reservation says: taken by `claim` or `_claimed`, each comes once."""

    reply_id: uuid.UUID
    day_id: int
    month_id: int
    session_id: int
    amount_usd: Decimal
    input_price: Decimal
    cached_input_price: Decimal
    output_price: Decimal
    tokens_in_estimate: int
    tokens_written_before: int

    @property
    def price(self) -> Price:
        """The price of the model that was offered, as it was then."""
        return Price(self.input_price, self.cached_input_price, self.output_price)

    @property
    def window_ids(self) -> tuple[int, int, int]:
        """The rows in which it is held."""
        return self.day_id, self.month_id, self.session_id


_HELD = ", ".join(Held._fields)


class Charge(NamedTuple):
    """What one run of a reply cost, and the tokens that are charged; None where no work was done.

    `is_estimated` when nobody counted them.
    """

    usd: Decimal
    usage: Usage | None
    is_estimated: bool


class Spent(NamedTuple):
    """How a window stands that was charged, in USD."""

    scope: str
    spent_usd: Decimal
    reserved_usd: Decimal
    ends_at: datetime


_CLAIM_OPEN = f"""
    WITH owned AS (
        SELECT id FROM conversations_message
        WHERE id = %(reply)s AND fence = %(fence)s AND state = 'streaming' FOR UPDATE
    ), claimed AS (
        UPDATE conversations_reservation SET settled_at = %(now)s FROM owned
        WHERE reply_id = owned.id AND settled_at IS NULL RETURNING {_HELD}
    )
    SELECT claimed.* FROM owned LEFT JOIN claimed ON TRUE
"""  # noqa: S608


class FenceLost(Exception):
    """The reply was ended by somebody else, or is written by another run."""


def claim(reply: Message, *, now: datetime) -> Held | None:
    """Lock an open reply under its fence, and take what is held for it. Raises FenceLost.

    What was taken must be exchanged in the same transaction. None where nothing was held. One
    query.
    """
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM_OPEN, {"reply": reply.pk, "fence": reply.fence, "now": now})
        row = cursor.fetchone()
    if row is None:
        raise FenceLost
    return None if row[0] is None else Held(*row)


def charge_for(
    held: Held, usage: Usage | None, *, written: int, fault: str = "", price: Price | None = None
) -> Charge:
    """Return what is to be charged for what was held.

    Without usage (stopped, killed, not reported) the tokens are estimated: `written` are those of
    the reply as it is now. `price` is that of the model that answered, where it was not the one
    offered.
    """
    price = price or held.price
    if usage and _is_plausible(usage):
        return Charge(_cost(price, usage), usage, is_estimated=False)
    new = max(0, written - held.tokens_written_before)
    if not new and fault in UNBILLED_FAULTS:
        return Charge(Decimal(0), None, is_estimated=False)
    estimated = Usage(held.tokens_in_estimate, 0, new)
    # An estimate takes no more than was set aside for it.
    usd = min(_cost(price, estimated), held.amount_usd)
    return Charge(usd, estimated, is_estimated=True)


def settle(
    reply: Message, usage: Usage | None, *, now: datetime, price: Price | None = None
) -> Decimal | None:
    """Charge a reply that is closed already, row and object; arguments are those of `charge_for`.

    The cost is added to the reply and returned; None when there was nothing to settle, as the
    second time. Three queries.
    """
    for held in _claimed([reply], now):
        charged = charge_for(
            held, usage, written=_tokens_written(reply), fault=reply.fault, price=price
        )
        exchange([(held, charged)])
        _write(reply, charged)
        return charged.usd
    return None


def settle_title(reply: Message, usage: Usage | None, *, now: datetime) -> None:
    """Charge what a title used that was made after `reply`; the reply's own cost stays."""
    for held in _claimed([reply], now):
        written = _tokens_written(reply)
        exchange([(held, charge_for(held, usage, written=written, fault=reply.fault))])


def claim_abandoned(replies: Sequence[Message], *, now: datetime) -> list[tuple[Held, Charge]]:
    """Take what is held for replies whose process died, and write their cost, by estimate.

    In the transaction that closed them. What is returned must be exchanged at its end, all at once:
    the windows of several people are locked then, and two processes that clear up may not do so in
    different orders.
    """
    by_id = {reply.pk: reply for reply in replies}
    estimated = _estimated(by_id, now)
    for held, charged in estimated:
        _write(by_id[held.reply_id], charged)
    return estimated


def settle_forgotten(*, now: datetime) -> None:
    """Settle what was held for titles and never given back: their replies were closed before."""
    forgotten = Q(reservation__settled_at=None, reservation__reserved_at__lt=now - FORGOTTEN_AFTER)
    closed = Message.objects.filter(forgotten).exclude(state=Message.State.STREAMING)
    settle_titles(closed.order_by("pk")[:100], now=now)


def settle_titles(replies: Iterable[Message], *, now: datetime) -> None:
    """Settle by estimate what is held for titles that nobody makes any more."""
    exchange(_estimated({reply.pk: reply for reply in replies}, now))


def _estimated(by_id: Mapping[uuid.UUID, Message], now: datetime) -> list[tuple[Held, Charge]]:
    """Take what is held for these replies, and return it with what they are charged."""
    charged = []
    for held in _claimed(list(by_id.values()), now):
        reply = by_id[held.reply_id]
        written = _tokens_written(reply)
        charged.append((held, charge_for(held, None, written=written, fault=reply.fault)))
    return charged


_CLAIM = f"""
    UPDATE conversations_reservation SET settled_at = %s
    WHERE reply_id = ANY(%s) AND settled_at IS NULL RETURNING {_HELD}
"""  # noqa: S608


def _claimed(replies: Sequence[Message], now: datetime) -> list[Held]:
    """Return what is held for these replies, marked as settled."""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, [now, [reply.pk for reply in replies]])
        return [Held(*row) for row in cursor.fetchall()]


def _cost(price: Price, usage: Usage) -> Decimal:
    """Return the cost in USD, to what is stored."""
    exact = price.cost(usage.tokens_in, usage.tokens_cached, usage.tokens_out)
    return exact.quantize(_EXACT, ROUND_HALF_EVEN)


def _is_plausible(usage: Usage) -> bool:
    return (
        0 <= usage.tokens_cached <= usage.tokens_in <= _MOST_TOKENS
        and 0 <= usage.tokens_out <= _MOST_TOKENS
    )


_EXCHANGE = """
    WITH locked AS (
        SELECT id FROM conversations_budgetwindow WHERE id = ANY(%(ids)s)
        ORDER BY scope, id FOR UPDATE
    )
    UPDATE conversations_budgetwindow AS budget
    SET reserved_usd = budget.reserved_usd - charged.held,
        spent_usd = budget.spent_usd + charged.used
    FROM locked, unnest(%(ids)s, %(held)s, %(used)s) AS charged (id, held, used)
    WHERE budget.id = locked.id AND charged.id = locked.id
    RETURNING budget.scope, budget.spent_usd, budget.reserved_usd, budget.ends_at
"""


def exchange(charged: Iterable[tuple[Held, Charge]]) -> list[Spent]:
    """Let go of what was held and count what was spent; return how the windows stand then.

    The last of the transaction, for the order of locks. One query.
    """
    sums: dict[int, tuple[Decimal, Decimal]] = {}
    for reservation, cost in charged:
        for pk in reservation.window_ids:
            held, used = sums.get(pk, (Decimal(0), Decimal(0)))
            sums[pk] = held + reservation.amount_usd, used + cost.usd
    if not sums:
        return []
    amounts = {
        "held": [held for held, _ in sums.values()],
        "used": [used for _, used in sums.values()],
    }
    with connection.cursor() as cursor:
        cursor.execute(_EXCHANGE, {"ids": list(sums), **amounts})
        return [Spent(*row) for row in cursor.fetchall()]


def _write(reply: Message, charged: Charge) -> None:
    """Add the cost, and tokens that were estimated, to what earlier runs of the reply cost."""
    reply.cost_usd = (reply.cost_usd or Decimal(0)) + charged.usd
    names = ["cost_usd"]
    if charged.usage and charged.is_estimated:
        reply.tokens_in = (reply.tokens_in or 0) + charged.usage.tokens_in
        reply.tokens_out = (reply.tokens_out or 0) + charged.usage.tokens_out
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
    """Return how the session, the day and the month stand. One query, nothing is locked."""
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
    """Return a sentence when a window is nearly or wholly spent, else nothing. One query."""
    return _warning(standing(user, conversation, now=now))


def warning_after(user: User, windows: Iterable[Spent], *, now: datetime) -> str:
    """Return the same from the windows as `exchange` left them, those that still last. No query."""
    allowance = allowance_of(user)
    return _warning(
        Standing(each.scope, allowance.of(each.scope), *each[1:])
        for each in windows
        if each.ends_at > now
    )


def _warning(windows: Iterable[Standing]) -> str:
    limited = [
        (one.spent / one.limit, one)
        for one in windows
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


def _budget_spent(window: _Window, limit: Decimal, least: Decimal, now: datetime) -> Refusal:
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
