"""The provider: any server that speaks OpenAI's chat completions with server-sent events.

`Provider.stream()` is one attempt: it yields lists of pieces, as they arrived together, and ends
with `Finished`, or raises one `ProviderFault` whose code is stable; `prompts.routing` tries again.
Who pauses between two lists gets fewer and longer ones, at less cost for each token. Events are
parsed here from the raw response: the client library's own objects cost ten times as much for each
token. Leaving the iterator closes the request upstream, so always hold it in `contextlib.aclosing`.

Wire format: OpenAI chat completion chunks; Server-Sent Events (WHATWG HTML, section 9.2).
"""

import asyncio
import math
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import Any, Literal
from weakref import WeakKeyDictionary

import aiohttp
import httpx2
import orjson
from django.conf import settings

MODERATION_SECONDS = 10.0
MAX_EVENT_BYTES = 1 << 20
# What is kept of a provider's own words and figures.
MAX_MODEL_CHARACTERS = 200
MAX_REASON_CHARACTERS = 32
MAX_TOKENS = 1_000_000_000
# httpx2's own limit for a read; ours are shorter and come first.
_READ_SECONDS = 3600.0

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
    "unreachable", "untrusted", "timeout", "unauthorised", "busy", "rejected", "failing", "garbled",
    "cut", "stalled", "empty", "resting",
]  # fmt: skip


class ProviderFault(Exception):
    """The provider did not deliver. `code` says how, `status` is HTTP's where there was one.

    `retry_after` is the time in seconds for which the provider asked to be left alone, if it did.
    """

    def __init__(
        self, code: FaultCode, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(code)
        self.code: FaultCode = code
        self.status = status
        self.retry_after = retry_after


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
            http_client=library.DefaultAioHttpClient(follow_redirects=False),
        )

    async def stream(
        self, messages: Sequence[ChatMessage], *, model: str, **parameters: Any
    ) -> AsyncGenerator[list[Piece], None]:
        """Ask, and yield the reply as it arrives. Raises ProviderFault."""
        library = client_library()
        began = time.monotonic()
        try:
            async with AsyncExitStack() as exits:
                async with asyncio.timeout(settings.PROVIDER_FIRST_TOKEN_SECONDS):
                    request = self._request(messages, model, parameters)
                    response = await exits.enter_async_context(request)
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    raise ProviderFault("garbled", response.status_code)
                left = settings.PROVIDER_FIRST_TOKEN_SECONDS - (time.monotonic() - began)
                async for pieces in _batches(response.iter_bytes(), model, left):
                    yield pieces
        except TimeoutError as error:
            raise ProviderFault("timeout") from error
        except library.APIStatusError as error:
            raise _fault_of(error.status_code, error.response.headers) from error
        except library.APIConnectionError as error:
            raise ProviderFault(_how_it_failed(error)) from error
        except library.APIError as error:
            raise ProviderFault("failing") from error

    def _request(
        self, messages: Sequence[ChatMessage], model: str, parameters: Mapping[str, Any]
    ) -> Any:
        library = client_library()
        # As `extra_body`, because the library looks at each field of each message otherwise: that
        # costs more than all the rest of a request, and grows with the conversation.
        told = {"messages": list(messages), "stream_options": {"include_usage": True}}
        return self._client.chat.completions.with_streaming_response.create(
            messages=[],
            model=model,
            stream=True,
            extra_body={**told, **parameters},
            timeout=library.Timeout(_READ_SECONDS, connect=settings.PROVIDER_CONNECT_SECONDS),
        )

    async def flagged_categories(self, text: str) -> frozenset[str]:
        """Return the categories for which the provider's moderation flags the text.

        One request, `POST /moderations`. Raises ProviderFault.
        """
        library = client_library()
        try:
            async with asyncio.timeout(MODERATION_SECONDS):
                judged = await self._client.moderations.create(input=text)
        except (TimeoutError, library.APITimeoutError) as error:
            raise ProviderFault("timeout") from error
        except library.APIStatusError as error:
            raise ProviderFault(_code_of(error.status_code), error.status_code) from error
        except library.APIConnectionError as error:
            raise ProviderFault("unreachable") from error
        except (library.APIError, ValueError) as error:
            raise ProviderFault("garbled") from error
        return _flagged(judged)

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


def _how_it_failed(error: BaseException | None) -> FaultCode:
    """Say why there is no connection. Waiting for an answer has limits of ours, so that what the
    client library calls a timeout here is one of connecting."""

    while error is not None:
        if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
            return "untrusted"
        error = error.__cause__ or error.__context__
    return "unreachable"


def _flagged(judged: Any) -> frozenset[str]:
    results = getattr(judged, "results", None)
    if not results:
        raise ProviderFault("garbled")
    return frozenset(
        name
        for result in results
        if result.flagged
        for name, applies in result.categories.to_dict().items()
        if applies
    )


