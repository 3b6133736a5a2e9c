"""An OpenAI-compatible server that is plainly no AI, for trying Parley without a provider.

It runs as a process of its own and speaks the protocol that any provider speaks, so that nothing
in the application needs to know it is there:

    uvicorn chatbot.local.demo_provider:application
    python -m chatbot.local.demo_provider --port 8900

POST /v1/chat/completions (streamed or not), GET /v1/models, GET /health. Any key will do. What it
says is in `demo_answers`. It imports no Django and no app, and starts in a fraction of a second.
"""

import argparse
import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import orjson

from chatbot.local.completions import (
    DONE,
    Completion,
    CompletionRequest,
    Json,
    MalformedRequestError,
    error,
    estimated_tokens,
    event,
    model_list,
    pieces,
    usage,
)
from chatbot.local.demo_answers import Answers, Fault, Script
from chatbot.local.demo_topics import Topics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

MODEL = "parley-demo"
DOCS = Path(__file__).resolve().parents[2] / "docs"

_LONGEST_BODY_BYTES = 32 * 2**20
_JSON: Header = (b"content-type", b"application/json")
_EVENTS: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
]
_GARBAGE = b'data: {"id": "chatcmpl-\xff\xfe\x00 this is no JSON\n\ndata: ]]>\n\n'


class _ConnectionBroken(Exception):
    """The script says that the connection breaks here."""


class DemoProvider:
    """The server as an ASGI application.

    `tokens_per_second` and `first_token_seconds` are the pace of replies that ask for none of
    their own.
    """

    def __init__(
        self,
        docs: Path = DOCS,
        *,
        tokens_per_second: float = 60.0,
        first_token_seconds: float = 0.15,
    ) -> None:
        topics = Topics.read(docs)
        self._topic_count = len(topics.sections)
        self._answers = Answers(topics)
        self._tokens_per_second = tokens_per_second
        self._first_token_seconds = first_token_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the server's lifespan."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._route(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["method"], scope["path"]:
            case "GET", "/health":
                health = {"status": "ok", "demo": True, "topics": self._topic_count}
                await _send_json(send, 200, health)
            case "GET", "/v1/models":
                await _send_json(send, 200, model_list(MODEL))
            case "POST", "/v1/chat/completions":
                await self._complete(receive, send)
            case _, "/health" | "/v1/models" | "/v1/chat/completions":
                await _send_error(send, 405, "This method is not allowed here.")
            case _:
                await _send_error(send, 404, "There is nothing at this address.")

    async def _complete(self, receive: Receive, send: Send) -> None:
        try:
            request = CompletionRequest.parse(await _body(receive))
        except MalformedRequestError as bad:
            await _send_error(send, 400, str(bad))
            return
        script = self._answers.script(request.messages)
        if script.status != 200:
            await _send_error(send, script.status, script.text, script.retry_after_seconds)
            return
        reply = _Reply(request, script, self._pauses(script))
        await _while_connected(receive, reply.stream(send) if request.stream else reply.whole(send))

    def _pauses(self, script: Script) -> tuple[float, float]:
        """Return the seconds before the first token, and between two tokens."""
        first = script.first_token_seconds
        rate = script.tokens_per_second or self._tokens_per_second
        return self._first_token_seconds if first is None else first, 1 / rate


