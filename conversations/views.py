"""The pages of a conversation and the commands that they send.

Commands are HTTP requests, so they work without a socket and without JavaScript; what they bring
about arrives at every open page through the log.
"""

import asyncio
import uuid
from collections.abc import Awaitable
from datetime import datetime
from urllib.parse import unquote_to_bytes, urlsplit

from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe
from uuid_utils.compat import uuid7

from accounts.access import requires
from accounts.http import Request, page_to_return_to, wants_fragment
from accounts.models import User
from audit.trail import record_sparingly
from chatbot.database import db
from conversations.feedback import Opinion, UnfitOpinion, rate, unrate
from conversations.models import Conversation, Message, Rating
from conversations.reply import fragments
from conversations.reply.runner import runner
from conversations.rights.deleting import deletion_of
from conversations.satisfaction import ask_about, ask_about_last, decline, give
from conversations.thread import empty_page, page_of
from conversations.turn import Refusal, Turn, continue_turn, request_stop, start_turn
from conversations.turn.limits import TooMany, check, rate_limit_fields
from conversations.turn.refusal import note_refusal

NO_SCRIPT_PATIENCE_SECONDS = 120.0
REFUSAL_STATUS = {
    "empty": 400,
    "too_long": 413,
    "reply_open": 409,
    "not_continuable": 409,
    "too_many": 429,
    "budget_spent": 429,
    "limits_away": 503,
    "price_unknown": 503,
    "no_model": 503,
    "no_prompt": 503,
    "no_template": 422,
    "policy_broken": 503,
    "policy": 422,
    "personal_data": 422,
    "archived": 409,
}


@require_safe
@requires("conversations.chat")
def new_conversation(request: Request) -> HttpResponse:
    """The first screen. The conversation begins with its first question."""
    page = empty_page(
        request.user,
        uuid7(),
        list_before=_moment(request.GET.get("list")),
        temporary="temporary" in request.GET,
    )
    deleted = _uuid(request.GET.get("deleted"))
    context = {
        "page": page,
        "key": uuid7(),
        "draft": request.GET.get("ask", ""),
        "chosen": request.GET.get("template", ""),
        "deletion": deletion_of(request.user, deleted) if deleted else None,
        "asked": ask_about_last(request.user, timezone.now()) if _may_ask(request) else None,
    }
    return render(request, "conversations/conversation.html", context)


@require_safe
@requires("conversations.chat")
def conversation(request: Request, conversation_id: uuid.UUID) -> HttpResponse:
    """A conversation of one's own, newest messages last."""
    stored = _stored(request.user, conversation_id)
    if stored is None:
        return _not_there(request.user, conversation_id)
    stored.seen()
    page = page_of(
        stored,
        before=_uuid(request.GET.get("before")),
        list_before=_moment(request.GET.get("list")),
    )
    now = timezone.now()
    context = {
        "page": page,
        "key": uuid7(),
        "rated": _uuid(request.GET.get("rated")),
        "asked": ask_about(stored, page.messages, now) if _may_ask(request) else None,
    }
    return render(request, "conversations/conversation.html", context)


def _stored(user: User, conversation_id: uuid.UUID) -> Conversation | None:
    stored = Conversation.objects.visible_to(user).filter(pk=conversation_id).first()
    if stored:
        stored.owner = user  # the same, and come with their roles
    return stored


def _may_ask(request: Request) -> bool:
    """Whether this is a page that somebody came to, to be shown as a whole.

    What is looked for, followed or unfolded has a query in its address. What a browser fetches
    before anybody asked for it, perhaps nobody sees (`Sec-Purpose` of the Fetch Standard).
    """
    is_early = "prefetch" in request.headers.get("Sec-Purpose", "")
    is_whole = not request.GET and not wants_fragment(request)
    return request.method == "GET" and is_whole and not is_early