def _fault_of(status: int, headers: Mapping[str, str]) -> ProviderFault:
    return ProviderFault(_code_of(status), status, retry_after(headers))


def _code_of(status: int) -> FaultCode:
    if status in {401, 402, 403}:
        return "unauthorised"
    if status == 429:
        return "busy"
    if status in {408, 504}:
        return "timeout"
    if status < 400:
        return "garbled"
    return "failing" if status >= 500 else "rejected"


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return for how many seconds the server wants no more requests, or None when it says nothing.

    Reads `retry-after-ms` (OpenAI, Azure) before `Retry-After`, in seconds or as an HTTP date
    (RFC 9110, section 10.2.3). What is malformed or endless counts as nothing said.
    """
    milliseconds = _amount(headers.get("retry-after-ms") or headers.get("x-ms-retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    seconds = _amount(said)
    return _seconds_until(said, now) if seconds is None and said else seconds


def _amount(text: str | None) -> float | None:
    try:
        amount = float(text or "")
    except ValueError:
        return None
    return amount if math.isfinite(amount) and amount >= 0 else None


def _seconds_until(date: str, now: datetime | None) -> float | None:
    try:
        then = parsedate_to_datetime(date)
        # HTTP's dates are GMT, also where that is not said.
        then = then if then.tzinfo else then.replace(tzinfo=UTC)
        return max((then - (now or datetime.now(UTC))).total_seconds(), 0.0)
    except (ValueError, OverflowError):
        return None


async def _batches(
    chunks: AsyncIterator[bytes], model: str, first_token_seconds: float
) -> AsyncIterator[list[Piece]]:
    """Yield the pieces of what arrived together, `Finished` last. Raises ProviderFault.

    The limits count the time we wait for a piece: a server that only says that it lives (comments,
    events without text) is silent, and a reader who takes their time costs the server none.
    """
    reading, left = _Reading(model), first_token_seconds
    iterator = aiter(chunks)
    while not reading.is_done:
        began = time.monotonic()
        try:
            async with asyncio.timeout(left):
                chunk = await anext(iterator)
        except StopAsyncIteration:
            break
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise ProviderFault("stalled") from error
        except (httpx2.HTTPError, aiohttp.ClientError, OSError, ValueError) as error:
            raise ProviderFault("cut") from error
        left -= time.monotonic() - began
        if pieces := reading.take(chunk):
            yield pieces
            left = settings.PROVIDER_BETWEEN_TOKENS_SECONDS
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
        try:
            self._take_chunk(_parsed(data), pieces)
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise ProviderFault("garbled") from error  # JSON, but of another shape

    def _take_chunk(self, chunk: dict[str, Any], pieces: list[Piece]) -> None:
        if (model := chunk.get("model")) and model != self._model:
            self._model = _word(model, MAX_MODEL_CHARACTERS) or self._model
        self._usage = _usage(chunk.get("usage")) or self._usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if thinking := delta.get("reasoning_content") or delta.get("reasoning"):
                pieces.append(ThinkingPiece(_text(thinking)))
            if text := delta.get("content"):
                pieces.append(TextPiece(_text(text)))
            if reason := choice.get("finish_reason"):
                self._reason = _word(reason, MAX_REASON_CHARACTERS) or self._reason

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


def _text(said: Any) -> str:
    """Return it. Raises TypeError for what is no text."""
    if not isinstance(said, str):
        raise TypeError
    return said


def _word(said: Any, most: int) -> str:
    """Return a name of the provider's as it can be kept. Raises TypeError."""
    return "".join(filter(str.isprintable, _text(said)))[:most]


def _usage(counted: dict[str, Any] | None) -> Usage | None:
    """Return the figures, or None where they can't be. Raises TypeError, ValueError."""
    if not counted:
        return None
    details = counted.get("prompt_tokens_details") or {}
    usage = Usage(
        tokens_in=int(counted.get("prompt_tokens") or 0),
        tokens_cached=int(details.get("cached_tokens") or 0),
        tokens_out=int(counted.get("completion_tokens") or 0),
    )
    figures = (usage.tokens_in, usage.tokens_cached, usage.tokens_out)
    return usage if all(0 <= figure <= MAX_TOKENS for figure in figures) else None


_providers: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], Provider]]"
_providers = WeakKeyDictionary()


def provider_at(base_url: str, api_key: str) -> Provider:
    """Return the provider at this address; its connections belong to the running event loop."""
    known = _providers.setdefault(asyncio.get_running_loop(), {})
    address = (base_url, api_key)
    if address not in known:
        known[address] = Provider(*address)
    return known[address]


def configured_provider() -> Provider:
    """Return the provider that the environment names."""
    return provider_at(settings.OPENAI_BASE_URL, settings.OPENAI_API_KEY)


async def close_providers() -> None:
    """Close the connections of this event loop's providers; they open again when asked."""
    for provider in _providers.pop(asyncio.get_running_loop(), {}).values():
        await provider.close()
