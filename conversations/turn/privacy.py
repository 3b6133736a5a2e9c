"""What happens to personal data before a message goes to the provider, for whom."""

from collections.abc import Mapping
from enum import IntEnum

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from accounts.access import System
from accounts.models import User
from accounts.roles import ROLES


class Mode(IntEnum):
    """From the mildest to the strictest."""

    OFF = 0  # it goes as it is
    PSEUDONYMISE = 1  # the provider sees placeholders, the reader the originals
    MASK = 2  # the provider sees kinds, and nothing comes back
    BLOCK = 3  # the message is refused


def mode_for(user: User | System) -> Mode:
    """Return the strictest mode of the person's roles. Async code loads them `with_roles()`.

    Parley itself has no role, and so `PII_MODE`.

    Raises ImproperlyConfigured when a mode or role of the settings does not exist.
    """
    default, by_role = configured_modes()
    roles = user.roles if isinstance(user, User) else ()
    return max((by_role.get(role, default) for role in roles), default=default)


def configured_modes() -> tuple[Mode, Mapping[str, Mode]]:
    """Return `PII_MODE`, and `PII_MODE_BY_ROLE` by slug. Raises ImproperlyConfigured."""
    by_role = settings.PII_MODE_BY_ROLE
    if unknown := sorted(set(by_role) - set(ROLES)):
        raise ImproperlyConfigured(f"PII_MODE_BY_ROLE names no role: {', '.join(unknown)}.")
    return _mode(settings.PII_MODE), {role: _mode(name) for role, name in by_role.items()}


def _mode(name: str) -> Mode:
    try:
        return Mode[name.upper()]
    except KeyError:
        names = ", ".join(mode.name.lower() for mode in Mode)
        raise ImproperlyConfigured(f"PII_MODE is {name}; it can be {names}.") from None
