"""The door for programs: `POST /chat`, and sessions, messages, feedback and usage below /api/v1/.

Each operation names the scope that its token needs; there is no other way in. What goes wrong is
told as problem details (`doors.problems`). A reply is one of the process: a client that goes away
ends nothing, and reads it later.
"""

import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any

import orjson
import structlog
from django.core.exceptions import RequestDataTooBig
from django.db import DatabaseError, InterfaceError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.http.request import RawPostDataException, UnreadablePostError
from django.urls import URLPattern, URLResolver
from ninja import Header, NinjaAPI, Query, Status
from ninja.errors import AuthenticationError, HttpError, ValidationError
from ninja.openapi.schema import OpenAPISchema
from ninja.parser import Parser
from pydantic import Field

from accounts.access import Denied
from accounts.models import ApiToken, User
from chatbot.database import db
from conversations import feedback
from conversations.doors import asking, reading
from conversations.doors.bearer import Bearer
from conversations.doors.problems import MEDIA_TYPE, Problem
from conversations.doors.schemas import (
    AskIn,
    FeedbackIn,
    FeedbackOut,
    MessageOut,
    MessagesOut,
    ProblemOut,
    ReplyOut,
    SessionOut,
    SessionsOut,
    SpentOut,
    StoppedOut,
    feedback_out,
    reply_out,
)
from conversations.feedback import Opinion, UnfitOpinion
from conversations.models import Conversation, Message
from conversations.reply.runner import runner
from conversations.rights import deleting as rights
from conversations.turn import Refusal, TextArrived, Turn, request_stop

logger = structlog.get_logger(__name__)

PATIENCE_SECONDS = 120.0
HEARTBEAT_SECONDS = 15.0
EVENT_STREAM = "text/event-stream"

_DESCRIPTION = (
    "Everything wants `Authorization: Bearer parley_…`, a token from the page of your account."
    " Errors are problem details (RFC 9457) whose `type` is the path of a page that explains it."
)


class _Json(Parser):
    """Reads bodies strictly: UTF-8 without lone surrogates, no NaN, bounded depth."""

    def parse_body(self, request: HttpRequest) -> Any:
        """Return what the body holds. Raises ValueError, of which Django Ninja makes HttpError."""
        return orjson.loads(request.body)


class _Api(NinjaAPI):
    """Django Ninja with problem details in place of its own errors, in its document too."""

    document: OpenAPISchema | None = None

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        """Return the OpenAPI document; made once, because that takes long and anybody may ask."""
        if self.document is None:
            self.document = self._make_document(**options)
        return self.document

    def _make_document(self, **options: Any) -> OpenAPISchema:
        """Let errors have the media type that they are sent with."""
        document = super().get_openapi_schema(**options)
        for operations in document["paths"].values():
            for operation in operations.values():
                for status, answer in operation["responses"].items():
                    if int(status) >= 400 and "application/json" in answer.get("content", {}):
                        answer["content"][MEDIA_TYPE] = answer["content"].pop("application/json")
        return document

    def _get_urls(self) -> list[URLResolver | URLPattern]:
        patterns = super()._get_urls()
        for pattern in patterns:
            if isinstance(pattern, URLPattern) and pattern.name != "openapi-json":
                pattern.callback = _telling_methods(pattern.callback)
        return patterns


def _telling_methods(view: Callable[..., Any]) -> Callable[..., Any]:
    async def told(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response: HttpResponseBase = await view(request, *args, **kwargs)
        if response.status_code != 405:
            return response
        problem = Problem("method_not_allowed").response()
        problem.headers["Allow"] = response.headers["Allow"]
        return problem

    told.csrf_exempt = True  # type: ignore[attr-defined]
    return told


api = _Api(
    title="Parley",
    version="1",
    description=_DESCRIPTION,
    openapi_url="/api/v1/openapi.json",
    docs_url=None,
    urls_namespace="api",
    parser=_Json(),
)

CHAT, READ = Bearer(ApiToken.Scope.CHAT), Bearer(ApiToken.Scope.READ)
Key = Annotated[
    str | None,
    Header(
        None,
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,64}$",
        description="Made by you for each message; repeated with a retry of it.",
    ),
]
Limit = Annotated[int, Query(50, ge=1, le=100)]


def _or_problems(success: dict[int, Any], *statuses: int) -> dict[Any, Any]:
    """Return Ninja's table of responses: `success`, and problems with the other statuses."""
    always = {400, 401, 403, 405, 422, 429, 500, 503}
    return success | dict.fromkeys(sorted(always | set(statuses)), ProblemOut)


# --- asking ----------------------------------------------------------------------------------

_STREAMED = {
    "responses": {
        200: {
            "content": {
                EVENT_STREAM: {
                    "schema": {
                        "type": "string",
                        "description": "Events turn.started, thinking.delta, text.delta and"
                        " turn.ended, each with a JSON object as data.",
                    }
                }
            }
        }
    }
}


