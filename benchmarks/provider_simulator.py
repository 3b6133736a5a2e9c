"""A provider simulator: an OpenAI-compatible server that does exactly what each request tells it.

    python -m benchmarks.provider_simulator --port 0 --defaults '{"tokens": 200}'

    with running_simulator() as base_url:
        ask(base_url, "Hello\\n" + sim(tokens=20, reset_after=5))

The control is a line `@sim {"tokens": 20, "reset_after": 5}` in the last user message, so that it
passes unchanged through whatever stands between. What a request leaves out comes from the server's
defaults, see `Control`. An unknown field is refused with status 400, so that typing mistakes show.

POST …/chat/completions, GET …/models; GET /sim/requests (`?tokens=1` with the time of every token)
and DELETE /sim/requests for the record of what was asked and how it went. All times are seconds of
CLOCK_MONOTONIC (`time.monotonic()`), which all processes of one Linux machine share.

POST …/moderations flags a text that holds `@flagged` as harassment, and fails with status 500 for
one that holds `@failing`.

It is a raw asyncio protocol without a task per stream, fast enough that it is not what a benchmark
measures: one core carries some hundred streams of 50 tokens/s.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httptools
import orjson

from chatbot.local.completions import (
    DONE,
    Completion,
    CompletionRequest,
    Json,
    MalformedRequestError,
    asks_for_title,
    error,
    estimated_tokens,
    event,
    last_question,
    model_list,
    pieces,
    text_of,
    usage,
)

TITLE = "Simulated conversation"
MODEL = "simulated"
FLAGGED = "@flagged"

_CONTROL_LINE = re.compile(r"^@sim (\{.*\})\s*$", re.MULTILINE)
_PARTS_A_TICK = 256
_RECORDS = 20_000
_GARBAGE = b'data: {"id": "chatcmpl-\xff\xfe\x00 no JSON\n\nretry: x\n\n\xc3\n\n'
_HTML = b"<!doctype html><title>Sign in</title><h1>This is no API</h1>"
_PHRASES = {
    200: "OK", 302: "Found", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 408: "Request Timeout", 413: "Content Too Large", 429: "Too Many Requests",
    500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Control:
    """What one reply is like. Positions (`…_after`) count tokens, reasoning included.

    Pace: headers after `header_seconds`, the first token `first_token_seconds` later, then
    `tokens_per_second` (0: all at once), `chunk` tokens to an event.

    Text: `text` if given (cut to `chunk_characters` characters a token if that is not 0), else
    `tokens` tokens of `kind` (prose, markdown, code, unicode); before it `reasoning` tokens, in
    the field `reasoning_field`. `usage` false leaves the figures out though they were asked for.

    Refusals: `status` other than 200, with `retry_after` seconds (or the header's text);
    `html` (a page of HTML with status 200); `content_type` (a stream that says it is something
    else); `redirect` (302 to this address).

    Faults: `reset_after` (TCP RST; 0 after the headers, -1 instead of a response), `close_after`
    (the connection ends in mid-body), `end_after` (the body ends as if complete, with neither
    finish reason nor [DONE]), `stall_after` (silence for good), `garbage_after` (no JSON, no
    UTF-8), `error_event_after` (an error object in the stream), `empty` (a body without events),
    `no_choices` (chunks without choices), `huge_chunk` (first a token of so many MB).

    Encoding: `split` sends the body in parts of 1 to so many bytes, cut anywhere, also inside of
    UTF-8 sequences; `crlf` ends lines with CR LF; `comments` puts a comment before every event.

    `times` limits all this to the first so many requests with the same last user message; later
    ones are controlled by `then`. `title` is the control of a title request that quotes this line.
    """

    header_seconds: float = 0.0
    first_token_seconds: float = 0.0
    tokens_per_second: float = 50.0
    chunk: int = 1
    text: str | None = None
    chunk_characters: int = 0
    tokens: int = 100
    kind: str = "prose"
    reasoning: int = 0
    reasoning_field: str = "reasoning_content"
    finish_reason: str = "stop"
    usage: bool = True
    status: int = 200
    retry_after: float | str | None = None
    html: bool = False
    content_type: str = "text/event-stream; charset=utf-8"
    redirect: str | None = None
    reset_after: int | None = None
    close_after: int | None = None
    end_after: int | None = None
    stall_after: int | None = None
    garbage_after: int | None = None
    error_event_after: int | None = None
    empty: bool = False
    no_choices: bool = False
    huge_chunk: float = 0.0
    split: int = 0
    crlf: bool = False
    comments: bool = False
    times: int | None = None
    then: Json | None = None
    title: Json | None = None

    FAULTS: ClassVar = ("reset", "close", "end", "stall", "garbage", "error_event")

    def fault(self) -> tuple[str, int] | None:
        """Return the fault's name and the tokens before it."""
        for name in self.FAULTS:
            after = getattr(self, f"{name}_after")
            if after is not None:
                return name, after
        return None

    def deltas(self) -> list[tuple[str, str]]:
        """Return the reply as pairs of field name and token."""
        if self.text is None:
            tokens = sample(self.kind, self.tokens)
        elif self.chunk_characters:
            size = self.chunk_characters
            tokens = tuple(self.text[i : i + size] for i in range(0, len(self.text), size))
        else:
            tokens = tuple(pieces(self.text))
        reasons = zip(repeat(self.reasoning_field), sample("prose", self.reasoning), strict=False)
        return [*reasons, *zip(repeat("content"), tokens, strict=False)]


def sim(**control: Any) -> str:
    """Return the line that controls a request; raises TypeError for a field that is unknown."""
    Control(**control)
    return f"@sim {json.dumps(control)}"


def _controls(given: Json, defaults: Json) -> Control:
    known = {f.name for f in fields(Control)}
    if unknown := given.keys() - known:
        raise MalformedRequestError(f"@sim does not know {', '.join(sorted(unknown))}.")
    return Control(**(defaults | given))


_PROSE = (
    "Every reply is written by a server that was told what to write. It has no opinion, it makes "
    "no mistakes of its own, and it never tires. What it sends arrives in small pieces, as the "
    "words of a model would, and the reader sees them grow into sentences. "
)
_MARKDOWN = """## Part {n}

A paragraph with **bold text**, *emphasis*, `code` and a [link](https://example.org/{n}).

- first item of list {n}
- second item, which is longer than the first one
  - an item inside
- last item

| Name | Value |
| --- | ---: |
| part | {n} |
| next | more |

```python
def part_{n}(x: int) -> int:
    return x + {n}
```

> A quotation closes part {n}.

"""
_CODE = """def step_{n}(values: list[int]) -> int:
    # Add up what is above the mark.
    return sum(value for value in values if value > {n})


"""
_UNICODE = "Grüße {n}, 日本語の文章、العربية، Ελληνικά, 👩‍💻👍🏽 und 𠮷野家. "


@lru_cache(maxsize=64)
def sample(kind: str, tokens: int) -> tuple[str, ...]:
    """Return so many tokens of a kind of text, always the same ones; raises KeyError."""
    if tokens <= 0:
        return ()
    template = {"prose": _PROSE, "markdown": _MARKDOWN, "code": _CODE, "unicode": _UNICODE}[kind]
    filled = (template.replace("{n}", str(number)) for number in count(1))
    endless = chain.from_iterable(pieces(text) for text in filled)
    if kind != "code":
        return tuple(piece for piece, _ in zip(endless, range(tokens), strict=False))
    # One fence around everything, closed by the last token.
    inside = [piece for piece, _ in zip(endless, range(max(tokens - 2, 0)), strict=False)]
    return tuple(["```python\n", *inside, "\n```\n"][:tokens])


@dataclass(slots=True)
class Record:
    """How one request went; times are `time.monotonic()`, None for what did not happen."""

    id: int
    path: str
    headers: dict[str, str]
    started_at: float
    model: str = ""
    stream: bool = False
    title: bool = False
    max_tokens: int | None = None
    messages: list[Json] = field(default_factory=list)
    status: int | None = None
    first_byte_at: float | None = None
    first_token_at: float | None = None
    ended_at: float | None = None
    cancelled_at: float | None = None
    outcome: str = "open"
    token_times: list[float] = field(default_factory=list)

    def as_json(self, *, token_times: bool) -> Json:
        """Return the record for /sim/requests."""
        told = asdict(self) | {"tokens_sent": len(self.token_times)}
        if not token_times:
            del told["token_times"]
        return told


class Simulator:
    """What the connections share: the defaults, the record, and how often a question came."""

    def __init__(self, defaults: Json | None = None) -> None:
        self._defaults = defaults or {}
        _controls(self._defaults, {})
        self._numbers = count(1)
        self.records: deque[Record] = deque(maxlen=_RECORDS)
        self._asked: Counter[tuple[bool, str]] = Counter()

    def record(self, path: str, headers: dict[str, str]) -> Record:
        """Open the record of a request."""
        record = Record(next(self._numbers), path, headers, time.monotonic())
        self.records.append(record)
        return record

    def forget(self) -> None:
        """Forget the record and the counts."""
        self.records.clear()
        self._asked.clear()

    def control(self, request: CompletionRequest) -> Control:
        """Read what a request wants; raises MalformedRequestError."""
        question = last_question(request.messages)
        is_title = asks_for_title(request.messages)
        # The order for a title may come behind the question that holds the line.
        holder = "\n".join(map(text_of, request.messages)) if is_title else question
        found = _CONTROL_LINE.search(holder)
        try:
            given = json.loads(found[1]) if found else {}
            if is_title:
                told = (self._defaults.get("title") or {}) | (given.get("title") or {})
                given = {"text": TITLE, "tokens_per_second": 0} | told
            control = _controls(given, self._defaults)
            self._asked[is_title, question] += 1
            if control.times is not None and self._asked[is_title, question] > control.times:
                control = _controls(control.then or {}, self._defaults)
            control.deltas()
        except MalformedRequestError:
            raise
        except (KeyError, TypeError, ValueError) as wrong:
            raise MalformedRequestError(f"@sim is not understood: {wrong!r}") from wrong
        return control


class Connection(asyncio.Protocol):
    """One connection of a client: requests one after another, each answered as it asks."""

    transport: asyncio.Transport

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._parser = httptools.HttpRequestParser(self)
        self._reply: _Reply | None = None
        self._target, self._headers, self._body = b"", {}, bytearray()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        if self._reply:
            self._reply.client_left()

    def pause_writing(self) -> None:
        if self._reply:
            self._reply.paused = True

    def resume_writing(self) -> None:
        if self._reply:
            self._reply.resume()

    # httptools

    def on_message_begin(self) -> None:
        self._target, self._headers, self._body = b"", {}, bytearray()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        url = urlsplit(self._target.decode("latin-1"))
        match self._parser.get_method(), url.path.rstrip("/"):
            case b"GET", "/sim/requests":
                told = [r.as_json(token_times="tokens=1" in url.query) for r in self._records()]
                self.respond(200, orjson.dumps(told))
            case b"DELETE", "/sim/requests":
                self._simulator.forget()
                self.respond(200, b"{}")
            case b"GET", path if path.endswith("/models"):
                self.respond(200, orjson.dumps(model_list(MODEL)))
            case b"POST", path if path.endswith("/chat/completions"):
                self._complete(path)
            case b"POST", path if path.endswith("/moderations"):
                self._moderate()
            case _:
                self.respond(404, orjson.dumps(error("Not found.", "invalid_request_error")))

    def _records(self) -> list[Record]:
        return list(self._simulator.records)

    def _moderate(self) -> None:
        text = str(orjson.loads(bytes(self._body)).get("input", ""))
        if "@failing" in text:
            self.respond(
                500, orjson.dumps(error("The simulator was told to fail.", "server_error"))
            )
            return
        flagged = FLAGGED in text
        result = {
            "flagged": flagged,
            "categories": {"harassment": flagged, "violence": False},
            "category_scores": {"harassment": float(flagged), "violence": 0.0},
            "category_applied_input_types": {"harassment": ["text"], "violence": ["text"]},
        }
        self.respond(
            200, orjson.dumps({"id": "modr-1", "model": "moderation", "results": [result]})
        )

    def _complete(self, path: str) -> None:
        record = self._simulator.record(path, self._headers)
        try:
            request = CompletionRequest.parse(bytes(self._body))
            record.messages, record.model = request.messages, request.model
            record.stream, record.max_tokens = request.stream, request.max_tokens
            record.title = asks_for_title(request.messages)
            control = self._simulator.control(request)
        except MalformedRequestError as malformed:
            record.status, record.outcome = 400, "refused"
            self.respond(400, orjson.dumps(error(str(malformed), "invalid_request_error")))
            return
        self._reply = _Reply(self, request, control, record)

    def respond(
        self, status: int, body: bytes, kind: str = "application/json", *headers: str
    ) -> None:
        """Send a complete response."""
        self.start(status, f"content-type: {kind}", f"content-length: {len(body)}", *headers)
        self.transport.write(body)

    def start(self, status: int, *headers: str) -> None:
        """Send a response's head."""
        lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unnamed')}", *headers]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def reset(self) -> None:
        """Break the connection with a TCP RST, behind what is already with the kernel."""
        linger_for_none = struct.pack("ii", 1, 0)
        if self.transport.is_closing():
            return
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_none)
        self.transport.abort()


