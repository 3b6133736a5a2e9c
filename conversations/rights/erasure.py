"""Erasing an account: closed at once, and everything destroyed that no hold keeps.

    erase(person, by=user)      closes the account and deletes what the person said
    finish_all(now)             destroys what was left, once replies stopped and holds ended

While a hold keeps what was said, it keeps whose it was: the former name and email stand in the
`Erasure`, and the audit log's details stay. Nobody but the hold's people can tell from outside.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime

from celery import current_app
from django.db import transaction
from django.utils import timezone

from accounts import administration
from accounts.access import Actor, System
from accounts.models import User
from audit.personal import erase_personal_details
from audit.trail import record
from conversations.models import BudgetWindow, Conversation, Erasure, Message, SatisfactionPause
from conversations.retention.holds import held, is_person_held
from conversations.rights.deleting import hide_all, hurry, stop_open_replies
from conversations.rights.person_export import withdraw

BY = System("rights")


def erase(person: User, *, by: Actor, reason: str = "") -> Sequence[Message]:
    """Erase an account; return the replies that are to stop. Nothing happens to an erased one.

    Raises Denied, and LastAdministratorError.
    """
    with transaction.atomic():
        email, name = person.email, person.name
        if not administration.erase(person, by=by, reason=reason):
            return []
        withdraw(person)
        ids = hide_all(person, timezone.now())
        hurry(person)
        if _is_kept(person):
            Erasure.objects.create(person=person, former_email=email, former_name=name)
        else:
            Erasure.objects.create(person=person)
            erase_personal_details(person, email=email)
        transaction.on_commit(_hand_over, robust=True)
    return stop_open_replies(ids)


def finish_all(now: datetime) -> int:
    """Finish the erasures that nothing holds up any more; return how many."""
    waiting = Erasure.objects.filter(finished_at=None).order_by("asked_at")
    return sum(_finish(pk, now) for pk in waiting.values_list("pk", flat=True))


@transaction.atomic
def _finish(person_id: uuid.UUID, now: datetime) -> bool:
    waiting = Erasure.objects.select_for_update(skip_locked=True, of=("self",))
    found = waiting.select_related("person").filter(pk=person_id, finished_at=None).first()
    if found is None or _is_kept(found.person):
        return False
    # Again, where it was done before: requests of that moment may have left some.
    erase_personal_details(found.person, email=found.former_email)
    found.former_email = found.former_name = ""
    if not Conversation.objects.filter(owner=person_id).exists():
        BudgetWindow.objects.filter(subject=person_id).delete()
        SatisfactionPause.objects.filter(person=person_id).delete()
        found.finished_at = now
        record(BY, "account.erasure_finished", ("accounts.user", str(person_id)))
    found.save()
    return found.finished_at is not None


def _is_kept(person: User) -> bool:
    """Whether a hold keeps this person, or anything that they said."""
    said = Conversation.objects.filter(owner=person).values_list("pk", flat=True)
    return is_person_held(person) or bool(held(said))


def _hand_over() -> None:
    # By their names: the tasks' module imports this one. Without a broker beat does it in a minute.
    current_app.send_task("conversations.tasks.destroy_deleted")
    current_app.send_task("conversations.tasks.finish_erasures", countdown=30)
