"""A reader without a browser: one person's socket and questions, with the time of every message."""

import asyncio
import re
import time
import uuid
from typing import Any

import aiohttp
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.accounting import Received
from benchmarks.people import Person

# As they stand in the JSON of a message.
_STARTS_OVER, _BEING_WRITTEN = '"over":true', "aria-busy"
_REPLY_ENDS = re.compile(r'#open-\d+\\" hx-swap=\\"delete')


class _CountingConnection(ClientConnection):
    """Counts the bytes on the wire, as they are: compressed."""

    wire_bytes = 0

    def data_received(self, data: bytes) -> None:
        self.wire_bytes += len(data)
        super().data_received(data)


class Reader:
    """One open page of a conversation."""

    def __init__(
        self, url: str, person: Person, conversation_id: uuid.UUID, http: aiohttp.ClientSession
    ) -> None:
        self._url, self._person, self._http = url, person, http
        self._conversation_id = conversation_id
        self.received: list[Received] = []
        self.ended = asyncio.Event()

    async def open(self, cursor: str = "0:0") -> None:
        """Connect the socket, compressed like a browser's."""
        path = f"/ws/conversations/{self._conversation_id}/?last={cursor}"
        self._socket: Any = await connect(
            self._url.replace("http", "ws", 1) + path,
            additional_headers={"Cookie": self._person.cookie_header},
            create_connection=_CountingConnection,
            max_size=None,
            ping_interval=None,
        )
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for text in self._socket:
            self.received.append(Received(time.monotonic(), self._socket.wire_bytes, text))
            if _REPLY_ENDS.search(text) or (_STARTS_OVER in text and _BEING_WRITTEN not in text):
                self.ended.set()

    @property
    def wire_bytes(self) -> int:
        return int(self._socket.wire_bytes)

    def forget(self) -> None:
        """Begin anew to note what arrives."""
        self.received.clear()
        self.ended.clear()

    async def ask(self, text: str) -> float:
        """Send a question and return when it was sent (CLOCK_MONOTONIC). Raises on refusal."""
        sent_at = time.monotonic()
        async with self._http.post(
            f"{self._url}/c/{self._conversation_id}/messages",
            data={"text": text, "key": uuid.uuid4().hex},
            headers={
                "Cookie": self._person.cookie_header,
                "X-CSRFToken": self._person.csrf,
                "HX-Request": "true",
                "HX-Current-URL": f"{self._url}/c/{self._conversation_id}/",
            },
        ) as response:
            response.raise_for_status()
            await response.read()
        return sent_at

    async def close(self) -> None:
        """Close the socket."""
        await self._socket.close()
        await self._reading


class DirectReply:
    """The floor: the provider asked directly, with nothing between."""

    def __init__(self) -> None:
        self.sent_at = 0.0
        self.token_times: list[float] = []

    async def ask(self, provider: str, text: str, http: aiohttp.ClientSession) -> None:
        """Read one reply to its end, noting when each token arrives."""
        request = {
            "model": "simulated",
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": text}],
        }
        self.sent_at = time.monotonic()
        async with http.post(f"{provider}/chat/completions", json=request) as response:
            response.raise_for_status()
            rest = b""
            async for chunk in response.content.iter_any():
                complete, _, rest = (rest + chunk).rpartition(b"\n")
                # The first event of a reply names the role, with a content that is empty.
                tokens = complete.count(b'"delta":{"content":')
                self.token_times += [time.monotonic()] * tokens
