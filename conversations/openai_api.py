"""The door for OpenAI clients: chat completions and the list of models.

Each call is a conversation of its own: the client's messages are stored as its branch, the last one
is the question. So the same prompt, guards, limits, budgets and audit apply as everywhere. Whatever
goes wrong has OpenAI's shape.
"""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any

import orjson
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from accounts.models import ApiToken
from chatbot.database import db
from conversations.api import event_stream, problem_of
from conversations.doors import asking
from conversations.doors.bearer import caller, secret_in
from conversations.doors.chat_completions import (
    CompletionIn,
    Unsupported,
    checked,
    chunk_of,
    completion_of,
    error,
    error_of,
    last_chunk,
    model_of,
    said,
    usage_chunk,
)
from conversations.doors.problems import Problem
from conversations.models import Message
from conversations.turn import Program, TextArrived, Turn
from prompts.catalogue import offers_for

PATIENCE_SECONDS = 600.0
HEARTBEAT_SECONDS = 15.0
FAILED = {Message.State.FAILED, Message.State.INTERRUPTED}
# Another attempt would be another conversation, and the provider was asked again by us already.
NOT_AGAIN = {"x-should-retry": "false"}
NEVER_AGAIN = {"budget_spent", "price_unknown"}

_KEY = re.compile(r"[!-~]{1,64}")

View = Callable[..., Awaitable[HttpResponseBase]]
DjangoView = Callable[..., Any]


def _door(method: str) -> Callable[[View], DjangoView]:
    """Make a view of `method` for programs, whose errors have OpenAI's shape."""

    def decorate(view: View) -> DjangoView:
        @csrf_exempt
        @wraps(view)
        async def told(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                if request.method != method:
                    raise Problem("method_not_allowed")
                token = await caller(request, secret_in(request), ApiToken.Scope.CHAT)
                return await view(request, token, *args, **kwargs)
            except Unsupported as unsupported:
                return _unsupported(unsupported)
            except Exception as failure:  # noqa: BLE001 - told and logged as a problem
                return _told(problem_of(failure), method)

        return told

    return decorate


def _unsupported(what: Unsupported) -> HttpResponse:
    body = error(str(what), "invalid_request_error", what.param, what.code)
    return JsonResponse(body, status=404 if what.code == "model_not_found" else 400)


def _told(problem: Problem, method: str) -> HttpResponse:
    headers = problem.headers()
    if problem.kind.code == "method_not_allowed":
        headers["Allow"] = method
    if problem.kind.code in NEVER_AGAIN:
        headers |= NOT_AGAIN
    return JsonResponse(error_of(problem), status=problem.kind.status, headers=headers)


# --- completions -----------------------------------------------------------------------------


@_door("POST")
async def chat_completions(request: HttpRequest, token: ApiToken) -> HttpResponseBase:
    """Answer the last message, at once or as a stream."""
    completion = checked(_body(request))
    slug = await _slug_of(token, completion.model)
    history, question = said(completion)
    program = Program(token.pk, history, completion.parameters(), slug)
    fields = await asking.admit(token)
    turn = await asking.begin(
        asking.Asking(token, question, _key(request), program=program, is_titled=True)
    )
    respond = _streamed if completion.stream else _whole
    response = await respond(turn, completion)
    response.headers["X-Parley-Session"] = str(turn.conversation.pk)
    response.headers["X-Parley-Message"] = str(turn.reply.pk)
    for name, value in fields.items():
        response.headers[name] = value
    return response


def _body(request: HttpRequest) -> Any:
    try:
        return orjson.loads(request.body)
    except orjson.JSONDecodeError as failure:
        raise Problem("malformed") from failure


def _key(request: HttpRequest) -> str:
    key = request.headers.get("Idempotency-Key", "")
    if key and not _KEY.fullmatch(key):
        raise Unsupported("Idempotency-Key: 1 to 64 visible ASCII characters.", "Idempotency-Key")
    return key


async def _whole(turn: Turn, _completion: CompletionIn) -> HttpResponseBase:
    reply = await asking.ended(turn.reply.pk, within_seconds=PATIENCE_SECONDS)
    if reply.is_open:
        return _told(Problem("provider_timeout"), "POST")
    return _failed(reply) if reply.state in FAILED else JsonResponse(completion_of(reply))


def _failed(reply: Message) -> HttpResponse:
    problem = Problem.of_reply(reply)
    headers = problem.headers() | NOT_AGAIN
    return JsonResponse(error_of(problem), status=problem.kind.status, headers=headers)


async def _streamed(turn: Turn, completion: CompletionIn) -> HttpResponseBase:
    """Stream from the first piece on; what fails before it still gets the right status."""
    told = asking.follow(turn.reply.pk)
    first = await anext(told)
    if isinstance(first, Message) and first.state in FAILED:
        return _failed(first)
    return event_stream(_chunks(turn.reply, first, told, with_usage=completion.wants_usage))


async def _chunks(
    reply: Message,
    first: asking.Told,
    told: AsyncGenerator[asking.Told, None],
    *,
    with_usage: bool,
) -> AsyncGenerator[bytes, None]:
    yield _data(chunk_of(reply, {"role": "assistant", "content": ""}))
    for line in _lines(reply, first, with_usage=with_usage):
        yield line
    async with aclosing(asking.with_pauses(told, HEARTBEAT_SECONDS)) as rest:
        async for one in rest:
            if one is None:
                yield b": still here\n\n"
            else:
                for line in _lines(reply, one, with_usage=with_usage):
                    yield line


def _lines(reply: Message, one: asking.Told, *, with_usage: bool) -> list[bytes]:
    if isinstance(one, Message):
        return _ending(one, with_usage=with_usage)
    name = "content" if isinstance(one, TextArrived) else "reasoning_content"
    return [_data(chunk_of(reply, {name: one.text}))]


def _ending(reply: Message, *, with_usage: bool) -> list[bytes]:
    if reply.state in FAILED:
        return [_data(error_of(Problem.of_reply(reply)))]
    usage = [_data(usage_chunk(reply))] if with_usage else []
    return [_data(last_chunk(reply)), *usage, b"data: [DONE]\n\n"]


def _data(content: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(content)


# --- models ----------------------------------------------------------------------------------


@_door("GET")
async def models(request: HttpRequest, token: ApiToken) -> HttpResponseBase:
    """List the models that the caller may name."""
    offers = await db(offers_for)(token.user)
    data = [model_of(offer.slug) for offer in offers]
    return JsonResponse({"object": "list", "data": data})


@_door("GET")
async def model(request: HttpRequest, token: ApiToken, name: str) -> HttpResponseBase:
    """Describe one model."""
    return JsonResponse(model_of(await _slug_of(token, name)))


async def _slug_of(token: ApiToken, name: str) -> str:
    """Return the model that a client means: by its slug here, or by its name at the provider."""
    offers = await db(offers_for)(token.user)
    for known_as in ("slug", "remote_name"):
        for offer in offers:
            if getattr(offer, known_as) == name:
                return offer.slug
    raise Unsupported(
        "There is no such model for you; GET /v1/models lists those that there are.",
        "model",
        "model_not_found",
    )


@csrf_exempt
async def unknown(request: HttpRequest) -> HttpResponse:
    """Answer for addresses below /v1/ that there are not."""
    return _told(Problem("not_found"), "")
