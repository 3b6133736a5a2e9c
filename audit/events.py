"""The vocabulary of the log: every event that can be recorded, and what it says.

Names are `subject.fact`, facts in the past. A name outside this list can't be recorded. Names are
never reused for something else: an old entry must mean what it meant.
"""

EVENTS: dict[str, str] = {
    "auth.signed_in": "Somebody signed in.",
    "auth.signed_out": "Somebody signed out.",
    "auth.sign_in_failed": "A sign-in failed: unknown email, wrong password or inactive account.",
    "auth.password_changed": "Somebody changed or set their password.",
    "auth.password_reset_requested": "A link to set a password was mailed.",
    "auth.password_reset": "Somebody set a new password by a mailed link.",
    "access.denied": "Somebody asked for what they may not do.",
    "account.created": "An account was made.",
    "account.deactivated": "An account was switched off.",
    "account.reactivated": "An account was switched on again.",
    "role.granted": "An account was given a role.",
    "role.revoked": "A role was taken from an account.",
    "token.created": "A token for the API was made.",
    "token.used_first": "A token for the API was used for the first time.",
    "token.revoked": "A token for the API was revoked.",
    "conversation.created": "A conversation was begun.",
    "conversation.renamed": "A conversation was given another title.",
    "conversation.archived": "A conversation was put into the archive.",
    "conversation.restored": "A conversation was taken back from the archive or from deletion.",
    "conversation.deleted": "A conversation was deleted by its owner.",
    "turn.started": "A question was asked, and a reply was begun.",
    "turn.stop_requested": "Somebody asked a reply to stop.",
    "turn.ended": "A reply ended: completed, stopped, failed, refused or interrupted.",
    "turn.continued": "An interrupted reply was taken up again.",
    "model.offered": "A language model was put on offer.",
    "model.redefined": "What holds of a language model was changed: its server, key, limits, roles"
    " or fallback.",
    "model.withdrawn": "A language model was taken off offer.",
    "price.set": "A language model was given a price.",
    "budget.changed": "What the holders of a role, or everybody else, may spend was changed.",
    "policy.rule_saved": "A policy rule was made or changed; each time it gets another version.",
    "policy.hit": "A policy rule found something in what was sent or in a reply.",
    "feedback.given": "Somebody rated a reply.",
    "feedback.withdrawn": "Somebody took back their rating of a reply.",
    "model.changed": "A registered record was added, changed or removed in the administration.",
}


class UnknownEventError(ValueError):
    """An event that is not in the vocabulary."""

    def __init__(self, event: str) -> None:
        super().__init__(f"{event!r} is no event of audit.events; add it there, with a sentence.")


def known(event: str) -> str:
    """Return the event's name; raise UnknownEventError when it is not in the vocabulary."""
    if event not in EVENTS:
        raise UnknownEventError(event)
    return event
