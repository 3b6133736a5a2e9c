"""The proof of one entry, made from the stored tree and checked before it is shown or handed out.

What is checked is the very text that a reader may download, by the functions with which they check
it themselves (`audit.verify`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection
from django.db.backends.utils import CursorWrapper

from audit.checkpoint import tlog_proof_text
from audit.leaves import Place, StoredHashes, leaf_bytes, read_places
from audit.merkle import MissingHash, inclusion_path
from audit.models import Checkpoint, Leaf, Publication, SigningKey
from audit.verify import InclusionProof, NoteError, ProofError, VerifierKey, leaf_hash


@dataclass(frozen=True, slots=True)
class Attested:
    """An entry that was verified at this moment. Hashes are in hexadecimal."""

    index: int
    leaf: str
    root: str
    path_length: int
    checkpoint: Checkpoint
    # Names and ids of the keys whose signatures were checked.
    signed_by: tuple[str, ...]
    publications: tuple[Publication, ...]
    # The text of the proof (C2SP tlog-proof), with the entry's canonical bytes.
    proof: str
    clock_went_back: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class Refuted:
    """An entry whose proof does not hold; `why` are sentences for the reader."""

    why: str


def attest(entry_id: int, now: datetime) -> Attested | Refuted | None:
    """Prove an entry by the first checkpoint that covers it; None while there is none."""
    leaf = Leaf.objects.filter(entry_id=entry_id).first()
    if leaf is None:
        return None
    covering = Checkpoint.objects.filter(size__gt=leaf.index).order_by("size", "number")
    if (checkpoint := covering.first()) is None:
        return None
    with connection.cursor() as cursor:
        try:
            return _attested(cursor, leaf.index, checkpoint, now)
        except (ProofError, NoteError, MissingHash) as error:
            return Refuted(
                f"Leaf {leaf.index} does not prove itself by checkpoint {checkpoint.number}."
                f" {error}"
            )


def _attested(
    cursor: CursorWrapper, index: int, checkpoint: Checkpoint, now: datetime
) -> Attested | Refuted:
    (place,) = read_places(cursor, index, index + 1)
    if place.row is None:
        return Refuted(f"The entry of leaf {index} is gone.")
    content = leaf_bytes(place.row)
    if leaf_hash(content) != place.hash:
        return Refuted(
            f"This entry is not the one that was sealed: its values do not have the hash of leaf"
            f" {index}. It was changed behind the log's back."
        )
    path = inclusion_path(StoredHashes(cursor), index, checkpoint.size)
    proof = tlog_proof_text(index, path, checkpoint.note, content)
    return _checked(place, proof, path, checkpoint, now)


def _checked(
    place: Place, proof: str, path: Sequence[bytes], checkpoint: Checkpoint, now: datetime
) -> Attested:
    """Check a proof as its reader will. Raises NoteError or ProofError."""
    keys = [VerifierKey.parse(vkey) for vkey in SigningKey.objects.values_list("vkey", flat=True)]
    read = InclusionProof.parse(proof)
    signed = read.verify(leaf_hash(read.extra), keys)
    return Attested(
        index=place.index,
        leaf=place.hash.hex(),
        root=signed.root.hex(),
        path_length=len(path),
        checkpoint=checkpoint,
        signed_by=tuple(f"{key.name}, key {key.key_id}" for key in signed.signed_by),
        publications=_publications(checkpoint),
        proof=proof,
        clock_went_back=place.clock_went_back,
        at=now,
    )


def _publications(checkpoint: Checkpoint) -> tuple[Publication, ...]:
    """Return where the first checkpoint was published that covers what this one does."""
    later = Publication.objects.filter(checkpoint_id__gte=checkpoint.number)
    first = later.order_by("checkpoint_id").values("checkpoint_id")[:1]
    return tuple(Publication.objects.filter(checkpoint_id__in=first).order_by("destination"))
