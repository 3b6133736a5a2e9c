"""`POST /chat` as programs use it: the whole answer as JSON, beside the provider asked directly.

The provider takes 200 ms to its first token and gives the rest at once. Each user asks in a session
of their own, one question after the answer to the last. *Round trip*: from the request sent to the
last byte of the answer.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
import uvloop

from benchmarks.accounting import percentile
from benchmarks.installation import Installation, installation
from benchmarks.people import make_people, make_tokens, use_installation
from benchmarks.processes import cpu_seconds
from benchmarks.provider_simulator import sim
from benchmarks.report import Table, number
from benchmarks.streams import PATIENCE_SECONDS, say

USERS = 50
TOKENS = 20
_QUESTION = "Which part is it?\n" + sim(
    text=None, tokens=TOKENS, first_token_seconds=0.2, tokens_per_second=0
)

Ask = Callable[[int], Awaitable[None]]


class ChatBench:
    """The users, each with a token and the session that their first answer named."""

    def __init__(self, running: Installation, secrets: Sequence[str], questions: int) -> None:
        self._running, self._secrets, self._questions = running, secrets, questions
        self._sessions: dict[int, str] = {}

    async def measure(self) -> list[Table]:
        """Ask directly, then through `/chat`, alone and all together."""
        connector = aiohttp.TCPConnector(limit=0)
        patience = aiohttp.ClientTimeout(PATIENCE_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=patience) as self._http:
            await self._trips("the first question of each", self._ask, 1, 10.0)
            rows = [
                await self._row("provider directly, no pause", self._ask_directly, 0.0),
                await self._row("/chat, a pause of 4 to 6 s", self._ask, 5.0),
                await self._row("/chat, no pause", self._ask, 0.0),
            ]
        columns = ["", "p50", "p95", "p99", "requests/s", "CPU web"]
        return [Table(f"Round trip of /chat, {USERS} users", columns, rows, self._note())]

    def _note(self) -> str:
        return (
            f"{self._questions} questions of each user, one after the answer to the last, replies"
            f" of {TOKENS} tokens; the provider takes 200 ms. Milliseconds; CPU of the web process"
            " for a request, in ms. Without a pause the users ask as fast as one core can answer."
        )

    async def _row(self, name: str, ask: Ask, pause: float) -> list[str]:
        cpu, began = cpu_seconds(self._running.web.pid), time.monotonic()
        trips = await self._trips(name, ask, self._questions, pause)
        lasted = time.monotonic() - began
        spent = (cpu_seconds(self._running.web.pid) - cpu) / len(trips)
        return [
            name,
            *(number(percentile(trips, share) * 1000, 0) for share in (0.5, 0.95, 0.99)),
            number(len(trips) / lasted),
            "–" if ask == self._ask_directly else number(spent * 1000),
        ]

    async def _trips(self, name: str, ask: Ask, times: int, pause: float) -> list[float]:
        say(name)
        together = await asyncio.gather(
            *(self._one_after_another(user, ask, times, pause) for user in range(USERS))
        )
        return [trip for trips in together for trip in trips]

    async def _one_after_another(
        self, user: int, ask: Ask, times: int, pause: float
    ) -> list[float]:
        # Nobody begins at the same moment: that would be a burst, not fifty people.
        await asyncio.sleep(random.uniform(0, pause or 1.0))
        trips = []
        for _ in range(times):
            began = time.monotonic()
            await ask(user)
            trips.append(time.monotonic() - began)
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
        return trips

    async def _ask(self, user: int) -> None:
        body = {"user_message": _QUESTION}
        if session := self._sessions.get(user):
            body["session_id"] = session
        headers = {"Authorization": f"Bearer {self._secrets[user]}"}
        async with self._http.post(
            f"{self._running.url}/chat", json=body, headers=headers
        ) as response:
            answer = await response.json()
            if response.status != 200:
                raise RuntimeError(f"/chat answered {response.status}: {answer}")
            self._sessions[user] = answer["session_id"]

    async def _ask_directly(self, _user: int) -> None:
        request = {
            "model": "simulated",
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": _QUESTION}],
        }
        async with self._http.post(
            f"{self._running.provider}/chat/completions", json=request
        ) as response:
            response.raise_for_status()
            await response.read()


def measure(quick: bool) -> list[Table]:
    """Measure on an installation of its own."""
    with installation("A simulated reply.") as running:
        use_installation(running.env)
        secrets = make_tokens(make_people(USERS))
        return uvloop.run(ChatBench(running, secrets, 4 if quick else 15).measure())
