"""The shapes of OpenAI's chat completions: what we take of a request, and how answers look.

Source: OpenAI's API reference, "Chat completions". What is not supported is refused by name, so
that nobody believes it to have worked.
"""

import time
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conversations.doors.problems import Problem
from conversations.models import Message
from conversations.turn.faults import refusal_of
from prompts.provider import ChatMessage

MAX_MESSAGES = 1000

Delta = dict[str, str]

# Accepted without effect: they name the caller's user or tune what only OpenAI's servers have.
_WITHOUT_EFFECT = {
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
}
# Accepted at the value that asks for nothing.
_NEUTRAL: dict[str, Sequence[Any]] = {
    "n": (1,),
    "logprobs": (False,),
    "store": (False,),
    "tool_choice": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "parallel_tool_calls": (True, False),
}
_PASSED_ON = (
    "temperature",
    "top_p",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
)


class Unsupported(Exception):
    """The request asks for something that there is not here. `param` names it."""

    def __init__(self, message: str, param: str, code: str = "unsupported_parameter") -> None:
        super().__init__(message)
        self.param, self.code = param, code


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")
    type: str
    text: str = ""


class MessageIn(BaseModel):
    """One message of the client's history."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[_Part] | None = None


class StreamOptions(BaseModel):
    """What a stream tells besides the text."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class CompletionIn(BaseModel):
    """A request. Members that are not listed here are checked by `checked`."""

    model_config = ConfigDict(extra="allow")
    model: str
    messages: list[MessageIn] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def parameters(self) -> dict[str, Any]:
        """Return what goes to the provider, under the provider's names."""
        named = {name: getattr(self, name) for name in _PASSED_ON}
        named["max_tokens"] = self.max_completion_tokens or self.max_tokens
        return {name: value for name, value in named.items() if value is not None}


def checked(request: Any) -> CompletionIn:
    """Return the request as we understand it. Raises Unsupported."""
    try:
        completion = CompletionIn.model_validate(request)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Unsupported(f"{place}: {first['msg']}", place, "invalid_value") from error
    for name, value in (completion.model_extra or {}).items():
        if not _asks_for_nothing(name, value):
            raise Unsupported(f"`{name[:64]}` is not supported here.", name[:64])
    return completion


def _asks_for_nothing(name: str, value: Any) -> bool:
    is_empty = value is None or value in ([], {})
    return is_empty or name in _WITHOUT_EFFECT or value in _NEUTRAL.get(name, ())


def said(completion: CompletionIn) -> tuple[list[ChatMessage], str]:
    """Return the history before the last message, and that one's text. Raises Unsupported."""
    told = [_plain(message, place) for place, message in enumerate(completion.messages)]
    if told[-1]["role"] != Message.Role.USER:
        raise Unsupported("The last message must be the user's.", "messages", "invalid_value")
    return told[:-1], told[-1]["content"]


_ROLES = {"developer": "system", **{role: role for role in ("system", "user", "assistant")}}


def _plain(message: MessageIn, place: int) -> ChatMessage:
    where = f"messages.{place}"
    if message.role not in _ROLES:
        raise Unsupported(
            f"{where}.role: Only system, developer, user and assistant are supported.",
            f"{where}.role",
        )
    for name, value in (message.model_extra or {}).items():
        if value and name != "reasoning_content":
            raise Unsupported(f"{where}: `{name[:64]}` is not supported here.", where)
    return {"role": _ROLES[message.role], "content": _text(message.content, where)}


def _text(content: str | list[_Part] | None, where: str) -> str:
    if not isinstance(content, list):
        return content or ""
    if any(part.type != "text" for part in content):
        raise Unsupported(f"{where}.content: Only parts of type text are supported.", where)
    return "\n".join(part.text for part in content)


# --- answers ---------------------------------------------------------------------------------


def completion_of(reply: Message) -> dict[str, Any]:
    """Return the answer for a reply that has ended."""
    refusal = refusal_of(reply)
    message = {"role": "assistant", "content": reply.shown_content or "", "refusal": refusal}
    if thinking := reply.shown_thinking:
        message["reasoning_content"] = thinking
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": _finish_reason(reply),
        "logprobs": None,
    }
    return _head(reply, "chat.completion") | {"choices": [choice], "usage": _usage(reply)}


def chunk_of(reply: Message, delta: Delta) -> dict[str, Any]:
    """Return a chunk with a piece of the reply."""
    return _chunk(reply, [{"index": 0, "delta": delta, "finish_reason": None}])


def last_chunk(reply: Message) -> dict[str, Any]:
    """Return the chunk that says why the reply ended."""
    refusal = refusal_of(reply)
    delta = {"refusal": refusal} if refusal else {}
    return _chunk(reply, [{"index": 0, "delta": delta, "finish_reason": _finish_reason(reply)}])


def usage_chunk(reply: Message) -> dict[str, Any]:
    """Return the chunk of usage, which has no choice."""
    return _chunk(reply, []) | {"usage": _usage(reply)}


def _chunk(reply: Message, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return _head(reply, "chat.completion.chunk") | {"choices": choices}


def _head(reply: Message, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{reply.pk.hex}",
        "object": kind,
        "created": int(reply.created_at.timestamp()),
        "model": reply.model,
    }


def _finish_reason(reply: Message) -> Literal["stop", "length", "content_filter"]:
    if reply.state == Message.State.REFUSED:
        return "content_filter"
    return "length" if reply.finish_reason == "length" else "stop"


def _usage(reply: Message) -> dict[str, Any] | None:
    if reply.tokens_in is None and reply.tokens_out is None:
        return None
    tokens_in, tokens_out = reply.tokens_in or 0, reply.tokens_out or 0
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "prompt_tokens_details": {"cached_tokens": reply.tokens_cached or 0},
    }


def model_of(name: str) -> dict[str, Any]:
    """Return a model of the list."""
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": "parley"}


_STARTED = int(time.time())

# Where OpenAI has a code of its own, its clients look for that.
_CODES = {
    "unauthorised": "invalid_api_key",
    "too_many": "rate_limit_exceeded",
    "budget_spent": "insufficient_quota",
}
_TYPES = {
    "too_many": "rate_limit_error",
    "budget_spent": "insufficient_quota",
    "forbidden": "permission_error",
    "forbidden_scope": "permission_error",
}


def error_of(problem: Problem) -> dict[str, Any]:
    """Return the problem in OpenAI's shape."""
    code = problem.kind.code
    by_status = "server_error" if problem.kind.status >= 500 else "invalid_request_error"
    return error(problem.detail, _TYPES.get(code, by_status), None, _CODES.get(code, code))


def error(message: str, kind: str, param: str | None, code: str) -> dict[str, Any]:
    """Return OpenAI's shape of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
