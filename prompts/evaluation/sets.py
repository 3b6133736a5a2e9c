"""The verbs of evaluation sets: make one, store a new version of its cases.

Who edits prompts writes sets; a version that is stored never changes. Each verb asks for
permission, changes and records, together.
"""

from django.db import transaction
from django.db.models import Max

from accounts.access import Actor, require
from accounts.models import User
from accounts.roles import Permission
from audit.trail import record
from prompts.evaluation.cases import read
from prompts.models import EvaluationSet, EvaluationSetVersion
from prompts.publishing import MAX_NOTE_CHARACTERS, NotPossible


@transaction.atomic
def make_set(
    made: EvaluationSet, lines: bytes | str, *, note: str, by: Actor
) -> EvaluationSetVersion:
    """Store a new set, not yet saved, with its first version.

    Raises Denied, Malformed, and ValidationError for names that can't be.
    """
    require(by, Permission.EDIT_PROMPTS)
    made.full_clean()
    made.save()
    return store_version(made, lines, note=note, by=by)


@transaction.atomic
def store_version(
    which: EvaluationSet, lines: bytes | str, *, note: str, by: Actor
) -> EvaluationSetVersion:
    """Store JSON Lines as the set's newest version, and return it.

    Raises Denied, Malformed, and NotPossible when the newest version says the same.
    """
    require(by, Permission.EDIT_PROMPTS)
    given = read(lines)
    EvaluationSet.objects.select_for_update(no_key=True).get(pk=which.pk)  # numbers are in order
    newest = newest_version(which)
    if newest and newest.digest == given.digest:
        raise NotPossible(f"v{newest.number} has exactly these cases: there is nothing to store.")
    number = which.versions.aggregate(highest=Max("number"))["highest"] or 0
    made = EvaluationSetVersion.objects.create(
        set=which,
        number=number + 1,
        digest=given.digest,
        lines=given.lines,
        case_count=len(given.cases),
        note=note.strip()[:MAX_NOTE_CHARACTERS],
        created_by=by if isinstance(by, User) else None,
    )
    record(
        by,
        "evaluation_set.published",
        which,
        set=which.slug,
        number=made.number,
        cases=made.case_count,
        digest=made.digest,
    )
    return made


def newest_version(which: EvaluationSet) -> EvaluationSetVersion | None:
    """Return the newest version of a set, if it has one."""
    return which.versions.order_by("-number").first()
