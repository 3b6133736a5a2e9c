"""One turn, from text to settled reply. Knows no socket and no HTML."""

from conversations.turn.closing import Closed, Progress, close_abandoned, close_reply, save_progress
from conversations.turn.events import TextArrived, ThinkingArrived, TurnEnded, TurnEvent
from conversations.turn.opening import (
    Program,
    Turn,
    can_continue,
    continue_turn,
    request_stop,
    start_turn,
)
from conversations.turn.refusal import Refusal
from conversations.turn.running import run_turn

__all__ = [
    "Closed",
    "Program",
    "Progress",
    "Refusal",
    "TextArrived",
    "ThinkingArrived",
    "Turn",
    "TurnEnded",
    "TurnEvent",
    "can_continue",
    "close_abandoned",
    "close_reply",
    "continue_turn",
    "request_stop",
    "run_turn",
    "save_progress",
    "start_turn",
]
