"""What guards know of a turn or a rating: counts per person, arm, step and window. No content.

`TALLY` is a single statement that belongs into the transaction that ends the turn or takes the
rating; `tally_turn` and `tally_rating` run it. It can stand in a statement of the caller's as well:
`WITH tally AS (TALLY) ...`, with `turn_values` among its parameters.

Counted is only what can be compared: conversations that began in the present step of a release that
is under way. In them the arm is what was drawn for the person in this step, and both arms' begin
alike, without a long history. The early access counts until the first share is drawn.

A person's turns fall into windows (`sequential.window_of`). A window that was compared is never
changed: what comes later falls into the next one. Two turns of a person that end in the same moment
may share a window that has room for one; that is a turn more in its mean.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection

# The size of a window: 1, 4, 20, 100 … as `sequential.window_size` has it.
_SIZE = "(CASE WHEN last.window = 0 THEN 1 ELSE 4 * 5 ^ (last.window - 1) END)"

TALLY = f"""
    INSERT INTO prompts_armtally AS tally
        (release_id, step, arm, person_id, kind, "window", count, errors, refusals, thumbs_down,
         completed, duration_ms, cost_usd)
    SELECT release.id, release.step, %(tally_arm)s, %(tally_person)s, %(tally_kind)s,
        COALESCE((
            SELECT CASE WHEN last.compared_at IS NULL AND last.count < {_SIZE}
                THEN last.window ELSE last.window + 1 END
            FROM prompts_armtally AS last
            WHERE last.release_id = release.id AND last.step = release.step
                AND last.arm = %(tally_arm)s AND last.person_id = %(tally_person)s
                AND last.kind = %(tally_kind)s
            ORDER BY last.window DESC LIMIT 1
        ), 0),
        1, %(tally_errors)s, %(tally_refusals)s, %(tally_downs)s,
        %(tally_completed)s, %(tally_ms)s, %(tally_usd)s
    FROM prompts_release AS release
    WHERE release.id = %(tally_release)s
        AND release.state IN ('early_access', 'canary', 'paused')
        AND release.step_began_at <= %(tally_began)s
        AND (release.share = 0 OR %(tally_arm)s <> 'early')
    ON CONFLICT (release_id, step, arm, person_id, kind, "window") DO UPDATE SET
        count = tally.count + 1,
        errors = tally.errors + EXCLUDED.errors,
        refusals = tally.refusals + EXCLUDED.refusals,
        thumbs_down = tally.thumbs_down + EXCLUDED.thumbs_down,
        completed = tally.completed + EXCLUDED.completed,
        duration_ms = tally.duration_ms + EXCLUDED.duration_ms,
        cost_usd = tally.cost_usd + EXCLUDED.cost_usd,
        changed_at = now()
    WHERE tally.compared_at IS NULL
"""  # noqa: S608 - our own names


def turn_values(  # noqa: PLR0913 - all are named
    release: UUID,
    arm: str,
    person: UUID,
    *,
    conversation_began: datetime,
    failed: bool,
    refused: bool,
    completed: bool,
    duration_ms: int,
    cost_usd: Decimal | None,
) -> dict[str, Any]:
    """Return the parameters of TALLY.

    `failed`: the reply failed, was interrupted, or another version had to serve.
    """
    return {
        **_whose(release, arm, person, conversation_began),
        "tally_kind": "turns",
        "tally_errors": int(failed),
        "tally_refusals": int(refused),
        "tally_downs": 0,
        "tally_completed": int(completed),
        "tally_ms": duration_ms if completed else 0,
        "tally_usd": (cost_usd or 0) if completed else 0,
    }


def rating_values(
    release: UUID, arm: str, person: UUID, *, conversation_began: datetime, is_down: bool
) -> dict[str, Any]:
    """Return the parameters of TALLY."""
    return {
        **_whose(release, arm, person, conversation_began),
        "tally_kind": "ratings",
        "tally_errors": 0,
        "tally_refusals": 0,
        "tally_downs": int(is_down),
        "tally_completed": 0,
        "tally_ms": 0,
        "tally_usd": 0,
    }


def _whose(release: UUID, arm: str, person: UUID, began: datetime) -> dict[str, Any]:
    return {
        "tally_release": release,
        "tally_arm": arm,
        "tally_person": person,
        "tally_began": began,
    }


def tally_turn(release: UUID, arm: str, person: UUID, **known: Any) -> None:
    """Count a turn that ended, as `turn_values` has it. One statement, of the caller's transaction.

    Call it for turns that take part in a release, and for no others.
    """
    _execute(TALLY, turn_values(release, arm, person, **known))


def tally_rating(release: UUID, arm: str, person: UUID, **known: Any) -> None:
    """Count the first rating of a reply, as `rating_values` has it. One statement.

    A rating that is changed later, or taken back, isn't followed: it may have been compared.
    """
    _execute(TALLY, rating_values(release, arm, person, **known))


def _execute(statement: str, values: dict[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
