"""What accounts tells those who listen. Django's own sign-in signals are used as they are.

Each is sent inside the transaction of the change, so that a listener's rows share its fate;
`access_denied` and `rate_limited` are the exceptions: whoever records them writes beyond the
transaction that rolls back.
"""

from django.dispatch import Signal

# user: User, by: User | System
account_created = Signal()
account_deactivated = Signal()
account_reactivated = Signal()

# user: User, by: User | System, reason: str; name and email are gone already
account_erased = Signal()

# user: User, role: str (slug), by: User | System
role_granted = Signal()
role_revoked = Signal()

# user: User, a link to set a password is on its way to them
password_reset_requested = Signal()

# token: ApiToken, by: User | System
token_created = Signal()
token_revoked = Signal()

# token: ApiToken, by: User; the first request that came with it
token_first_used = Signal()

# user: User | AnonymousUser, permission: Permission or "", obj: object | None, reason: str; and
# page: str, the name of the view, where a library refused and no permission of ours was asked for
access_denied = Signal()

# user: User | AnonymousUser, page: str (name of the view), tried: str (an email, or empty); too
# many tries to sign in or to set a password
rate_limited = Signal()