@dataclass(frozen=True, slots=True)
class _Part:
    """What is written at one time: an event or several, and the tokens in it."""

    body: bytes
    tokens: int = 0


class _Reply:
    """One reply: parts that are written when they are due, by a timer and no task."""

    def __init__(
        self, connection: Connection, request: CompletionRequest, control: Control, record: Record
    ) -> None:
        self._connection, self._request = connection, request
        self._control, self._record = control, record
        self._loop = asyncio.get_running_loop()
        self._deltas = control.deltas()
        self._completion = Completion(request.model)
        self._random = random.Random(len(self._deltas))
        self.paused = False
        self._waiting = False
        self._timer = self._loop.call_later(control.header_seconds, self._begin)

    def _begin(self) -> None:
        control, connection = self._control, self._connection
        if control.reset_after is not None and control.reset_after < 0:
            self._end("reset")
            connection.reset()
            return
        self._record.first_byte_at = time.monotonic()
        self._record.status = control.status
        if control.status != 200:
            after = [] if control.retry_after is None else [f"retry-after: {control.retry_after}"]
            body = orjson.dumps(error("The simulator was told to fail.", "simulated_error"))
            self._refuse(control.status, body, "application/json", *after)
        elif control.redirect is not None:
            self._refuse(302, b"", "text/html", f"location: {control.redirect}")
        elif control.html:
            self._refuse(200, _HTML, "text/html; charset=utf-8")
        elif self._request.stream:
            self._begin_stream()
        else:
            self._begin_whole()

    def _refuse(self, status: int, body: bytes, kind: str, *headers: str) -> None:
        self._record.status = status
        self._connection.respond(status, body, kind, *headers)
        self._end("refused")

    # Streamed

    def _begin_stream(self) -> None:
        self._connection.start(
            200, f"content-type: {self._control.content_type}", "transfer-encoding: chunked"
        )
        if self._control.empty:
            self._finish("completed")
            return
        self._parts = self._stream_parts()
        self._next = next(self._parts, None)
        self._sent = 0
        wait = self._control.first_token_seconds
        self._due = time.monotonic() + wait
        self._timer = self._loop.call_later(wait, self._tick)

    def _tick(self) -> None:
        """Write all that is due, and come again when the next part is."""
        if self.paused:
            self._waiting = True
            return
        rate = self._control.tokens_per_second
        now = time.monotonic()
        # Timers count milliseconds: without this one that fires early would spin.
        due = now + 0.001
        for _ in range(_PARTS_A_TICK):
            if self._next is None or self._due > due or self.paused:
                break
            self._write(self._next)
            self._due += self._next.tokens / rate if rate else 0.0
            self._next = next(self._parts, None)
        if self._next is None:
            self._close_stream()
        elif self.paused:
            self._waiting = True
        else:
            self._timer = self._loop.call_later(max(self._due - now, 0), self._tick)

    def _write(self, part: _Part) -> None:
        if part.tokens:
            now = time.monotonic()
            self._record.first_token_at = self._record.first_token_at or now
            self._record.token_times.extend(repeat(now, part.tokens))
        body = part.body.replace(b"\n", b"\r\n") if self._control.crlf else part.body
        if not self._control.split:
            self._write_chunk(body)
            return
        while body:
            size = self._random.randint(1, self._control.split)
            self._write_chunk(body[:size])
            body = body[size:]

    def _write_chunk(self, data: bytes) -> None:
        self._connection.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _stream_parts(self) -> Iterator[_Part]:
        """Yield what the body is made of, up to a fault that ends it."""
        if self._control.no_choices:
            yield from repeat(_Part(event(self._completion.usage_chunk(self._usage(0)))), 3)
            yield _Part(DONE)
            return
        fault = self._control.fault()
        deltas = self._deltas[: fault[1]] if fault else self._deltas
        yield from self._token_parts(deltas)
        if fault:
            yield from self._fault_parts(fault[0])
            return
        tail = event(self._completion.chunk({}, self._control.finish_reason))
        if self._request.include_usage and self._control.usage:
            tail += event(self._completion.usage_chunk(self._usage(len(deltas))))
        yield _Part(tail + DONE)

    def _token_parts(self, deltas: list[tuple[str, str]]) -> Iterator[_Part]:
        before = b": keep-alive\n\n" if self._control.comments else b""
        opening = event(self._completion.chunk({"role": "assistant", "content": ""}))
        if self._control.huge_chunk:
            huge = "huge " * int(self._control.huge_chunk * 2**20 / 5)
            opening += event(self._completion.chunk({"content": huge}))
        head, tail = self._around_token()
        at = 0
        while at < len(deltas):
            # A chunk never mixes reasoning and content.
            name = deltas[at][0]
            tokens = [t for n, t in deltas[at : at + self._control.chunk] if n == name]
            body = head % name.encode() + orjson.dumps("".join(tokens)) + tail
            yield _Part(opening + before + body, len(tokens))
            opening = b""
            at += len(tokens)
        if opening:
            yield _Part(opening)

    def _around_token(self) -> tuple[bytes, bytes]:
        """Return what stands around a token in its event; %b is the place of the field's name."""
        mark = orjson.dumps({"NAME": "TOKEN"})
        around = event(self._completion.chunk({"NAME": "TOKEN"})).replace(b"%", b"%%")
        head, tail = around.split(mark)
        return head + b'{"%b":', b"}" + tail.replace(b"%%", b"%")

    def _fault_parts(self, name: str) -> Iterator[_Part]:
        if name == "garbage":
            yield _Part(_GARBAGE + DONE)
        elif name == "error_event":
            yield _Part(event(error("The simulator failed in mid-stream.", "server_error")))

    def _close_stream(self) -> None:
        fault = self._control.fault()
        match fault[0] if fault else None:
            case "stall":
                self._record.outcome = "stalled"
            case "reset":
                self._end("reset")
                # The last tokens should be read before the RST throws them away.
                self._loop.call_later(0.02, self._connection.reset)
            case "close":
                self._end("closed")
                self._connection.transport.close()
            case name:
                self._finish(name or "completed")

    def _finish(self, outcome: str) -> None:
        self._connection.transport.write(b"0\r\n\r\n")
        self._end(outcome)

    # In one piece

    def _begin_whole(self) -> None:
        rate = self._control.tokens_per_second
        wait = self._control.first_token_seconds + (len(self._deltas) / rate if rate else 0)
        self._timer = self._loop.call_later(wait, self._whole)

    def _whole(self) -> None:
        fault = self._control.fault()
        name = fault[0] if fault else None
        if name == "stall":
            self._close_stream()
            return
        body = self._whole_body(name)
        self._record.first_token_at = time.monotonic()
        self._record.token_times.extend(repeat(self._record.first_token_at, len(self._deltas)))
        if name in {"reset", "close"}:
            length = f"content-length: {len(body)}"
            self._connection.start(200, "content-type: application/json", length)
            self._connection.transport.write(body[: len(body) // 2])
            self._close_stream()
            return
        self._connection.respond(200, body)
        self._end(name or "completed")

    def _whole_body(self, fault: str | None) -> bytes:
        if self._control.empty:
            return b""
        if fault == "garbage":
            return _GARBAGE
        if fault == "error_event":
            return orjson.dumps(error("The simulator failed.", "server_error"))
        message = {"content": ""}
        for name, token in self._deltas:
            message[name] = message.get(name, "") + token
        figures = self._usage(len(self._deltas))
        told = self._completion.whole(message, self._control.finish_reason, figures)
        if self._control.no_choices:
            told["choices"] = []
        return orjson.dumps(told)

    # The end

    def _usage(self, tokens: int) -> Json:
        reasoning = min(self._control.reasoning, tokens)
        return usage(estimated_tokens(self._request.messages), tokens, reasoning)

    def resume(self) -> None:
        """Go on writing after the client has read what was waiting."""
        self.paused = False
        if self._waiting:
            self._waiting = False
            self._tick()

    def client_left(self) -> None:
        """Note that the client went away before the end."""
        self._timer.cancel()
        if self._record.ended_at is None:
            self._record.cancelled_at = time.monotonic()
            self._end("cancelled")

    def _end(self, outcome: str) -> None:
        self._record.ended_at = time.monotonic()
        self._record.outcome = outcome


async def serve(port: int, defaults: Json, *, until_stdin_closes: bool) -> None:
    """Serve on a loopback port, 0 for any that is free, and print the address."""
    loop = asyncio.get_running_loop()
    simulator = Simulator(defaults)
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    server = await loop.create_server(lambda: Connection(simulator), sock=listener, backlog=1024)
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    closed = loop.create_future()
    if until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), lambda: closed.done() or closed.set_result(None))
    async with server:
        await closed


