"""The chat-completions wire format of OpenAI-compatible servers, seen from the server's side.

What a request asks for, and how a reply is put into JSON and server-sent events
(https://platform.openai.com/docs/api-reference/chat, WHATWG HTML 9.2 for the event stream).
No I/O happens here.
"""

import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import orjson

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"

# A token is about as much as a model's tokenizer makes of English: a short word with the space
# before it, part of a long word, or a few signs.
_PIECE = re.compile(r"\s*\w{1,8}|\s*[^\w\s]{1,4}|\s+")
_ORDERS_TITLE = re.compile(
    # An order opens its sentence; "can I give it a title?" is a question about titles.
    r"(?:^|[.!:]\s+)(?:please\s+)?"
    r"(?:answer|create|find|generate|give|make|produce|reply|respond|suggest|write)\b"
    r"[^.!?\n]{0,80}\btitle\b"
    r"|\b(?:brief|concise|short)\b[^.!?\n]{0,40}\btitle\b",
    re.IGNORECASE | re.MULTILINE,
)
_TITLE = re.compile(r"\btitle\b", re.IGNORECASE)


class MalformedRequestError(ValueError):
    """The request's body is not a chat-completions request; the text says why."""


def pieces(text: str) -> list[str]:
    """Cut a text into token-like pieces; joined they are the text again."""
    return _PIECE.findall(text)


def estimated_tokens(messages: list[Json]) -> int:
    """Estimate the tokens of messages: four for every three words."""
    return sum(len(text_of(message).split()) for message in messages) * 4 // 3


def text_of(message: Json) -> str:
    """Return a message's text, whether its content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def last_question(messages: list[Json]) -> str:
    """Return the text of the last user message, empty if there is none."""
    return next((text_of(m) for m in reversed(messages) if m.get("role") == "user"), "")


def asks_for_title(messages: list[Json]) -> bool:
    """Tell a request for a conversation's title from an ordinary question.

    The order stands in a system message (a short one need only hold the word), or at the start or
    the end of the last message, around the text that is to be named.
    """
    last = text_of(messages[-1])
    if _ORDERS_TITLE.search(last[:200]) or _ORDERS_TITLE.search(last[-200:]):
        return True
    orders = [text_of(m) for m in messages if m.get("role") in {"system", "developer"}]
    return any(
        _ORDERS_TITLE.search(order) or (len(order) <= 600 and _TITLE.search(order))
        for order in orders
    )


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """The fields of a request that a server of ours looks at."""

    messages: list[Json]
    model: str
    stream: bool
    include_usage: bool
    max_tokens: int | None

    @classmethod
    def parse(cls, body: bytes) -> "CompletionRequest":
        """Read a request's body; raises MalformedRequestError."""
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise MalformedRequestError("The body is not valid JSON.") from error
        if not isinstance(fields, dict):
            raise MalformedRequestError("The body must be an object.")
        messages = fields.get("messages")
        if not isinstance(messages, list) or not messages:
            raise MalformedRequestError("'messages' must be a list that is not empty.")
        if not all(isinstance(message, dict) for message in messages):
            raise MalformedRequestError("Every message must be an object.")
        options = fields.get("stream_options")
        limit = fields.get("max_completion_tokens", fields.get("max_tokens"))
        return cls(
            messages=messages,
            model=str(fields.get("model") or "unnamed"),
            stream=fields.get("stream") is True,
            include_usage=isinstance(options, dict) and options.get("include_usage") is True,
            max_tokens=limit if isinstance(limit, int) and limit > 0 else None,
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """One reply's envelope: all its chunks carry the same id, time and model."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        """Return a chunk of a streamed reply."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return self._envelope("chat.completion.chunk", [choice])

    def usage_chunk(self, usage: Json) -> Json:
        """Return the last chunk of a stream, which has figures and no choices."""
        return self._envelope("chat.completion.chunk", []) | {"usage": usage}

    def whole(self, message: Json, finish_reason: str, usage: Json) -> Json:
        """Return a reply that is not streamed."""
        choice = {
            "index": 0,
            "message": {"role": "assistant"} | message,
            "finish_reason": finish_reason,
        }
        return self._envelope("chat.completion", [choice]) | {"usage": usage}

    def _envelope(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def usage(prompt: int, completion: int, reasoning: int = 0) -> Json:
    """Return usage figures in tokens; the completion's tokens include those of the reasoning."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def error(message: str, kind: str, code: str | None = None) -> Json:
    """Return an error as OpenAI-compatible servers word it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def model_list(*names: str) -> Json:
    """Return the answer to GET /v1/models."""
    models = [{"id": n, "object": "model", "created": 0, "owned_by": "parley"} for n in names]
    return {"object": "list", "data": models}


def event(payload: Json) -> bytes:
    """Encode one server-sent event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"
