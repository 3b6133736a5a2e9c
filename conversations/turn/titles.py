"""A conversation's title, made by the model out of the first question and reply."""

from contextlib import aclosing

from chatbot.database import db
from conversations.models import Conversation
from conversations.turn.opening import Turn
from conversations.turn.running import Streams
from prompts.provider import ChatMessage, ProviderFault, TextPiece

MAX_TITLE_CHARACTERS = 80
_EXCERPT_CHARACTERS = 600
_ASK = (
    "Give this conversation a title of two to six words, in its language."
    " Answer with the title alone: no quotation marks, no full stop."
)


async def title_if_first(turn: Turn, provider: Streams | None) -> Conversation | None:
    """Give the conversation a title if it has none; return it then, with its title.

    Without a provider, or with one that fails, the first words of the question are the title.
    """
    if turn.conversation.title_sealed:
        return None
    title = await _ask_for_title(turn, provider) if provider else ""
    return await db(_store)(turn.conversation, title or first_words(turn.question.content))


async def _ask_for_title(turn: Turn, provider: Streams) -> str:
    messages: list[ChatMessage] = [
        {"role": "system", "content": _ASK},
        {"role": "user", "content": turn.question.content[:_EXCERPT_CHARACTERS]},
        {"role": "assistant", "content": turn.reply.content[:_EXCERPT_CHARACTERS]},
        {"role": "user", "content": "Now give the title."},
    ]
    text = ""
    try:
        async with aclosing(provider.stream(messages, model=turn.reply.model)) as batches:
            async for pieces in batches:
                text += "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))
                if len(text) > 4 * MAX_TITLE_CHARACTERS:
                    break
    except ProviderFault:
        return ""
    return _cleaned(text)


def _cleaned(text: str) -> str:
    first_line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return _shortened(first_line.removeprefix("Title:").strip(" \"'“”‘’«»*#`."))


def first_words(question: str) -> str:
    """Return a title out of the question itself."""
    return _shortened(" ".join(question.split()))


def _shortened(text: str) -> str:
    if len(text) <= MAX_TITLE_CHARACTERS:
        return text
    return text[: MAX_TITLE_CHARACTERS - 1].rsplit(" ", 1)[0] + "…"


def _store(conversation: Conversation, title: str) -> Conversation | None:
    conversation.title = title
    stored = Conversation.objects.filter(pk=conversation.pk, title_sealed=b"").update(
        title_sealed=conversation.title_sealed
    )
    return conversation if stored else None
