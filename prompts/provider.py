"""The provider: any server that speaks OpenAI's chat completions with server-sent events.

`Provider.stream()` yields lists of pieces, as they arrived together, and ends with `Finished`, or
raises one `ProviderFault` whose code is stable. Who pauses between two lists gets fewer and longer
ones, at less cost for each token. Events are parsed here from the raw response: the
client library's own objects cost ten times as much for each token. Leaving the iterator closes the
request upstream, so always hold it in `contextlib.aclosing`.

Wire format: OpenAI chat completion chunks; Server-Sent Events (WHATWG HTML, section 9.2).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal
from weakref import WeakKeyDictionary

import aiohttp
import httpx2
import orjson
from django.conf import settings

CONNECT_SECONDS = 5.0
FIRST_BYTE_SECONDS = 60.0
BETWEEN_TOKENS_SECONDS = 30.0
MAX_EVENT_BYTES = 1 << 20

Role = Literal["system", "user", "assistant"]
ChatMessage = Mapping[str, str]
"""`{"role": Role, "content": text}`."""


@dataclass(frozen=True, slots=True)
class TextPiece:
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingPiece:
    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them."""

    tokens_in: int
    tokens_cached: int
    tokens_out: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The last piece. `reason` is the provider's, such as stop, length or content_filter."""

    reason: str
    model: str
    usage: Usage | None


Piece = TextPiece | ThinkingPiece | Finished

FaultCode = Literal[
    "unreachable", "timeout", "unauthorised", "busy", "rejected", "failing", "garbled", "cut",
    "stalled", "empty",
]  # fmt: skip


class ProviderFault(Exception):
    """The provider did not deliver. `code` says how, `status` is HTTP's where there was one."""

    def __init__(self, code: FaultCode, status: int | None = None) -> None:
        super().__init__(code)
        self.code: FaultCode = code
        self.status = status


def client_library() -> Any:
    """Return the package `openai`. It takes most of a second to import, so processes that ask no
    provider do without it, and the web process imports it beside its first page."""
    return import_module("openai")


class Provider:
    """One OpenAI-compatible server. Safe to share by all tasks of one event loop."""

    def __init__(self, base_url: str, api_key: str) -> None:
        library = client_library()
        self._client = library.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or "none",
            max_retries=0,
            timeout=library.Timeout(
                BETWEEN_TOKENS_SECONDS, connect=CONNECT_SECONDS, read=FIRST_BYTE_SECONDS
            ),
            http_client=library.DefaultAioHttpClient(follow_redirects=False),
        )

    async def stream(
        self, messages: Sequence[ChatMessage], *, model: str, **parameters: Any
    ) -> AsyncGenerator[list[Piece], None]:
        """Ask, and yield the reply as it arrives. Raises ProviderFault."""
        library = client_library()
        # As `extra_body`, because the library looks at each field of each message otherwise: that
        # costs more than all the rest of a request, and grows with the conversation.
        told = {"messages": list(messages), "stream_options": {"include_usage": True}}
        request = self._client.chat.completions.with_streaming_response.create(
            messages=[], model=model, stream=True, extra_body=told | parameters
        )
        try:
            async with request as response:
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    raise ProviderFault("garbled", response.status_code)
                async for pieces in _batches(response.iter_bytes(), model):
                    yield pieces
        except library.APITimeoutError as error:
            raise ProviderFault("unreachable" if _was_refused(error) else "timeout") from error
        except library.APIStatusError as error:
            raise ProviderFault(_code_of(error.status_code), error.status_code) from error
        except library.APIConnectionError as error:
            raise ProviderFault("unreachable") from error
        except library.APIError as error:
            raise ProviderFault("failing") from error

    async def close(self) -> None:
        """Close the connections that are kept open between requests."""
        await self._client.close()

    async def answers(self, *, within_seconds: float) -> bool:
        """Whether the server lists its models in time; used for health, never for a turn."""
        try:
            async with asyncio.timeout(within_seconds):
                await self._client.models.list()
        except (TimeoutError, client_library().APIError):
            return False
        return True