@api.post(
    "/chat",
    auth=CHAT,
    operation_id="chat",
    summary="Ask",
    tags=["chat"],
    response=_or_problems({200: ReplyOut, 202: ReplyOut}, 404, 409, 413, 502, 504),
    openapi_extra=_STREAMED,
)
async def chat(request: HttpRequest, response: HttpResponse, body: AskIn, key: Key = None) -> Any:
    """Send a message, in a new session or in `session_id`, and get the reply.

    With `Accept: text/event-stream` it arrives as it is written. Without, the answer comes when the
    reply has ended, with 200; after two minutes with what there is and 202. What the client does
    meanwhile does not matter to the reply: it is read at
    `/api/v1/sessions/{session_id}/messages/{message_id}`.
    """
    question = asking.Asking(_token(request), body.user_message, key or "", body.session_id)
    fields = await asking.admit(question.token)
    turn = await asking.begin(question)
    if EVENT_STREAM in request.headers.get("Accept", ""):
        stream = event_stream(_events(turn))
        for name, value in fields.items():
            stream[name] = value
        return stream
    for name, value in fields.items():
        response.headers[name] = value
    reply = await asking.ended(turn.reply.pk, within_seconds=PATIENCE_SECONDS)
    if reply.state in {Message.State.FAILED, Message.State.INTERRUPTED}:
        raise _failed(reply)
    return Status(202 if reply.is_open else 200, reply_out(reply))


def event_stream(events: AsyncGenerator[bytes, None]) -> StreamingHttpResponse:
    """Return the answer that sends `events` as they come, past every buffer on the way."""
    return StreamingHttpResponse(
        events,
        content_type=EVENT_STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(turn: Turn) -> AsyncGenerator[bytes, None]:
    reply = turn.reply
    begun = {"session_id": reply.conversation_id, "message_id": reply.pk, "model": reply.model}
    yield _event("turn.started", begun)
    told = asking.with_pauses(asking.follow(reply.pk), HEARTBEAT_SECONDS)
    async for one in told:
        if one is None:
            yield b": still here\n\n"
        elif isinstance(one, Message):
            yield _event("turn.ended", _ended(one))
        else:
            name = "text.delta" if isinstance(one, TextArrived) else "thinking.delta"
            yield _event(name, {"text": one.text})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data))


def _ended(reply: Message) -> dict[str, Any]:
    ended = reply_out(reply)
    if reply.state in {Message.State.FAILED, Message.State.INTERRUPTED}:
        ended["problem"] = Problem.of_reply(reply).document()
    return ended


def _failed(reply: Message) -> Problem:
    """The problem names what is there all the same: the session, the reply and its text so far."""
    return Problem.of_reply(
        reply,
        session_id=str(reply.conversation_id),
        message_id=str(reply.pk),
        reply=reply.shown_content or "",
    )


@api.post(
    "/api/v1/sessions/{uuid:session_id}/stop",
    auth=CHAT,
    operation_id="stop",
    summary="Stop the open reply",
    tags=["chat"],
    response=_or_problems({202: StoppedOut}, 404),
)
async def stop(request: HttpRequest, session_id: uuid.UUID) -> Any:
    """Stop the reply that is being written in the session; its text so far is kept."""
    reply = await db(request_stop)(session_id, by=_token(request).user)
    if reply:
        await runner().stop(reply)
    return Status(202, {"message_id": reply.pk if reply else None})


# --- reading ---------------------------------------------------------------------------------


@api.get(
    "/api/v1/sessions",
    auth=READ,
    operation_id="list_sessions",
    summary="List sessions",
    tags=["sessions"],
    response=_or_problems({200: SessionsOut}),
)
async def list_sessions(
    request: HttpRequest,
    limit: Limit = 50,
    cursor: Annotated[str | None, Field(max_length=200)] = None,
) -> Any:
    """Your sessions, those with the newest message first."""
    return await db(reading.sessions)(_token(request).user, cursor, limit)


@api.get(
    "/api/v1/sessions/{uuid:session_id}",
    auth=READ,
    operation_id="get_session",
    summary="Get a session",
    tags=["sessions"],
    response=_or_problems({200: SessionOut}, 404),
)
async def get_session(request: HttpRequest, session_id: uuid.UUID) -> Any:
    """One of your sessions."""
    return await db(reading.session)(_token(request).user, session_id)


@api.delete(
    "/api/v1/sessions/{uuid:session_id}",
    auth=CHAT,
    operation_id="delete_session",
    summary="Delete a session",
    tags=["sessions"],
    response=_or_problems({204: None}, 404),
)
async def delete_session(request: HttpRequest, session_id: uuid.UUID) -> Any:
    """Delete one of your sessions: nobody reads it any more, and a reply in it is stopped.

    It is destroyed after the minutes for undo, ten by default; until then the page of your data
    brings it back.
    """
    for reply in await db(rights.delete)(session_id, by=_token(request).user):
        await runner().stop(reply)
    return Status(204, None)


@api.get(
    "/api/v1/sessions/{uuid:session_id}/messages",
    auth=READ,
    operation_id="list_messages",
    summary="List messages",
    tags=["sessions"],
    response=_or_problems({200: MessagesOut}, 404),
)
async def list_messages(
    request: HttpRequest,
    session_id: uuid.UUID,
    limit: Limit = 50,
    cursor: uuid.UUID | None = None,
) -> Any:
    """The messages of the session's branch, oldest first."""
    return await db(reading.messages)(_token(request).user, session_id, cursor, limit)


