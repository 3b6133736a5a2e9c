"""What each fault means for the person who meets it: what happened, what is safe, what to do."""

from dataclasses import dataclass, replace

from conversations.models import Message
from conversations.turn.policy import Rule


@dataclass(frozen=True, slots=True)
class Sentence:
    """`tone` is the notice's: plain, caution (waiting or a click mends it) or danger.

    `without_text` takes the place of `rest` when the reply ended before its first word.
    """

    headline: str
    rest: str
    tone: str = "caution"
    without_text: str = ""

    def rest_for(self, reply: Message) -> str:
        """Return what follows the headline beside this reply."""
        return self.rest if reply.content_sealed else self.without_text or self.rest


_KEPT = "Your question is saved."
_AGAIN = f"{_KEPT} Try again in a moment."
_GO_ON = "The text so far is kept. Continue lets it go on from there."

FAULTS = {
    "unreachable": Sentence(
        "The provider does not answer.",
        f"{_KEPT} Try again in a moment; if it stays so, tell your administrator.",
    ),
    "untrusted": Sentence(
        "The provider's identity could not be confirmed.",
        f"{_KEPT} An administrator has to check its address and certificate; then try again.",
        "danger",
    ),
    "resting": Sentence(
        "The provider failed several times in a row and is left alone for a moment.",
        f"{_KEPT} Try again in half a minute.",
    ),
    "timeout": Sentence("The provider took too long.", _GO_ON, without_text=_AGAIN),
    "stalled": Sentence("The provider fell silent.", _GO_ON, without_text=_AGAIN),
    "cut": Sentence("The connection to the provider broke.", _GO_ON, without_text=_AGAIN),
    "busy": Sentence("The provider is busy.", f"{_KEPT} Wait a minute, then try again."),
    "failing": Sentence("The provider reported an error of its own.", _GO_ON, without_text=_AGAIN),
    "unauthorised": Sentence(
        "The provider refuses our key.",
        f"{_KEPT} An administrator has to check the key; then try again.",
        "danger",
    ),
    "rejected": Sentence(
        "The provider did not accept the request.",
        f"{_KEPT} Often the conversation has become too long for the model: start a new one.",
        "danger",
    ),
    "garbled": Sentence("The provider sent something unreadable.", _GO_ON, without_text=_AGAIN),
    "empty": Sentence(
        "The provider sent an empty reply.", f"{_KEPT} Try again, or ask in other words."
    ),
    "content_filter": Sentence(
        "The provider's content filter ended this reply.",
        f"{_KEPT} Ask in other words if it was not meant so.",
        "plain",
    ),
    "policy": Sentence(
        "A rule of this organisation ended this reply.",
        "What may be shown of it is kept. Ask in other words if it was not meant so.",
        "plain",
        without_text="Nothing of it may be shown. Ask in other words if it was not meant so.",
    ),
    "process_died": Sentence(
        "Interrupted: the server stopped unexpectedly.", _GO_ON, without_text=_AGAIN
    ),
    "restarted": Sentence("Interrupted: the server restarted.", _GO_ON, without_text=_AGAIN),
    "lost": Sentence("Interrupted: the reply was taken over.", _GO_ON, without_text=_AGAIN),
    "internal": Sentence(
        "Something went wrong on our side.",
        "It has been reported. The text so far is kept; Continue lets it go on from there.",
        without_text=f"{_KEPT} It has been reported. Try again.",
    ),
}
STOPPED = Sentence(
    "Stopped.",
    "You ended this reply. The text so far is kept.",
    "plain",
    without_text="You ended this reply before its first word.",
)
CUT_BY_LENGTH = Sentence(
    "The reply reached its length limit.", "Continue lets it go on from there.", "plain"
)


def sentence_of(reply: Message) -> Sentence | None:
    """Return what to say about how the reply ended; None when there is nothing to say.

    Wants `refused_by` loaded.
    """
    if reply.fault == "policy" and reply.refused_by:
        return _refused_by(Rule.of(reply.refused_by))
    if reply.fault:
        return FAULTS.get(reply.fault, FAULTS["internal"])
    if reply.state == Message.State.STOPPED:
        return STOPPED
    return CUT_BY_LENGTH if reply.finish_reason == "length" else None


def refusal_of(reply: Message) -> str | None:
    """Return what to say about a reply that a filter or a rule ended, in one line; else None."""
    sentence = sentence_of(reply)
    if reply.state != Message.State.REFUSED or sentence is None:
        return None
    return f"{sentence.headline} {sentence.rest_for(reply)}"


def _refused_by(rule: Rule) -> Sentence:
    general = FAULTS["policy"]
    return replace(
        general,
        rest=f"{rule.sentence} What may be shown of it is kept.",
        without_text=f"{rule.sentence} Nothing of it may be shown.",
    )
