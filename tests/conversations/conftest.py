"""Conversations, and a provider that says what a test tells it to."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from prompts.provider import Finished, Piece, ProviderFault, TextPiece, Usage
from prompts.routing import Answering, Batch


class ScriptedProvider:
    """Yields its script: texts, pieces, faults to raise, or seconds to wait."""

    def __init__(self, *script: str | float | Piece | ProviderFault) -> None:
        self.script = script
        self.asked: list[Sequence[dict[str, str]]] = []
        self.parameters: dict[str, object] = {}
        self.closed = False

    async def stream(
        self, offer, messages, *, max_tokens: int, **parameters
    ) -> AsyncGenerator[Batch, None]:
        self.asked.append(messages)
        self.parameters = {"max_tokens": max_tokens, **parameters}
        try:
            yield [Answering(offer, 1)]
            for step in self.script:
                if isinstance(step, ProviderFault):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield [TextPiece(step) if isinstance(step, str) else step]
            if not self.script or not isinstance(self.script[-1], Finished):
                yield [Finished("stop", offer.remote_name, Usage(7, 0, 3))]
        finally:
            self.closed = True
