"""How replies look in templates: prose, notices and figures."""

from decimal import Decimal

from django import template
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe

from conversations.models import Message
from conversations.reply.markdown import BlockStream, render
from conversations.turn import can_continue
from conversations.turn.faults import sentence_of

register = template.Library()

THIN_SPACE = "\u202f"  # narrow no-break space, between groups of digits
NO_BREAK_SPACE = "\u00a0"


@register.simple_tag
def prose(reply: Message) -> SafeString:
    """The reply's text as HTML; while it is written, with the place where it grows."""
    text = reply.shown_content
    if text is None:
        return mark_safe(render_to_string("conversations/_unreadable.html"))  # noqa: S308
    if not reply.is_open:
        return mark_safe(render(text))  # noqa: S308 - sanitised there
    _, closed, open_html = BlockStream.resume(text)
    return mark_safe(  # noqa: S308 - sanitised there
        f'{closed}<div class="open" id="open-{reply.fence}">{open_html}</div>'
    )


@register.simple_tag
def notice(reply: Message) -> dict[str, str] | None:
    """What to say about how the reply ended, and the name of the act that mends it."""
    sentence = sentence_of(reply)
    if sentence is None:
        return None
    action = ""
    if can_continue(reply):
        action = "Continue" if reply.content_sealed else "Try again"
    return {
        "headline": sentence.headline,
        "rest": sentence.rest_for(reply),
        "tone": sentence.tone,
        "action": action,
    }


@register.filter
def grouped(number: int | None) -> str:
    """Digits in groups of three: 184 302."""
    return "" if number is None else f"{number:,}".replace(",", THIN_SPACE)


@register.filter
def usd(amount: Decimal) -> str:
    """An amount in US dollars, to the cent, or to a hundredth of one while it is less."""
    if 0 < amount < Decimal("0.0001"):
        return "under $0.0001"
    return f"${amount:.2f}" if amount >= 1 or not amount else f"${amount:.4f}"


@register.filter
def duration(passed: float) -> str:
    """A span of seconds in the two largest units that people count it in: 1 h 12 min."""
    minutes, hours, days = int(passed // 60), int(passed // 3600), int(passed // 86400)
    if days:
        return f"{days}{NO_BREAK_SPACE}d {hours % 24}{NO_BREAK_SPACE}h"
    if hours:
        return f"{hours}{NO_BREAK_SPACE}h {minutes % 60}{NO_BREAK_SPACE}min"
    return f"{minutes}{NO_BREAK_SPACE}min" if minutes else f"{int(passed)}{NO_BREAK_SPACE}s"


@register.filter
def seconds(milliseconds: int | None) -> str:
    """A duration as people read it: 3.2 s."""
    return f"{(milliseconds or 0) / 1000:.1f}{NO_BREAK_SPACE}s"
