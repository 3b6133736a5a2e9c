"""What people think of replies: a thumb, reasons for it, words about it. For pages and programs.

    rate(user, conversation_id, reply_id, Opinion(Rating.DOWN, ["wrong"], "Not what it says."))
    unrate(user, conversation_id, reply_id)

A first rating is told to the guards of a release and to who watches a live prompt; each rating,
change and withdrawal to the figures of the version. They learn the thumb alone. The log learns
thumb and reasons. The words are sealed under the key of the reply and go with it.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import transaction

from accounts.models import User
from audit.trail import record
from chatbot import telemetry
from conversations.models import Conversation, Feedback, Message, Rating
from prompts import drift
from prompts.figures import rollups
from prompts.models import Arm
from prompts.release import tallies

MAX_COMMENT_CHARACTERS = 4000


class UnfitOpinion(ValueError):
    """Something in an opinion can't be kept. The message is a sentence for who holds it.

    `part` is "reasons" or "comment".
    """

    def __init__(self, part: str, sentence: str) -> None:
        super().__init__(sentence)
        self.part = part


@dataclass(frozen=True, slots=True)
class Opinion:
    """What is thought of a reply.

    None leaves what is kept already: the words, and the reasons as long as the thumb stays.
    """

    rating: Rating
    reasons: Sequence[str] | None = None
    comment: str | None = None

    def check(self) -> None:
        """Raises UnfitOpinion."""
        fitting = list(map(str, self.rating.reasons))
        if any(reason not in fitting for reason in self.reasons or ()):
            known = ", ".join(fitting)
            raise UnfitOpinion("reasons", f"The reasons of a thumb {self.rating} are: {known}.")
        comment = self.comment or ""
        if len(comment) > MAX_COMMENT_CHARACTERS:
            most = f"{MAX_COMMENT_CHARACTERS:,}"
            raise UnfitOpinion(
                "comment", f"The comment is too long: {len(comment):,} of {most} characters."
            )
        if "\0" in comment:
            raise UnfitOpinion("comment", "The comment holds a NUL character; take it out.")


@transaction.atomic
def rate(user: User, conversation_id: uuid.UUID, reply_id: uuid.UUID, opinion: Opinion) -> Feedback:
    """Keep what somebody thinks of a reply in their conversation, in place of what was kept.

    Raises UnfitOpinion, and DoesNotExist of a conversation or message; so it does where nothing can
    be sealed any more.
    """
    opinion.check()
    reply = _reply(user, conversation_id, reply_id)
    if not reply.takes_text:
        raise Message.DoesNotExist
    kept = Feedback.objects.filter(reply=reply).first()
    feedback = kept or Feedback(reply=reply)
    feedback.reply = reply
    before = _known(feedback) if kept else None
    _change(feedback, opinion)
    if _known(feedback) == before:
        return feedback
    feedback.save()
    _count(feedback, before[0] if before else None)
    record(
        user,
        "feedback.given",
        reply.conversation,
        turn=reply.pk,
        reply=str(reply.pk),
        rating=str(feedback.rating),
        reasons=feedback.reasons,
    )
    return feedback


@transaction.atomic
def unrate(user: User, conversation_id: uuid.UUID, reply_id: uuid.UUID) -> Message:
    """Take the rating of a reply back, if there is one; return the reply.

    Raises DoesNotExist of a conversation or message.
    """
    reply = _reply(user, conversation_id, reply_id)
    kept = Feedback.objects.filter(reply=reply).first()
    if kept:
        kept.delete()
        _count_in_figures(reply, kept.created_at, kept.rating, None)
        record(user, "feedback.withdrawn", reply.conversation, turn=reply.pk, reply=str(reply.pk))
    return reply


def _reply(user: User, conversation_id: uuid.UUID, reply_id: uuid.UUID) -> Message:
    """Return the reply, locked: who rates it in two places at once is heard one by one."""
    conversation = Conversation.objects.visible_to(user).get(pk=conversation_id)
    replies = conversation.shown_messages().filter(role=Message.Role.ASSISTANT)
    reply = replies.select_for_update(of=("self",)).get(pk=reply_id)
    reply.conversation = conversation
    return reply


def _known(feedback: Feedback) -> tuple[str, list[str], str | None]:
    return feedback.rating, list(feedback.reasons), feedback.shown_comment


def _change(feedback: Feedback, opinion: Opinion) -> None:
    if opinion.reasons is not None:
        given = set(opinion.reasons)
        feedback.reasons = [str(each) for each in opinion.rating.reasons if each in given]
    elif feedback.rating != opinion.rating:
        feedback.reasons = []
    feedback.rating = opinion.rating
    if opinion.comment is not None:
        feedback.comment = opinion.comment


# --- counting ---------------------------------------------------------------------------------


def _count(feedback: Feedback, before: str | None) -> None:
    reply, after = feedback.reply, feedback.rating
    if before is None:
        _tally(reply, is_down=after == Rating.DOWN)
    if before != after:
        _count_in_figures(reply, feedback.created_at, before, after)
        transaction.on_commit(lambda: telemetry.ratings.labels(after).inc())


def _tally(reply: Message, *, is_down: bool) -> None:
    """Let the guards of a release, and who watches a live prompt, count a first rating."""
    conversation = reply.conversation
    person = conversation.owner_id
    if reply.release_id:
        began = conversation.created_at
        release, arm = reply.release_id, reply.arm
        tallies.tally_rating(release, arm, person, conversation_began=began, is_down=is_down)
    if reply.prompt_version_id and reply.arm in {"", Arm.PRODUCTION}:
        drift.tally_rating(reply.prompt_version_id, person, is_down=is_down)


def _count_in_figures(
    reply: Message, given: datetime, before: str | None, after: str | None
) -> None:
    if reply.prompt_version_id:
        rollups.count_rating(
            reply.prompt_version_id,
            reply.arm,
            reply.release_id,
            given.astimezone(UTC).date(),
            up=(after == Rating.UP) - (before == Rating.UP),
            down=(after == Rating.DOWN) - (before == Rating.DOWN),
        )
