"""Conversations, and a provider that says what a test tells it to."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from prompts.provider import Finished, Piece, ProviderFault, TextPiece, Usage


class ScriptedProvider:
    """Yields its script: texts, pieces, faults to raise, or seconds to wait."""

    def __init__(self, *script: str | float | Piece | ProviderFault) -> None:
        self.script = script
        self.asked: list[Sequence[dict[str, str]]] = []
        self.closed = False

    async def stream(self, messages, *, model: str) -> AsyncGenerator[list[Piece], None]:
        self.asked.append(messages)
        try:
            for step in self.script:
                if isinstance(step, ProviderFault):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield [TextPiece(step) if isinstance(step, str) else step]
            if not self.script or not isinstance(self.script[-1], Finished):
                yield [Finished("stop", model, Usage(7, 0, 3))]
        finally:
            self.closed = True