def _was_refused(error: BaseException | None) -> bool:
    """Whether a connection failed at once; the client library calls that a timeout too."""
    while error is not None:
        if isinstance(error, aiohttp.ClientConnectionError):
            return not isinstance(error, TimeoutError)
        error = error.__cause__ or error.__context__
    return False


def _code_of(status: int) -> FaultCode:
    if status in {401, 403}:
        return "unauthorised"
    if status == 429:
        return "busy"
    if status in {408, 504}:
        return "timeout"
    if status < 400:
        return "garbled"
    return "failing" if status >= 500 else "rejected"


async def _batches(chunks: AsyncIterator[bytes], model: str) -> AsyncIterator[list[Piece]]:
    """Yield the pieces of what arrived together, `Finished` last. Raises ProviderFault."""
    reading, patience = _Reading(model), FIRST_BYTE_SECONDS
    iterator = aiter(chunks)
    while not reading.is_done:
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(iterator)
        except StopAsyncIteration:
            break
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise ProviderFault("stalled") from error
        except (httpx2.HTTPError, aiohttp.ClientError, OSError, ValueError) as error:
            raise ProviderFault("cut") from error
        patience = BETWEEN_TOKENS_SECONDS
        if pieces := reading.take(chunk):
            yield pieces
        if reading.fault:
            raise reading.fault
    yield [reading.finished()]


class _Reading:
    """Turns bytes into pieces, whatever the bounds at which they arrive.

    They are split at line feeds only: multi-byte characters that arrive in parts stay whole.
    """

    def __init__(self, model: str) -> None:
        self.is_done = False
        self.fault: ProviderFault | None = None
        self._model, self._reason = model, ""
        self._usage: Usage | None = None
        self._spoke = False
        self._rest = b""

    def take(self, chunk: bytes) -> list[Piece]:
        """Return the pieces in `chunk`, up to the fault if one is among them."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        pieces: list[Piece] = []
        try:
            if len(self._rest) > MAX_EVENT_BYTES:
                raise ProviderFault("garbled")
            for line in lines:
                if line.startswith(b"data:"):
                    self._take_event(line[5:].strip(), pieces)
        except ProviderFault as fault:
            self.fault = fault
        self._spoke = self._spoke or bool(pieces)
        return pieces

    def _take_event(self, data: bytes, pieces: list[Piece]) -> None:
        if data == b"[DONE]" or self.is_done:
            self.is_done = True
            return
        chunk = _parsed(data)
        self._model = chunk.get("model") or self._model
        self._usage = _usage(chunk.get("usage")) or self._usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if thinking := delta.get("reasoning_content") or delta.get("reasoning"):
                pieces.append(ThinkingPiece(thinking))
            if text := delta.get("content"):
                pieces.append(TextPiece(text))
            self._reason = choice.get("finish_reason") or self._reason

    def finished(self) -> Finished:
        """Return the last piece. Raises ProviderFault when the reply stopped too early."""
        if not self._reason:
            raise ProviderFault("cut" if self._spoke else "empty")
        return Finished(self._reason, self._model, self._usage)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ProviderFault("garbled") from error
    if not isinstance(chunk, dict):
        raise ProviderFault("garbled")
    if chunk.get("error"):
        raise ProviderFault("failing")
    return chunk


def _usage(counted: dict[str, Any] | None) -> Usage | None:
    if not counted:
        return None
    details = counted.get("prompt_tokens_details") or {}
    return Usage(
        tokens_in=int(counted.get("prompt_tokens") or 0),
        tokens_cached=int(details.get("cached_tokens") or 0),
        tokens_out=int(counted.get("completion_tokens") or 0),
    )


_providers: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], Provider]]"
_providers = WeakKeyDictionary()


def configured_provider() -> Provider:
    """Return the provider that the environment names; its connections belong to the event loop."""
    known = _providers.setdefault(asyncio.get_running_loop(), {})
    address = (settings.OPENAI_BASE_URL, settings.OPENAI_API_KEY)
    if address not in known:
        known[address] = Provider(*address)
    return known[address]


async def close_providers() -> None:
    """Close the connections of this event loop's providers; they open again when asked."""
    for provider in _providers.pop(asyncio.get_running_loop(), {}).values():
        await provider.close()
