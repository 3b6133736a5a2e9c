"""A conversation as a page shows it: its newest messages, its place in the list, its cursor."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import groupby

from django.conf import settings
from django.db.models import Exists, OuterRef, Q

from accounts.models import User
from conversations.models import Conversation, Message, RetentionClass
from conversations.reply.log import Cursor
from conversations.retention.holds import held, is_person_held
from conversations.retention.policies import kept_for
from conversations.turn.budget import warning_for
from conversations.turn.context import branch
from conversations.turn.policy import releases_by_sentence
from conversations.turn.privacy import Mode, mode_for
from prompts.serving import Chosen, templates_for

MESSAGES_AT_ONCE = 40
CONVERSATIONS_AT_ONCE = 60


@dataclass(frozen=True, slots=True)
class Starter:
    """A first question that the demo provider answers well."""

    text: str
    about: str


DEMO_STARTERS = (
    Starter("What is Parley?", "A tour in a few sentences, out of the documentation."),
    Starter("Show me code", "How code looks, coloured when its block closes."),
    Starter("Show me a table", "Figures at the right, rules instead of boxes."),
    Starter("How do I connect a provider?", "Three variables, and which servers fit."),
)


@dataclass(frozen=True, slots=True)
class Day:
    label: str
    conversations: list[Conversation]


@dataclass(frozen=True, slots=True)
class Page:
    """What the templates of a conversation read."""

    conversation: Conversation
    messages: Sequence[Message]
    earlier: uuid.UUID | None
    cursor: Cursor
    days: Sequence[Day] = ()
    older: str = ""
    warning: str = ""
    privacy: str = ""
    by_sentence: bool = False
    is_told_held: bool = False
    templates: Sequence[Chosen] = ()

    @property
    def is_open(self) -> bool:
        """Whether a reply is being written."""
        return bool(self.messages) and self.messages[-1].is_open

    @property
    def title(self) -> str:
        return self.conversation.shown_title or "New conversation"

    @property
    def temporary_for(self) -> str:
        """How long a temporary conversation is kept, in words."""
        return kept_for(RetentionClass.TEMPORARY)

    @property
    def is_demo(self) -> bool:
        return bool(settings.PROVIDER_IS_DEMO)

    @property
    def starters(self) -> Sequence[Starter]:
        return DEMO_STARTERS


def empty_page(
    user: User,
    conversation_id: uuid.UUID,
    *,
    list_before: datetime | None = None,
    temporary: bool = False,
) -> Page:
    """Return the page of a conversation that begins with its first question."""
    conversation = Conversation(pk=conversation_id, owner=user)
    conversation.is_new = True  # type: ignore[attr-defined]
    days, older = _days(user, list_before)
    if temporary:
        conversation.retention_class = RetentionClass.TEMPORARY
    else:
        days = _with_new(conversation, days)
    page = Page(conversation, [], None, Cursor(0, 0), days, older)
    return replace(_with_what_holds(page, user), templates=templates_for(user))


def page_of(
    conversation: Conversation,
    *,
    before: uuid.UUID | None = None,
    list_before: datetime | None = None,
) -> Page:
    """Return the page of a stored conversation: its newest messages, or those before a message."""
    days, older = _days(conversation.owner, list_before)
    page = replace(thread_of(conversation, before=before), days=days, older=older)
    return _with_what_holds(page, conversation.owner)


def _with_what_holds(page: Page, user: User) -> Page:
    """Add what this person should know before they write. At most three queries, five where
    holds are told.
    """
    return replace(
        page,
        warning=warning_for(user, page.conversation),
        privacy=_PRIVACY[mode_for(user)],
        by_sentence=releases_by_sentence(),
        is_told_held=settings.HOLDS_ARE_TOLD and _is_held(page.conversation),
    )


def _is_held(conversation: Conversation) -> bool:
    return is_person_held(conversation.owner) or bool(held([conversation.pk]))


_PRIVACY = {
    Mode.OFF: "",
    Mode.PSEUDONYMISE: "Personal data is replaced for the AI, as far as it is recognised",
    Mode.MASK: "Personal data is hidden from the AI, as far as it is recognised",
    Mode.BLOCK: "Messages with personal data are refused, as far as it is recognised",
}


def thread_of(
    conversation: Conversation, *, before: uuid.UUID | None = None, within: Q | None = None
) -> Page:
    """Return the page without the list of other conversations, of messages `within` a condition.

    Two queries, one more with a condition.
    """
    # The parents tell which messages belong to the branch; contents are loaded only for the shown.
    said = conversation.shown_messages()
    tree = said.only("id", "parent_id", "conversation_id")
    path = [message.pk for message in branch(tree, conversation.leaf_id)]
    if within:
        those = set(said.filter(within).values_list("pk", flat=True))
        path = [pk for pk in path if pk in those]
    end = path.index(before) if before in path else len(path)
    start = max(0, end - MESSAGES_AT_ONCE)
    shown = said.linked().select_related("prompt_version__template", "refused_by", "feedback")
    found = shown.in_bulk(path[start:end])
    messages = [found[pk] for pk in path[start:end] if pk in found]
    for message in messages:
        message.conversation = conversation
    return Page(
        conversation=conversation,
        messages=messages,
        earlier=path[start] if start else None,
        cursor=_cursor(conversation, messages),
    )


def _cursor(conversation: Conversation, messages: Sequence[Message]) -> Cursor:
    """How far the rows reach that the page is made from."""
    if messages and messages[-1].is_reply:
        return Cursor(messages[-1].fence, messages[-1].cursor)
    return Cursor(conversation.fence, 0)


def _days(user: User, before: datetime | None) -> tuple[list[Day], str]:
    """Return the newest conversations by day, and where the next older ones begin, if any."""
    being_written = Message.objects.filter(
        conversation=OuterRef("pk"), state=Message.State.STREAMING
    )
    listed = Conversation.objects.visible_to(user).listed().annotate(is_live=Exists(being_written))
    if before:
        listed = listed.filter(last_message_at__lt=before)
    found = list(listed.order_by("-last_message_at")[: CONVERSATIONS_AT_ONCE + 1])
    shown, more = found[:CONVERSATIONS_AT_ONCE], len(found) > CONVERSATIONS_AT_ONCE
    days = [
        Day(_day_label(day), list(group))
        for day, group in groupby(shown, key=lambda c: c.last_message_at.date())
    ]
    return days, shown[-1].last_message_at.isoformat() if more else ""


def _with_new(conversation: Conversation, days: list[Day]) -> list[Day]:
    """Keep a place at the top of the list for a conversation that is about to begin."""
    if days and days[0].label == "Today":
        return [Day("Today", [conversation, *days[0].conversations]), *days[1:]]
    return [Day("Today", [conversation]), *days]


def _day_label(day: date) -> str:
    today = datetime.now(UTC).date()
    if day == today:
        return "Today"
    if day == today - timedelta(days=1):
        return "Yesterday"
    return f"{day:%A} {day.day} {day:%B}" + (f" {day.year}" if day.year != today.year else "")
