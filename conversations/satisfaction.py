"""How a conversation went, from 1 to 5: asked once at the end of a session, never insisting.

    ask_about_last(user, now)             for the first screen: what to ask about, if anything
    ask_about(conversation, now)          for its own page, where somebody comes back to it
    give(user, conversation_id, score)
    decline(user, conversation_id)        "No thanks"

A session has ended when its person has been quiet for QUIET and then opens the first screen, or
that conversation again, within FRESH. It is worth a question when it got LEAST_REPLIES complete
replies and none is being written. Each conversation is asked about once, a person once in BETWEEN,
and not for AFTER_NO after they declined. Temporary conversations are never asked about.

To show the question is to have put it: whoever passes it over is not shown it again.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import Count, Exists, OuterRef, QuerySet, Subquery
from django.utils import timezone

from accounts.models import User
from audit.trail import record
from chatbot import telemetry
from conversations.models import Conversation, Message, Satisfaction, SatisfactionPause
from prompts.figures import rollups

LEAST_REPLIES = 3
QUIET = timedelta(minutes=10)
FRESH = timedelta(days=1)
BETWEEN = timedelta(days=7)
AFTER_NO = timedelta(days=30)

SCORES = range(1, 6)


# --- whether to ask ---------------------------------------------------------------------------


def ask_about_last(user: User, now: datetime) -> Conversation | None:
    """Put the question about the newest session that has ended; return it, or None.

    One query where there is nothing to ask, or not now.
    """
    found = _ended(user, now).order_by("-last_message_at").first()
    return found if found and _put(found, user, now) else None


def ask_about(
    conversation: Conversation, messages: Sequence[Message], now: datetime
) -> Conversation | None:
    """Put the question about a conversation whose page shows these messages; return it, or None.

    No query for one that was not a session that has just ended.
    """
    complete = sum(message.state == Message.State.COMPLETED for message in messages)
    is_quiet = now - FRESH <= conversation.last_message_at <= now - QUIET
    if complete < LEAST_REPLIES or not is_quiet or conversation.is_temporary:
        return None
    user = conversation.owner
    found = _ended(user, now).filter(pk=conversation.pk).first()
    return found if found and _put(found, user, now) else None


def _ended(user: User, now: datetime) -> QuerySet[Conversation]:
    """Sessions that have ended and may be asked about; none while their person is left alone."""
    replies = Message.objects.shown().filter(
        conversation=OuterRef("pk"), role=Message.Role.ASSISTANT
    )
    complete = replies.filter(state=Message.State.COMPLETED, prompt_version__isnull=False)
    count = complete.order_by().values("conversation").annotate(many=Count("pk")).values("many")
    resting = SatisfactionPause.objects.filter(person=user, until__gt=now)
    return (
        Conversation.objects.visible_to(user)
        .listed()
        .filter(last_message_at__range=(now - FRESH, now - QUIET), satisfaction=None)
        .alias(replies=Subquery(count))
        .filter(
            ~Exists(resting),
            ~Exists(replies.filter(state=Message.State.STREAMING)),
            replies__gte=LEAST_REPLIES,
        )
    )


_PAUSE = """
    INSERT INTO conversations_satisfactionpause AS pause (person_id, until)
    VALUES (%(person)s, %(until)s)
    ON CONFLICT (person_id) DO UPDATE SET until = EXCLUDED.until WHERE pause.until <= %(now)s
    RETURNING 1
"""


@transaction.atomic
def _put(conversation: Conversation, user: User, now: datetime) -> bool:
    """Note that the question is put; False where another page of theirs came first, or it went."""
    locked = Conversation.objects.visible_to(user).select_for_update(no_key=True)
    if not locked.filter(pk=conversation.pk).exists():
        return False
    with connection.cursor() as cursor:
        cursor.execute(_PAUSE, {"person": user.pk, "until": now + BETWEEN, "now": now})
        if cursor.fetchone() is None:
            return False
    Satisfaction.objects.create(conversation=conversation, asked_at=now)
    return True


# --- answers ----------------------------------------------------------------------------------


@transaction.atomic
def give(user: User, conversation_id: uuid.UUID, score: int) -> None:
    """Keep how satisfied somebody was, with what the last reply was made by. The first one counts.

    Raises ValueError for what is no score, and Conversation.DoesNotExist, also for a conversation
    about which nobody was asked.
    """
    if score not in SCORES:
        raise ValueError(score)
    asked = _asked(user, conversation_id)
    if asked.answered_at:
        return
    reply = _last_reply(asked.conversation)
    asked.answered_at, asked.score = timezone.now(), score
    asked.prompt_version_id, asked.release_id = reply.prompt_version_id, reply.release_id
    asked.arm = reply.arm
    asked.save()
    assert reply.prompt_version_id, "asked for replies that have one"
    rollups.count_satisfaction(reply.prompt_version_id, reply.arm, reply.release_id, score)
    record(user, "satisfaction.given", asked.conversation, score=score)
    transaction.on_commit(lambda: telemetry.satisfaction.observe(score))


@transaction.atomic
def decline(user: User, conversation_id: uuid.UUID) -> None:
    """Leave somebody alone for AFTER_NO. Raises Conversation.DoesNotExist as `give` does."""
    asked = _asked(user, conversation_id)
    if asked.answered_at:
        return
    asked.answered_at = timezone.now()
    asked.save()
    until = asked.answered_at + AFTER_NO
    SatisfactionPause.objects.update_or_create(person=user, defaults={"until": until})
    record(user, "satisfaction.declined", asked.conversation)


def _asked(user: User, conversation_id: uuid.UUID) -> Satisfaction:
    """Return what was asked, locked, and its conversation before it as `_put` does."""
    mine = Conversation.objects.visible_to(user).select_for_update(no_key=True)
    conversation = mine.get(pk=conversation_id)
    asked = Satisfaction.objects.filter(conversation=conversation).first()
    if asked is None:
        raise Conversation.DoesNotExist
    asked.conversation = conversation
    return asked


def _last_reply(conversation: Conversation) -> Message:
    """Raises Conversation.DoesNotExist where a purge came first."""
    replies = conversation.shown_messages().filter(
        role=Message.Role.ASSISTANT, prompt_version__isnull=False
    )
    last = replies.order_by("-created_at", "-pk").first()
    if last is None:
        raise Conversation.DoesNotExist
    return last
