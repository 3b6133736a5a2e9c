"""Where the log stands: its name and size, what was signed last, and where sealing goes on."""

from dataclasses import dataclass
from typing import Self

from django.conf import settings
from django.db.backends.utils import CursorWrapper

from audit import models


@dataclass(frozen=True, slots=True)
class Log:
    """What the database says. `origin` is the one to sign under."""

    origin: str
    size: int
    checkpoint: models.Checkpoint | None
    fork: models.Fork | None
    keys: tuple[models.SigningKey, ...]
    # (transaction_id, id) of the entry behind which sealing goes on.
    cursor: tuple[int, int]
    # Transactions below the first have all ended; none has begun from the second on.
    oldest_running: int
    next_transaction: int

    @classmethod
    def read(cls, cursor: CursorWrapper) -> Self:
        """Read it; the two figures of transactions are those of this moment."""
        # In this order, so that beside a sealer no checkpoint is read without its leaves.
        checkpoint = models.Checkpoint.objects.order_by("number").last()
        fork = models.Fork.objects.order_by("generation").last()
        cursor.execute(
            "SELECT (SELECT max(index) + 1 FROM audit_leaf),"
            " pg_snapshot_xmin(pg_current_snapshot())::text::bigint,"
            " pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        )
        size, oldest_running, next_transaction = cursor.fetchone()
        known = fork or checkpoint
        return cls(
            origin=known.origin if known else settings.AUDIT_ORIGIN,
            size=size or 0,
            checkpoint=checkpoint,
            fork=fork,
            keys=tuple(models.SigningKey.objects.order_by("id")),
            cursor=_cursor(cursor, size or 0, checkpoint, fork),
            oldest_running=oldest_running,
            next_transaction=next_transaction,
        )

    @property
    def signed(self) -> models.Checkpoint | None:
        """The last checkpoint under the present origin."""
        known = self.checkpoint
        return known if known and known.origin == self.origin else None

    @property
    def signing_key(self) -> models.SigningKey | None:
        """The last key that signed under the present origin."""
        return next((key for key in reversed(self.keys) if key.name == self.origin), None)

    @property
    def is_signed(self) -> bool:
        """Whether the last checkpoint covers all leaves."""
        return self.signed.size == self.size if self.signed else not (self.size or self.fork)


def _cursor(
    cursor: CursorWrapper,
    size: int,
    checkpoint: models.Checkpoint | None,
    fork: models.Fork | None,
) -> tuple[int, int]:
    """Return the place of the last leaf's entry, as long as that says where to go on.

    After a fork the last entries may be of another count of transactions; retention may have
    removed the last one. Then the fork or the checkpoint knows.
    """
    signed_anew = checkpoint and (fork is None or checkpoint.origin == fork.origin)
    known, place = 0, (0, 0)
    if checkpoint and signed_anew:
        known = checkpoint.size
        place = (checkpoint.cursor_transaction, checkpoint.cursor_entry)
    elif fork:
        known, place = fork.size, (fork.cursor_transaction, 0)
    if size <= known:
        return place
    cursor.execute(
        "SELECT entry.transaction_id, entry.id FROM audit_leaf AS leaf"
        " JOIN audit_entry AS entry ON entry.id = leaf.entry_id WHERE leaf.index = %s",
        [size - 1],
    )
    return cursor.fetchone() or place