def _not_there(user: User, conversation_id: uuid.UUID) -> HttpResponse:
    """Go to where a deletion can be undone; raise Http404 for what isn't somebody's, or is gone.

    A try to open another's is recorded; not one to open what was one's own, for by that its owner
    could tell that it is still there.
    """
    if deletion_of(user, conversation_id):
        return redirect(f"{reverse('new_conversation')}?deleted={conversation_id}")
    if Conversation.objects.filter(pk=conversation_id).exclude(owner=user).exists():
        record_sparingly(
            user,
            "access.denied",
            ("conversations.conversation", str(conversation_id)),
            outcome="denied",
            reason="somebody else's conversation",
            each=str(conversation_id),
        )
    raise Http404


@require_POST
@requires("conversations.chat")
async def ask(request: HttpRequest, conversation_id: uuid.UUID) -> HttpResponse:
    """Send a question; the reply starts."""
    text, key = _form(request)
    try:
        fields = rate_limit_fields(await check(_asker(request)))
        turn, opening = await _begin(request, conversation_id, text, key)
    except Refusal as refusal:
        return await _refused(request, conversation_id, refusal, text)
    if not wants_fragment(request):
        return await _page_with_reply(turn)
    response = HttpResponse(opening + _asked(turn), headers=fields)
    path = turn.conversation.get_absolute_url()
    if request.htmx.current_url_abs_path != path:  # type: ignore[attr-defined]
        response["HX-Push-Url"] = path
    return response


async def _begin(
    request: HttpRequest, conversation_id: uuid.UUID, text: str, key: str
) -> tuple[Turn, str]:
    """Start the turn and its reply. Raises Refusal and Http404."""
    await runner().ready()
    try:
        # Who goes away in this moment must not leave an open reply that nobody writes.
        starting = db(_start)(request, conversation_id, text, key, _row())
        return await asyncio.shield(_launched(starting))
    except Conversation.DoesNotExist as error:
        raise Http404 from error


async def _launched(beginning: Awaitable[tuple[Turn, str]]) -> tuple[Turn, str]:
    turn, opening = await beginning
    if turn.is_new:
        runner().launch(turn, opening)
    return turn, opening


def _row() -> uuid.UUID:
    return runner().row.pk


def _start(
    request: HttpRequest, conversation_id: uuid.UUID, text: str, key: str, runner_id: uuid.UUID
) -> tuple[Turn, str]:
    turn = start_turn(
        conversation_id,
        by=_asker(request),
        text=text,
        key=key,
        runner_id=runner_id,
        template=request.POST.get("template", ""),
        temporary=_is_temporary(request),
    )
    # A question that arrived before is on the page already, or comes through the log.
    return turn, fragments.turn_started(turn) if turn.is_new else ""


@require_POST
@requires("conversations.chat")
async def continue_reply(
    request: HttpRequest, conversation_id: uuid.UUID, reply_id: uuid.UUID
) -> HttpResponse:
    """Let a reply that ended early go on."""
    user = _asker(request)
    await runner().ready()
    try:
        await check(user)
        going_on = db(_continue)(conversation_id, reply_id, user, _row())
        turn, opening = await asyncio.shield(_launched(going_on))
    except (Conversation.DoesNotExist, Message.DoesNotExist) as error:
        raise Http404 from error
    except Refusal as refusal:
        return await _refused(request, conversation_id, refusal, "")
    return HttpResponse(opening) if wants_fragment(request) else await _page_with_reply(turn)


def _continue(
    conversation_id: uuid.UUID, reply_id: uuid.UUID, user: User, runner_id: uuid.UUID
) -> tuple[Turn, str]:
    turn = continue_turn(conversation_id, reply_id, by=user, runner_id=runner_id)
    return turn, fragments.turn_resumed(turn) if turn.is_new else ""


