"""What stands between a conversation and a provider: rules of the organisation, personal data.

One `Guard` goes through one turn with it:

    guard.admit(question)          before anything is stored; raises Refusal
    guard.hidden(message)          what the provider sees in its place, oldest message first
    reading = guard.reading(…)     what comes back: originals restored, then screened
"""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from itertools import groupby

from accounts.access import System
from accounts.models import User
from audit.trail import Target
from conversations.models import Conversation, Message
from conversations.turn.output import MASK
from conversations.turn.patterns import PatternRefused
from conversations.turn.pii import detect, with_kinds
from conversations.turn.policy import (
    Blocked,
    Direction,
    Hit,
    Moderates,
    OutputScreen,
    Policy,
    SentenceRelease,
    current_policy,
    record_hits,
)
from conversations.turn.privacy import Mode, mode_for
from conversations.turn.pseudonyms import Pseudonymiser, Restorer, findings_of
from conversations.turn.refusal import Refusal
from prompts.provider import Finished, Piece, TextPiece, ThinkingPiece


@dataclass(frozen=True, slots=True)
class Found:
    """How much was found in a question that was let through: by rules, and of personal data."""

    policy_hits: int = 0
    personal_data: int = 0


NOTHING = Found()


class Guard:
    """The rules and the mode that hold for one turn. Not for several threads at once."""

    def __init__(self, conversation: Conversation, policy: Policy, mode: Mode) -> None:
        self._policy, self._mode = policy, mode
        # The lasting key may be gone for an hour: after a hold has ended, until the next purge.
        keys = conversation.lasting_key(), conversation.seal_key()
        self._pseudonyms = Pseudonymiser(*keys)
        self._question = ""
        self._is_admitted, self._policy_hits, self._personal_data = False, 0, 0

    @classmethod
    def of(cls, conversation: Conversation, user: User | System) -> "Guard":
        """Return the guard for a turn of `user`. One query every few seconds. Raises Refusal."""
        try:
            policy = current_policy()
        except PatternRefused:
            raise Refusal(
                "policy_broken",
                "A rule of this organisation can't be applied.",
                "Until an administrator has repaired it nothing may pass. Nothing was sent.",
            ) from None
        return cls(conversation, policy, mode_for(user))

    # --- on the way out ------------------------------------------------------------------------

    def admit(self, question: str, target: Target, *, by: User | System, turn: object = "") -> None:
        """Let a question be stored and asked. Raises Refusal; hits are recorded either way."""
        try:
            screened = self._policy.screen_input(question)
        except Blocked as blocked:
            record_hits(blocked.hits, target, by=by, rolls_back=True)
            raise Refusal(
                "policy",
                "A rule does not let this message through.",
                f"{blocked.rule.sentence} Nothing was sent.",
            ) from None
        record_hits(screened.hits, target, by=by, turn=turn)
        self._is_admitted, self._policy_hits = True, len(screened.hits)
        if self._mode == Mode.BLOCK and (found := detect(question)):
            kinds = sorted({finding.kind.replace("_", " ").lower() for finding in found})
            raise Refusal(
                "personal_data",
                "The message seems to hold personal data.",
                f"Recognised: {', '.join(kinds)}. Such data may not go to the AI here. Nothing was"
                " sent; take it out, then send it again.",
            )

    def hidden(self, message: Message) -> str:
        """Return the message as the provider sees it. Give them oldest first.

        What can't be read is empty.
        """
        text = message.shown_content
        if not text:
            return ""
        if message.role == Message.Role.USER:
            self._question = text
        if message.role != Message.Role.ASSISTANT:
            text = self._screened(message, text)
        if self._mode == Mode.OFF:
            return text
        findings = findings_of(message.pk, text)
        if message.role == Message.Role.USER:
            self._personal_data = len(findings)
        if self._mode == Mode.PSEUDONYMISE:
            return self._pseudonyms.hide_message(message.pk, text)
        return with_kinds(text, findings)

    @property
    def found(self) -> Found:
        """What was found in the question; nothing where a reply goes on, for it was counted."""
        return Found(self._policy_hits, self._personal_data) if self._is_admitted else NOTHING

    def _screened(self, message: Message, text: str) -> str:
        try:
            return self._policy.screen_message(message.pk, text)
        except Blocked:  # by a rule that is younger than the message
            return MASK

    # --- on the way back -----------------------------------------------------------------------

    def reading(self, moderator: Moderates) -> "Reading":
        """Return the filter for one reply; make it when all messages are hidden."""
        return Reading(
            self._policy,
            moderator,
            self._question,
            text=self._channel(moderator),
            thinking=self._channel(moderator),
        )

    def _channel(self, moderator: Moderates) -> "_Channel":
        whole = self._policy.needs_whole_sentences
        screen = self._policy.released(moderator) if whole else self._policy.output_filter()
        return _Channel(self._pseudonyms.restorer(), screen)

    def shown(self, text: str) -> str:
        """Return a short text of the provider as it may be shown. Raises Blocked."""
        screen = self._policy.output_filter()
        return screen.feed(self._pseudonyms.restorer().restore(text)) + screen.finish()


