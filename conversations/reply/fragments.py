"""Turn events as HTML. The only Python that knows the ids of elements.

A frame is made of `<hx-partial>` pieces, each naming its target; a piece whose target is not on the
page does nothing, so a frame may be applied twice or meet a page that has already moved on: the
first frame of a run also answers the request, and may so arrive behind the last. While a
reply is written its elements carry its fence in their ids, which keeps frames short:

    #reply-<message>   the whole reply
      #said-<fence>      everything but the time: thinking, prose, notice, evidence, tools
        #open-<fence>      the block that still grows, behind the closed ones
    #after-<message>   where the next turn goes
"""

from typing import TYPE_CHECKING

from django.template.loader import render_to_string
from django.utils.html import escape

from conversations.models import Conversation, Message

if TYPE_CHECKING:
    from conversations.reply.markdown import Delta, Final
    from conversations.turn import Turn


def partial(target: str, swap: str, html: str) -> str:
    """Return one piece of a frame; `target` is a CSS selector of ours."""
    return f'<hx-partial hx-target="{target}" hx-swap="{swap}">{html}</hx-partial>'


def text_arrived(fence: int, delta: "Delta") -> str:
    """Blocks that closed go before the open one; the open one is replaced or grows by a suffix."""
    pieces = ""
    if delta.closed:
        pieces += partial(f"#open-{fence}", "beforebegin", delta.closed)
    if delta.open is not None:
        pieces += partial(f"#open-{fence}", "innerMorph", delta.open)
    if delta.suffix:
        pieces += partial(f"#open-{fence}{delta.into}", "beforeend", delta.suffix)
    return pieces


def thinking_arrived(reply: Message, text: str, *, is_first: bool) -> str:
    """The first thinking brings its closed line; further text grows inside it."""
    if is_first:
        html = render_to_string("conversations/_thinking.html", {"reply": reply, "text": text})
        return partial(f"#thinking-{reply.fence}", "innerHTML", html)
    return partial(f"#thought-{reply.fence}", "beforeend", escape(text))


def turn_started(turn: "Turn") -> str:
    """Question and empty reply, where the branch ended before; the composer offers Stop."""
    html = render_to_string(
        "conversations/oob/turn_started.html",
        {"turn": turn, "conversation": turn.conversation, "place": place_after(turn.question)},
    )
    return html + _sidebar_item(turn.conversation, is_live=True, unless=turn.reply.fence)


def turn_resumed(turn: "Turn") -> str:
    """A reply that goes on: the same element, being written again."""
    html = render_to_string(
        "conversations/oob/turn_resumed.html",
        {"turn": turn, "reply": turn.reply, "conversation": turn.conversation},
    )
    return html + _sidebar_item(turn.conversation, is_live=True, unless=turn.reply.fence)


def turn_ended(reply: Message, final: "Final", warning: str) -> str:
    """The rest of the text, then what stands under a finished reply; the prose is sent again only
    when what was streamed is not what a reload would show."""
    pieces = partial(f"#open-{reply.fence}", "beforebegin", final.closed) if final.closed else ""
    pieces += partial(f"#open-{reply.fence}", "delete", "")
    if final.differs:
        pieces += partial(f"#prose-{reply.fence}", "innerHTML", final.html)
    pieces += render_to_string(
        "conversations/oob/turn_ended.html",
        {"reply": reply, "conversation": reply.conversation, "warning": warning},
    )
    # The title is told again: its own frame is refused when the next turn has begun before it.
    return pieces + title_changed(reply.conversation)


def reply_replaced(reply: Message) -> str:
    """The whole reply as the database has it. Reads the database."""
    loaded = ("prompt_version__template", "refused_by", "conversation", "feedback")
    reply = Message.objects.select_related(*loaded).get(pk=reply.pk)
    html = render_to_string(
        "conversations/oob/reply_replaced.html",
        {"reply": reply, "conversation": reply.conversation},
    )
    return html + _sidebar_item(reply.conversation, is_live=reply.is_open)


def rated(reply: Message, said: str, **context: object) -> str:
    """What stands under a reply, with its feedback loaded; `said` goes to the status region."""
    context = {"reply": reply, "said": said, "without_token": True, **context}
    return render_to_string("conversations/oob/rated.html", context)


def title_changed(conversation: Conversation) -> str:
    """The title in the bar, in the sidebar and of the page."""
    return render_to_string(
        "conversations/oob/title_changed.html", {"conversation": conversation}
    ) + _sidebar_item(conversation, is_live=False)


def place_after(question: Message) -> str:
    """The id of the element that this question's turn takes the place of."""
    return f"after-{question.parent_id or 'nothing'}"


def _sidebar_item(conversation: Conversation, *, is_live: bool, unless: int | None = None) -> str:
    """The conversation in the list; nothing where the run `unless` is shown already."""
    # Whoever follows this log has this conversation open.
    context = {"conversation": conversation, "is_live": is_live, "current": conversation.pk}
    html = render_to_string("conversations/_sidebar_item.html", context)
    where = "" if unless is None else f"body:not(:has(#said-{unless})) "
    return partial(f"{where}#item-{conversation.pk}", "outerMorph", html)