class _Reply:
    """One reply being given."""

    def __init__(
        self, request: CompletionRequest, script: Script, pauses: tuple[float, float]
    ) -> None:
        self._request = request
        self._script = script
        self._first_seconds, self._between_seconds = pauses
        self._completion = Completion(request.model)
        self._thinking, self._text = pieces(script.thinking), pieces(script.text)
        self._finish_reason = script.finish_reason
        limit = request.max_tokens
        if limit is not None and limit < len(self._thinking) + len(self._text):
            self._thinking = self._thinking[:limit]
            self._text = self._text[: limit - len(self._thinking)]
            self._finish_reason = "length"

    async def stream(self, send: Send) -> None:
        """Send the reply as server-sent events."""
        await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
        # A stream that asks for usage has the field in every chunk (null but in the last).
        extra: Json = {"usage": None} if self._request.include_usage else {}
        try:
            async for chunk in self._chunks():
                await _send_part(send, event(chunk | extra))
        except _ConnectionBroken:
            # Returning in mid-response makes the server cut the connection.
            return
        if self._script.fault is Fault.GARBAGE:
            await _send_part(send, _GARBAGE)
        elif self._request.include_usage:
            await _send_part(send, event(self._completion.usage_chunk(self._usage())))
        await _send_part(send, DONE, more=False)

    async def _chunks(self) -> AsyncIterator[Json]:
        chunk = self._completion.chunk
        await asyncio.sleep(self._first_seconds)
        yield chunk({"role": "assistant", "content": ""})
        async for name, piece in self._paced():
            yield chunk({name: piece})
        await self._go_wrong()
        yield chunk({}, self._finish_reason)

    async def _paced(self) -> AsyncIterator[tuple[str, str]]:
        """Yield the deltas, each when it is due."""
        deltas = [("reasoning_content", piece) for piece in self._thinking]
        deltas += [("content", piece) for piece in self._text]
        clock = asyncio.get_running_loop().time
        due = clock()
        for delta in deltas:
            yield delta
            # A reader that was slow is not flooded afterwards: what is late moves what follows.
            due = max(due + self._between_seconds, clock())
            await asyncio.sleep(due - clock())

    async def _go_wrong(self) -> None:
        if self._script.fault is Fault.RESET:
            raise _ConnectionBroken
        if self._script.fault is Fault.SILENCE:
            await asyncio.Event().wait()

    async def whole(self, send: Send) -> None:
        """Send the reply in one piece, as late as its last token would come."""
        tokens = len(self._thinking) + len(self._text)
        await asyncio.sleep(self._first_seconds + tokens * self._between_seconds)
        message: Json = {"content": "".join(self._text)}
        if self._thinking:
            message["reasoning_content"] = "".join(self._thinking)
        body = orjson.dumps(self._completion.whole(message, self._finish_reason, self._usage()))
        try:
            await self._go_wrong()
        except _ConnectionBroken:
            await _send_start(send, 200, len(body))
            await _send_part(send, body[: len(body) // 2])
            return
        await _send_body(send, 200, _GARBAGE if self._script.fault is Fault.GARBAGE else body)

    def _usage(self) -> Json:
        thinking = len(self._thinking)
        return usage(estimated_tokens(self._request.messages), thinking + len(self._text), thinking)


async def _while_connected(receive: Receive, work: Awaitable[None]) -> None:
    """Do the work, and stop in the middle of it when the client goes away."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_client_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        gave_up = working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
        if gave_up:
            with contextlib.suppress(asyncio.CancelledError):
                await working
    if not gave_up:
        working.result()


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _LONGEST_BODY_BYTES:
            raise MalformedRequestError("The body is too long.")
        if not message.get("more_body"):
            return bytes(body)


async def _send_error(
    send: Send, status: int, text: str, retry_after_seconds: int | None = None
) -> None:
    kinds = {429: "rate_limit_error", 500: "server_error"}
    headers = []
    if retry_after_seconds is not None:
        headers.append((b"retry-after", str(retry_after_seconds).encode()))
    body = error(text, kinds.get(status, "invalid_request_error"))
    await _send_body(send, status, orjson.dumps(body), headers)


async def _send_json(send: Send, status: int, payload: Json) -> None:
    await _send_body(send, status, orjson.dumps(payload))


async def _send_body(
    send: Send, status: int, body: bytes, headers: list[Header] | None = None
) -> None:
    await _send_start(send, status, len(body), headers)
    await _send_part(send, body, more=False)


async def _send_start(
    send: Send, status: int, length: int, headers: list[Header] | None = None
) -> None:
    given = [_JSON, (b"content-length", str(length).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": given})


async def _send_part(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


application = DemoProvider()


def main() -> None:
    """Serve on a loopback port, 0 for any that is free, and print the address."""
    import uvicorn  # noqa: PLC0415 - the application itself needs no server

    parser = argparse.ArgumentParser(prog="python -m chatbot.local.demo_provider")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens-per-second", type=float, default=60.0)
    parser.add_argument("--first-token-seconds", type=float, default=0.15)
    chosen = parser.parse_args()
    served = DemoProvider(
        tokens_per_second=chosen.tokens_per_second,
        first_token_seconds=chosen.first_token_seconds,
    )
    listener = socket.create_server(("127.0.0.1", chosen.port))
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        served, ws="none", log_level="warning", access_log=False, timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