@dataclass(slots=True)
class _Channel:
    """One stream of words: restored first, so that rules see what the reader would see."""

    restorer: Restorer
    screen: OutputScreen | SentenceRelease

    async def feed(self, text: str) -> str:
        restored = self.restorer.feed(text)
        if isinstance(self.screen, SentenceRelease):
            return await self.screen.feed(restored)
        return self.screen.feed(restored)

    async def finish(self) -> str:
        restored = self.restorer.finish()
        if isinstance(self.screen, SentenceRelease):
            return await self.screen.feed(restored) + await self.screen.finish()
        return self.screen.feed(restored) + self.screen.finish()


class Reading:
    """What one reply goes through on its way to the reader, its text and its thinking."""

    def __init__(
        self,
        policy: Policy,
        moderator: Moderates,
        question: str,
        *,
        text: _Channel,
        thinking: _Channel,
    ) -> None:
        self._policy, self._moderator, self._question = policy, moderator, question
        self._text, self._thinking = text, thinking
        self._of_question: list[Hit] = []

    @property
    def releases_sentences(self) -> bool:
        """Whether what is held back must be judged before it may be shown."""
        return self._policy.needs_whole_sentences

    async def judge_question(self) -> None:
        """Ask the provider's moderation about the question, where a rule wants it.

        Raises Blocked and ProviderFault.
        """
        if self._policy.judges_input:
            self._of_question = await self._policy.judge(
                self._question, self._moderator, direction=Direction.INPUT
            )

    async def passed(self, pieces: Iterable[Piece]) -> AsyncGenerator[Piece, None]:
        """Yield what may be shown of these pieces. Raises Blocked, ProviderFault.

        Pieces that arrived together go through as one: the filters give the same for all chunks.
        """
        for piece in _joined(pieces):
            if isinstance(piece, TextPiece):
                if text := await self._text.feed(piece.text):
                    yield TextPiece(text)
            elif isinstance(piece, ThinkingPiece):
                if text := await self._thinking.feed(piece.text):
                    yield ThinkingPiece(text)
            else:
                assert isinstance(piece, Finished)
                for rest in await self.rest():
                    yield rest
                yield piece

    async def rest(self) -> list[Piece]:
        """Return what was held back, at the end. Raises Blocked, ProviderFault."""
        pieces: list[Piece] = []
        if thought := await self._thinking.finish():
            pieces.append(ThinkingPiece(thought))
        if text := await self._text.finish():
            pieces.append(TextPiece(text))
        return pieces

    @property
    def hits(self) -> list[Hit]:
        """What the rules found so far, but for what ended the reply: `Blocked` tells that."""
        return [*self._of_question, *self._text.screen.hits, *self._thinking.screen.hits]


def _joined(pieces: Iterable[Piece]) -> Iterable[Piece]:
    """Return the pieces with those of a kind that follow each other as one."""
    for kind, alike in groupby(pieces, type):
        together = list(alike)
        texts = [piece.text for piece in together if not isinstance(piece, Finished)]
        if kind is TextPiece:
            yield TextPiece("".join(texts))
        elif kind is ThinkingPiece:
            yield ThinkingPiece("".join(texts))
        else:
            yield from together
