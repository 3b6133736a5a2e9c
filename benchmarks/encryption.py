"""What sealing costs: `python -m benchmarks.encryption [--write]`.

A turn and a page, each beside the same work on bytes that are not sealed. With `--write` the tables
go into docs/retention.md.
"""

import argparse
import platform
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from benchmarks.apps import load_apps
from benchmarks.report import Table, number, write

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/retention.md"
ROUNDS = 200
QUESTION, REPLY = "q" * 1024, "r" * 3072
FRAMES, SNAPSHOTS = 100, 4
TITLE = "What the heron does with its umbrellas"
MESSAGES = 200


def _cpu_ms(work: Callable[[], object]) -> tuple[float, float]:
    """CPU milliseconds of one round: the median of ROUNDS, and the fastest."""
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        times.append((time.process_time() - began) * 1000)
    times.sort()
    return times[ROUNDS // 2], times[0]


def _rows() -> tuple[Callable[[], None], Callable[[], None]]:
    """What a turn of 4 KB leaves in the database, and what the next turn reads of it."""
    from conversations.encryption import content_digest  # noqa: PLC0415
    from conversations.models import Conversation, Message  # noqa: PLC0415

    conversation = Conversation()
    question = Message(conversation=conversation, role="user", state="said")
    reply = Message(conversation=conversation, role="assistant", state="streaming")
    parts = [REPLY[: len(REPLY) * part // SNAPSHOTS] for part in range(1, SNAPSHOTS + 1)]

    def sealed() -> None:
        question.content, conversation.title = QUESTION, TITLE
        for part in parts:
            reply.content = part
        content_digest(QUESTION, question.seal_key())
        content_digest(REPLY, reply.seal_key())
        assert (question.shown_content, reply.shown_content) == (QUESTION, REPLY)

    def plain() -> None:
        stored = [text.encode() for text in (QUESTION, TITLE, *parts)]
        assert (stored[0].decode(), stored[-1].decode()) == (QUESTION, REPLY)

    return sealed, plain


def _frames() -> tuple[Callable[[], None], Callable[[], None]]:
    """The frames of its reply, sealed once and opened by one reader."""
    from conversations.encryption import open_sealed, seal  # noqa: PLC0415
    from conversations.models import Conversation, Message  # noqa: PLC0415

    conversation = Conversation()
    key = Message(conversation=conversation, role="assistant", state="streaming").seal_key()
    piece = b"f" * (len(REPLY) // FRAMES + 60)  # with the HTML around it
    places = [f"stream/{at}" for at in range(FRAMES)]

    def sealed() -> None:
        for place in places:
            assert open_sealed(seal(piece, place, key), place, conversation.pk)

    def plain() -> None:
        for _place in places:
            assert bytes(bytearray(piece))

    return sealed, plain


def _page() -> tuple[Callable[[], int], Callable[[], int]]:
    """A page of 200 messages, as its templates ask for them."""
    from conversations.models import Conversation, Message  # noqa: PLC0415

    conversation = Conversation()
    messages = [
        Message(conversation=conversation, role="assistant", state="completed", pk=uuid.uuid4())
        for _ in range(MESSAGES)
    ]
    for message in messages:
        message.content = REPLY[:1024]
    unsealed = [REPLY[:1024].encode() for _ in messages]

    def opened() -> int:
        shown = (len(m.shown_content or "") + len(m.shown_thinking) for m in messages)
        return sum(shown)

    def read() -> int:
        return sum(len(text.decode()) for text in unsealed)

    return opened, read


def measure() -> list[Table]:
    """Measure both in the same run, sealed and not."""
    table = Table(
        "Encryption",
        ["", "sealed, ms", "plain, ms", "adds, ms", "goal, ms"],
        note=f"CPU time of one core, median of {ROUNDS}. The turn: a question of 1 KB, a reply of"
        f" 3 KB stored {SNAPSHOTS} times while it grows, a title, two digests, and question and"
        f" reply read once. The page: {MESSAGES} messages of 1 KB."
        f" {platform.machine()}, CPython {platform.python_version()}.",
    )
    for name, (sealed, plain), goal in (
        ("a turn of 4 KB, its rows", _rows(), "0.2"),
        (f"its {FRAMES} frames, written and read", _frames(), "–"),
        (f"a page of {MESSAGES} messages", _page(), "5"),
    ):
        with_it, without = _cpu_ms(sealed)[0], _cpu_ms(plain)[0]
        row = [number(with_it, 3), number(without, 3), number(with_it - without, 3)]
        table.rows.append([name, *row, goal])
    return [table]


def main() -> int:
    """Measure, print, and write when asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encryption", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into docs/retention.md")
    chosen = parser.parse_args()
    load_apps()
    tables = measure()
    for table in tables:
        print(table.as_text())
    if chosen.write:
        head = f"Measured on {platform.machine()}."
        write(DOCUMENT, tables, head, command="python -m benchmarks.encryption")
    return 0


if __name__ == "__main__":
    sys.exit(main())
