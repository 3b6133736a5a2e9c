"""What a turn counts for when it ends: in the figures of its version, and for its release's guards.

Trials count for nothing. Whoever counts has locked the reply, and doesn't hold the windows of its
budget yet. Guards come first: a turn may wait for them while they compare, and everybody's turns
that end would wait for it, were its rows of figures locked by then.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from conversations.models import Message
from prompts.figures import rollups
from prompts.figures.rollups import EndedTurn
from prompts.models import Arm
from prompts.release.arms import Pin
from prompts.release.tallies import tally_turn
from prompts.serving import meant_for

_FAILED = (Message.State.FAILED, Message.State.INTERRUPTED)


def ended_turn(
    reply: Message, changes: Mapping[str, Any] | None = None, **hits: int
) -> EndedTurn | None:
    """Return what a reply counts as with these columns changed; None where it doesn't count.

    `hits` are `policy_hits` and `personal_data_hits` of its last run. No query, but for one where
    another version had to serve.
    """
    if reply.prompt_version_id is None or reply.conversation.is_trial:
        return None
    known = {**vars(reply), **(changes or {})}
    return EndedTurn(
        reply.pk,
        reply.created_at,
        reply.prompt_version_id,
        reply.release_id,
        reply.arm or Arm.PRODUCTION,
        failed=known["state"] in _FAILED,
        refused=known["state"] == Message.State.REFUSED,
        completed=known["state"] == Message.State.COMPLETED,
        is_fallback=reply.is_fallback,
        missed_by=_missed_by(reply),
        tokens_in=known["tokens_in"],
        tokens_out=known["tokens_out"],
        cost_usd=known["cost_usd"],
        first_token_ms=known["first_token_ms"],
        duration_ms=known["duration_ms"],
        **hits,
    )


def _missed_by(reply: Message) -> UUID | None:
    """Return the version that was to serve, where another did."""
    if not reply.is_fallback:
        return None
    meant = meant_for(reply.conversation.template_id, Pin(reply.release_id, reply.arm))
    return None if meant == reply.prompt_version_id else meant


def goes_on(before: EndedTurn | None) -> None:
    """Take back what a reply counted as (`ended_turn`): it is continued, and will end again."""
    if before:
        rollups.count_turns([before], sign=-1)


def count_abandoned(replies: Sequence[Message]) -> None:
    """Count replies whose process died, row and object closed: errors of their version and arm."""
    for reply in sorted(filter(lambda each: each.release_id, replies), key=_place_of_tally):
        tally(reply, reply.state, duration_ms=reply.duration_ms, cost_usd=reply.cost_usd)
    turns = [turn for reply in replies if (turn := ended_turn(reply))]
    if turns:
        rollups.count_turns(turns)


def _place_of_tally(reply: Message) -> tuple[Any, ...]:
    """Order tallies as everybody does who writes several."""
    return reply.conversation.owner_id, reply.release_id, reply.arm


def tally(reply: Message, state: str, **figures_of_turn: Any) -> None:
    """Let the guards of its release count a turn that ended so. One statement."""
    assert reply.release_id is not None, "asked for turns of a release alone"
    tally_turn(
        reply.release_id,
        reply.arm,
        reply.conversation.owner_id,
        conversation_began=reply.conversation.created_at,
        failed=state in _FAILED or reply.is_fallback,
        refused=state == Message.State.REFUSED,
        completed=state == Message.State.COMPLETED,
        **figures_of_turn,
    )