@api.get(
    "/api/v1/sessions/{uuid:session_id}/messages/{uuid:message_id}",
    auth=READ,
    operation_id="get_message",
    summary="Get a message",
    tags=["sessions"],
    response=_or_problems({200: MessageOut}, 404),
)
async def get_message(request: HttpRequest, session_id: uuid.UUID, message_id: uuid.UUID) -> Any:
    """One message; a reply that is still being written, as far as it is stored."""
    return await db(reading.message)(_token(request).user, session_id, message_id)


@api.put(
    "/api/v1/sessions/{uuid:session_id}/messages/{uuid:message_id}/feedback",
    auth=CHAT,
    operation_id="rate",
    summary="Rate a reply",
    tags=["feedback"],
    response=_or_problems({200: FeedbackOut}, 404, 413),
)
async def rate(
    request: HttpRequest, session_id: uuid.UUID, message_id: uuid.UUID, body: FeedbackIn
) -> Any:
    """Give a reply a thumb and, if you like, reasons and words. What was given is replaced."""
    opinion = Opinion(body.rating, body.reasons, body.comment)
    try:
        return await db(_rate)(_token(request).user, session_id, message_id, opinion)
    except UnfitOpinion as error:
        where = {"at": f"body.{error.part}", "message": str(error)}
        raise Problem("invalid", errors=[where]) from error


def _rate(
    user: User, session_id: uuid.UUID, message_id: uuid.UUID, opinion: Opinion
) -> dict[str, Any]:
    return feedback_out(feedback.rate(user, session_id, message_id, opinion))


@api.delete(
    "/api/v1/sessions/{uuid:session_id}/messages/{uuid:message_id}/feedback",
    auth=CHAT,
    operation_id="unrate",
    summary="Take a rating back",
    tags=["feedback"],
    response=_or_problems({204: None}, 404),
)
async def unrate(request: HttpRequest, session_id: uuid.UUID, message_id: uuid.UUID) -> Any:
    """Take back what you thought of a reply; nothing happens when there is no rating."""
    await db(feedback.unrate)(_token(request).user, session_id, message_id)
    return Status(204, None)


@api.get(
    "/api/v1/usage",
    auth=READ,
    operation_id="usage",
    summary="Tokens and cost by day",
    tags=["usage"],
    response=_or_problems({200: SpentOut}),
)
async def usage(request: HttpRequest, days: Annotated[int, Query(30, ge=1, le=366)] = 30) -> Any:
    """What your replies took, by day (UTC), today included."""
    return await db(reading.usage)(_token(request).user, days)


def _token(request: HttpRequest) -> ApiToken:
    token = request.auth  # type: ignore[attr-defined]
    assert isinstance(token, ApiToken)
    return token


# --- what goes wrong -------------------------------------------------------------------------


def problem_of(error: Exception) -> Problem:  # noqa: PLR0911 - a table of kinds
    """Return the problem that `error` means; logs it when it is one of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refusal):
        return Problem.of_refusal(error)
    if isinstance(error, Denied):
        return Problem("forbidden", str(error))
    if isinstance(error, Conversation.DoesNotExist | Message.DoesNotExist | Http404):
        return Problem("not_found")
    if isinstance(error, RequestDataTooBig):
        return Problem("too_long")
    if isinstance(error, RawPostDataException | UnreadablePostError):
        return Problem("malformed")
    if isinstance(error, DatabaseError | InterfaceError):
        logger.warning("door_unavailable", error=type(error).__name__)
        return Problem("unavailable")
    logger.error("door_crashed", exc_info=error)
    return Problem("internal")


@api.exception_handler(Exception)
def _tell(request: HttpRequest, error: Exception) -> HttpResponse:
    return problem_of(error).response()


@api.exception_handler(Http404)
def _tell_missing(request: HttpRequest, error: Http404) -> HttpResponse:
    return Problem("not_found").response()


@api.exception_handler(AuthenticationError)
def _tell_stranger(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
    return Problem("unauthorised").response()


@api.exception_handler(HttpError)
def _tell_unreadable(request: HttpRequest, error: HttpError) -> HttpResponse:
    # Nothing else raises it here: the body was no JSON.
    return Problem("malformed").response()


@api.exception_handler(ValidationError)
def _tell_invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    # The values themselves are left out: they are what people say.
    errors = [{"at": _place(one["loc"]), "message": str(one["msg"])} for one in error.errors]
    return Problem("invalid", errors=errors).response()


def _place(location: tuple[Any, ...]) -> str:
    """Return `body.user_message` for Ninja's `("body", "body", "user_message")`."""
    source, *inside = map(str, location)
    is_wrapped = source == "body" and inside[:1] == ["body"]
    return ".".join([source, *(inside[1:] if is_wrapped else inside)])


async def unknown(request: HttpRequest) -> HttpResponse:
    """Answer for addresses below /api/ that there are not."""
    return Problem("not_found").response()


unknown.csrf_exempt = True  # type: ignore[attr-defined]
