"""What must hold in the database when a fault is over: nothing is held, owned or owed."""

from collections.abc import Callable

from tests.faults.page import wait_until

Query = Callable[[str], list[tuple]]

_OPEN_REPLIES = "SELECT id FROM conversations_message WHERE state = 'streaming'"
_HELD = """
    SELECT m.id, m.state, r.amount_usd FROM conversations_reservation r
    JOIN conversations_message m ON m.id = r.reply_id WHERE r.settled_at IS NULL
"""
_OWNED = "SELECT id, runner_id FROM conversations_message WHERE runner_id IS NOT NULL"
# A window's replies, and the titles that were made after one: what was held last for a reply was
# then held for a title, whose cost is an estimate here (the provider counts nothing for titles).
_UNBALANCED = """
    WITH cost AS (
        SELECT c.id AS conversation, c.owner_id AS owner, coalesce(m.cost_usd, 0)
            + CASE WHEN r.reserved_at > m.ended_at
                THEN r.tokens_in_estimate * r.input_price / 1000000 ELSE 0 END AS usd
        FROM conversations_message m
        JOIN conversations_conversation c ON c.id = m.conversation_id
        LEFT JOIN conversations_reservation r ON r.reply_id = m.id
    ), stands AS (
        SELECT scope, subject, sum(spent_usd) AS spent, sum(reserved_usd) AS reserved
        FROM conversations_budgetwindow GROUP BY scope, subject
    ), owed AS (
        SELECT stands.*, (SELECT coalesce(sum(usd), 0) FROM cost
            WHERE subject IN (conversation, owner)) AS cost FROM stands
    )
    SELECT * FROM owed WHERE reserved <> 0 OR round(cost, 8) <> spent
"""
_UNCHARGED = """
    SELECT id, state, fault FROM conversations_message
    WHERE role = 'assistant' AND prompt_version_id IS NOT NULL AND cost_usd IS NULL
"""
# No constraint of the database watches these (`conversations.models`).
_DANGLING = """
    SELECT 'end of ' || id FROM conversations_conversation
        WHERE leaf_id NOT IN (SELECT id FROM conversations_message)
    UNION ALL SELECT 'parent of ' || id FROM conversations_message AS said WHERE NOT EXISTS (
        SELECT FROM conversations_message WHERE id = said.parent_id
            AND conversation_id = said.conversation_id) AND parent_id IS NOT NULL
    UNION ALL SELECT 'reply of feedback ' || id FROM conversations_feedback
        WHERE reply_id NOT IN (SELECT id FROM conversations_message)
    UNION ALL SELECT 'reply of reservation ' || reply_id FROM conversations_reservation
        WHERE reply_id NOT IN (SELECT id FROM conversations_message)
    UNION ALL SELECT 'window of reservation ' || reply_id FROM conversations_reservation
        WHERE NOT ARRAY[day_id, month_id, session_id] <@ ARRAY(
            SELECT id FROM conversations_budgetwindow)
"""
WRONG = {
    "pointers to what is gone": _DANGLING,
    "open replies": _OPEN_REPLIES,
    "reservations that were not settled": _HELD,
    "closed replies that a process owns": _OWNED,
    "windows that hold something, or whose sum is not what replies and titles cost": _UNBALANCED,
    "replies without a cost": _UNCHARGED,
}
SECONDS = 20.0


def check_books(query: Query) -> None:
    """Wait until nothing leaks any more; fail and name what does if that takes too long.

    A process is taken for dead after six silent seconds; then what it held is given back.
    """
    for what, statement in WRONG.items():
        wait_until(
            lambda statement=statement: not query(statement),
            lambda what=what, statement=statement: f"no {what}: {query(statement)[:3]}",
            SECONDS,
        )