@require_POST
@requires("conversations.chat")
async def stop(request: HttpRequest, conversation_id: uuid.UUID) -> HttpResponse:
    """Stop the reply that is being written, wherever it is; nothing happens when there is none."""
    user = _asker(request)
    try:
        reply = await db(request_stop)(conversation_id, by=user)
    except Conversation.DoesNotExist as error:
        raise Http404 from error
    if reply:
        await runner().stop(reply)
    if wants_fragment(request):
        return HttpResponse(status=204)
    if reply:
        await runner().wait_for(reply.pk, seconds=5.0)
    return redirect("conversation", conversation_id)


@require_POST
@requires("conversations.chat")
def feedback(request: Request, conversation_id: uuid.UUID, reply_id: uuid.UUID) -> HttpResponse:
    """Keep what somebody thinks of a reply, or take it back: a thumb, or thumb, reasons and words.

    Without JavaScript the page comes back at that reply.
    """
    _check_text(request)
    try:
        return _rated(request, conversation_id, reply_id)
    except (Conversation.DoesNotExist, Message.DoesNotExist) as error:
        raise Http404 from error


def _rated(request: Request, conversation_id: uuid.UUID, reply_id: uuid.UUID) -> HttpResponse:
    if not request.POST.get("rating"):
        reply = unrate(request.user, conversation_id, reply_id)
        return _as_rated(request, reply, said="Your rating is taken back.")
    opinion = _opinion(request)
    try:
        reply = rate(request.user, conversation_id, reply_id, opinion).reply
    except UnfitOpinion as unfit:
        return _unfit(request, conversation_id, reply_id, opinion, str(unfit))
    if opinion.reasons is not None:
        return _as_rated(request, reply, said="Thank you. Your feedback is kept.", is_sent=True)
    told = "good" if opinion.rating == Rating.UP else "bad"
    said = f"Rated as {told}. You can say why below."
    return _as_rated(request, reply, said=said, rated=reply.pk)


def _opinion(request: Request) -> Opinion:
    """Return what the form says: a thumb alone comes without words. Raises BadRequest."""
    try:
        rating = Rating(request.POST["rating"])
    except ValueError as error:
        raise BadRequest("A rating is up or down. Nothing was kept.") from error
    if "comment" not in request.POST:
        return Opinion(rating)
    words = request.POST["comment"].replace("\r\n", "\n").strip()
    return Opinion(rating, request.POST.getlist("reasons"), words)


def _as_rated(
    request: Request,
    reply: Message,
    *,
    said: str,
    rated: uuid.UUID | None = None,
    **context: object,
) -> HttpResponse:
    """Return what stands under the reply now; with the reasons unfolded if it is `rated`."""
    if wants_fragment(request):
        return HttpResponse(fragments.rated(reply, said, rated=rated, **context))
    address = _standing_at(request, reply.conversation_id)
    address.pop("rated", None)
    if rated:
        address["rated"] = str(rated)
    path = reverse("conversation", args=[reply.conversation_id])
    query = f"?{address.urlencode()}" if address else ""
    return redirect(f"{path}{query}#tools-{reply.pk}")


def _unfit(
    request: Request,
    conversation_id: uuid.UUID,
    reply_id: uuid.UUID,
    opinion: Opinion,
    sentence: str,
) -> HttpResponse:
    """Say what could not be kept, beside it."""
    stored = _stored(request.user, conversation_id)
    if stored is None:
        raise Conversation.DoesNotExist
    context = {"rated": reply_id, "unfit": sentence, "unfit_words": opinion.comment}
    if wants_fragment(request):
        replies = stored.shown_messages().select_related("feedback")
        reply = replies.get(pk=reply_id, feedback__isnull=False)
        reply.conversation = stored
        return HttpResponse(fragments.rated(reply, sentence, **context), status=422)
    before = _uuid(_standing_at(request, conversation_id).get("before"))
    context |= {"page": page_of(stored, before=before), "key": uuid7()}
    return render(request, "conversations/conversation.html", context, status=422)


