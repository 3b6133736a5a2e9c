"""Erasing what entries know about a person: names, networks, browsers.

Entries stay as they are, and provable: each holds a salted digest of these values alone, and the
salt goes with them, so that nobody can try out whom it may have been.
"""

from functools import reduce
from operator import or_

from django.db.models import Q

from accounts.models import User
from audit.models import Export, PersonalDetails

_ACCOUNT = "accounts.user"


def erase_personal_details(user: User, *, email: str = "") -> int:
    """Erase the personal details of what `user` did and of what was done to them.

    With `email`, also where somebody who was not signed in typed it, or searched for it. Details of
    an entry go as a whole: where somebody else acted, their name and network with it. That entry
    still says by its ids who did what. Exports that were asked for by the email name the account's
    id instead, which finds the same entries. Returns how many entries lost their details.
    """
    if email:
        _name_by_id(user, email)
    whose = Q(entry__actor_id=str(user.pk))
    whom = Q(entry__target_kind=_ACCOUNT, entry__target_id=str(user.pk)) & ~Q(target_label="")
    typed = Q(target_label__iexact=email) if email else Q(pk__in=[])
    count, _ = PersonalDetails.objects.filter(whose | whom | typed).delete()
    return count


_TYPED = ("search", "target", "token", "request", "turn", "about")


def _name_by_id(user: User, email: str) -> None:
    """Put the account's id where the selection of an export holds its email.

    The bundle, its manifest and the entry of the request stay as they are.
    """
    named = reduce(or_, (Q(**{f"selection__{name}__iexact": email}) for name in _TYPED))
    for export in Export.objects.filter(named).only("selection").select_for_update():
        selection = {
            name: str(user.pk) if value.lower() == email.lower() else value
            for name, value in export.selection.items()
        }
        Export.objects.filter(pk=export.pk).update(selection=selection)
