"""Erasing what entries know about a person: names, networks, browsers.

Entries stay as they are, and provable: each holds a salted digest of these values alone, and the
salt goes with them, so that nobody can try out whom it may have been.
"""

from django.db.models import Q

from accounts.models import User
from audit.models import PersonalDetails

_ACCOUNT = "accounts.user"


def erase_personal_details(user: User, *, email: str = "") -> int:
    """Erase the personal details of what `user` did and of what was done to them.

    With `email`, also where somebody who was not signed in typed it, or searched for it. Details of
    an entry go as a whole: where somebody else acted, their name and network with it. That entry
    still says by its ids who did what. Returns how many entries lost their details.
    """
    whose = Q(entry__actor_id=str(user.pk))
    whom = Q(entry__target_kind=_ACCOUNT, entry__target_id=str(user.pk)) & ~Q(target_label="")
    typed = Q(target_label__iexact=email) if email else Q(pk__in=[])
    count, _ = PersonalDetails.objects.filter(whose | whom | typed).delete()
    return count