def _standing_at(request: Request, conversation_id: uuid.UUID) -> QueryDict:
    """Return what follows the `?` where somebody stood in the conversation's page."""
    at = urlsplit(page_to_return_to(request))
    is_there = at.path == reverse("conversation", args=[conversation_id])
    return QueryDict(at.query if is_there else "", mutable=True)


@require_POST
@requires("conversations.chat")
def satisfaction(request: Request, conversation_id: uuid.UUID) -> HttpResponse:
    """Keep how a conversation went, or that somebody does not want to say."""
    score = request.POST.get("score", "")
    try:
        if score:
            give(request.user, conversation_id, int(score))
        else:
            decline(request.user, conversation_id)
    except ValueError as error:
        raise BadRequest("A score is a number from 1 to 5. Nothing was kept.") from error
    except Conversation.DoesNotExist as error:
        raise Http404 from error
    if not wants_fragment(request):
        return redirect(page_to_return_to(request))
    said = "Thank you." if score else "You won’t be asked again for a month."
    return HttpResponse(render_to_string("conversations/oob/satisfaction.html", {"said": said}))


async def _page_with_reply(turn: Turn) -> HttpResponse:
    """Without JavaScript the page comes back with the reply on it."""
    await runner().wait_for(turn.reply.pk, seconds=NO_SCRIPT_PATIENCE_SECONDS)
    return redirect(turn.conversation)


def _asked(turn: Turn) -> str:
    context = {"conversation": turn.conversation, "key": uuid7(), "remark": turn.remark}
    return render_to_string("conversations/oob/asked.html", context)


async def _refused(
    request: HttpRequest, conversation_id: uuid.UUID, refusal: Refusal, text: str
) -> HttpResponse:
    """Say why, beside the text that was not sent; the text stays where it is."""
    await db(note_refusal)(refusal, by=_asker(request), conversation_id=conversation_id)
    status = REFUSAL_STATUS[refusal.code]
    if wants_fragment(request):
        html = render_to_string("conversations/oob/refused.html", {"refusal": refusal})
        response = HttpResponse(html, status=status)
    else:
        response = await db(_refused_page)(request, conversation_id, refusal, text, status)
    quotas = refusal.quotas if isinstance(refusal, TooMany) else []
    for name, value in rate_limit_fields(quotas, retry_after=refusal.retry_after).items():
        response[name] = value
    return response


def _refused_page(
    request: HttpRequest, conversation_id: uuid.UUID, refusal: Refusal, text: str, status: int
) -> HttpResponse:
    assert isinstance(request.user, User)
    if stored := _stored(request.user, conversation_id):
        page = page_of(stored)
    else:
        page = empty_page(request.user, conversation_id, temporary=_is_temporary(request))
    chosen = request.POST.get("template", "")
    context = {"page": page, "key": uuid7(), "draft": text, "refusal": refusal, "chosen": chosen}
    return render(request, "conversations/conversation.html", context, status=status)


def _asker(request: HttpRequest) -> User:
    """Return who is signed in, as `requires` has made sure of."""
    user = request.user
    assert isinstance(user, User)
    return user


def _form(request: HttpRequest) -> tuple[str, str]:
    """Return text and key. Raises BadRequest as `_check_text`."""
    _check_text(request)
    return request.POST.get("text", ""), request.POST.get("key", "") or uuid7().hex


def _check_text(request: HttpRequest) -> None:
    """Raises BadRequest for bytes that are not UTF-8.

    Django would put replacement characters in their place, and the person's words would be lost
    without a word about it.
    """
    try:
        unquote_to_bytes(request.body.replace(b"+", b" ")).decode()
    except UnicodeDecodeError as error:
        raise BadRequest("The message is not valid UTF-8. Nothing was sent.") from error


def _is_temporary(request: HttpRequest) -> bool:
    """Whether a conversation that begins with this form is to be a temporary one."""
    return "temporary" in request.POST


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        return None


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return moment if moment and moment.tzinfo else None
