"""What other parts of the house state under the log's key: signed notes (C2SP signed-note).

signed_statement(header, lines)    the note; it names the log on its second line
signed_by(note)                    by whom it is signed, of the log's own keys
"""

from collections.abc import Iterable

from django.conf import settings

from audit.checkpoint import SigningKey, SigningKeyError, read_signing_keys, signed_note
from audit.models import Checkpoint, Fork
from audit.models import SigningKey as KeyRow
from audit.verify import Note, NoteError, VerifierKey


def signed_statement(header: str, lines: Iterable[str]) -> str:
    """Return a note with these lines below its header and the log's name. Raises SigningKeyError.

    No line may hold a line break.
    """
    origin = _origin()
    key = signing_key_of(origin)
    text = "\n".join([header, origin, *(_whole(line) for line in lines)])
    return signed_note(f"{text}\n", [key])


def signed_by(note: str) -> list[str]:
    """Return the keys of the log that signed a note, as `name+id`; none where it does not hold."""
    known = [VerifierKey.parse(row.vkey) for row in KeyRow.objects.all()]
    try:
        found = Note.parse(note).verified(known)
    except NoteError:
        return []
    return [f"{each.name}+{each.key_id}" for each in found]


def signing_key_of(origin: str) -> SigningKey:
    """Return the key of the secret store, which has to be the log's last.

    Raises SigningKeyError.
    """
    key, _ = read_signing_keys(origin)
    last = KeyRow.objects.filter(name=origin).order_by("-id").first()
    if last is None:
        raise SigningKeyError("The log has signed nothing yet. It does once the worker seals it.")
    if last.key_id != key.key_id:
        raise SigningKeyError(
            "AUDIT_SIGNING_KEY is not the key that the log was last signed with, so nothing else"
            " can be signed. Give that one."
        )
    return key


def _origin() -> str:
    known = Checkpoint.objects.order_by("number").last()
    fork = Fork.objects.order_by("generation").last()
    return fork.origin if fork else known.origin if known else str(settings.AUDIT_ORIGIN)


def _whole(line: str) -> str:
    if "\n" in line:
        raise ValueError("A line of a statement holds a line break.")
    return line