@contextlib.contextmanager
def running_simulator(**defaults: Any) -> Iterator[str]:
    """Run a simulator in a process of its own; yields its base URL, which ends with /v1.

    The keywords are the server's defaults, see `Control`. The process ends with the block, and
    with the process that started it, however that ends.
    """
    Control(**defaults)
    module = [sys.executable, "-m", "benchmarks.provider_simulator", "--until-stdin-closes"]
    child = subprocess.Popen(
        [*module, "--defaults", json.dumps(defaults)],
        cwd=Path(__file__).resolve().parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = child.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError("The provider simulator did not start.")
        yield line.split()[-1] + "/v1"
    finally:
        child.terminate()
        child.communicate()


def recorded_requests(base_url: str, *, token_times: bool = False) -> list[Json]:
    """Return the record of all requests since the last `forget_requests`, oldest first."""
    query = "?tokens=1" if token_times else ""
    with urllib.request.urlopen(f"{_root(base_url)}/sim/requests{query}") as response:
        return json.load(response)


def forget_requests(base_url: str) -> None:
    """Empty the record, and begin anew to count the requests for `times`."""
    request = urllib.request.Request(f"{_root(base_url)}/sim/requests", method="DELETE")
    urllib.request.urlopen(request).close()


def _root(base_url: str) -> str:
    return base_url.rstrip("/").removesuffix("/v1")


def main() -> None:
    """Run the simulator until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.provider_simulator")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--defaults", type=json.loads, default={}, help="JSON, fields of Control")
    parser.add_argument("--until-stdin-closes", action="store_true")
    chosen = parser.parse_args()
    try:
        import uvloop  # noqa: PLC0415 - there is none for every platform

        run = uvloop.run
    except ImportError:
        run = asyncio.run
    with contextlib.suppress(KeyboardInterrupt):
        run(serve(chosen.port, chosen.defaults, until_stdin_closes=chosen.until_stdin_closes))


if __name__ == "__main__":
    main()
