"""Roles and what each may do: one table, as data.

A role is a set of permissions. What the admin site asks for ("may this person view that model?")
follows from the same permissions, so a role's sections in the admin can't drift from its rights.
There is no superuser: whoever should do more is granted another role.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache

from django.apps import apps


class Permission(StrEnum):
    """Everything that can be asked of `accounts.access`; nothing else can."""

    CHAT = "conversations.chat"
    LIST_METADATA = "conversations.list_metadata"
    BREAK_GLASS = "conversations.break_glass"
    VIEW_PROMPTS = "prompts.view"
    EDIT_PROMPTS = "prompts.edit"
    PUBLISH_PROMPTS = "prompts.publish"
    GATE_PROMPTS = "prompts.gate"
    VIEW_AUDIT = "audit.view"
    EXPORT_AUDIT = "audit.export"
    MANAGE_RETENTION = "retention.manage"
    PLACE_HOLDS = "holds.place"
    MANAGE_LIMITS = "limits.manage"
    MANAGE_MODELS = "models.manage"
    VIEW_HEALTH_DETAILS = "health.details"
    VIEW_METRICS = "metrics.view"
    MANAGE_USERS = "users.manage"
    GRANT_ROLES = "roles.grant"


# How a sentence goes on after "to".
DESCRIPTIONS: dict[Permission, str] = {
    Permission.CHAT: "hold conversations",
    Permission.LIST_METADATA: "list conversations",
    Permission.BREAK_GLASS: "open somebody else's conversation",
    Permission.VIEW_PROMPTS: "see prompts",
    Permission.EDIT_PROMPTS: "edit prompts",
    Permission.PUBLISH_PROMPTS: "publish prompts",
    Permission.GATE_PROMPTS: "decide what a prompt has to pass before it can be published",
    Permission.VIEW_AUDIT: "read the audit log",
    Permission.EXPORT_AUDIT: "export the audit log",
    Permission.MANAGE_RETENTION: "change how long conversations are kept",
    Permission.PLACE_HOLDS: "place or release holds",
    Permission.MANAGE_LIMITS: "change limits",
    Permission.MANAGE_MODELS: "change models and their prices",
    Permission.VIEW_HEALTH_DETAILS: "see the details of the system's health",
    Permission.VIEW_METRICS: "see metrics",
    Permission.MANAGE_USERS: "manage accounts",
    Permission.GRANT_ROLES: "grant or revoke roles",
}


@dataclass(frozen=True, slots=True)
class RoleDefinition:
    """A role's name for people, and its rights."""

    label: str
    permissions: frozenset[Permission]


def _role(label: str, *permissions: Permission) -> RoleDefinition:
    return RoleDefinition(label, frozenset(permissions))


_P = Permission

MEMBER = "member"
PROMPT_EDITOR = "prompt_editor"
PROMPT_PUBLISHER = "prompt_publisher"
COMPLIANCE_OFFICER = "compliance_officer"
EXTERNAL_AUDITOR = "external_auditor"
OPERATOR = "operator"
ADMINISTRATOR = "administrator"

ROLES: dict[str, RoleDefinition] = {
    MEMBER: _role("Member", _P.CHAT),
    PROMPT_EDITOR: _role("Prompt editor", _P.CHAT, _P.VIEW_PROMPTS, _P.EDIT_PROMPTS),
    # Publishing is no editing: who wrote a version and who put it live stay two people.
    PROMPT_PUBLISHER: _role(
        "Prompt publisher", _P.CHAT, _P.VIEW_PROMPTS, _P.PUBLISH_PROMPTS, _P.GATE_PROMPTS
    ),
    COMPLIANCE_OFFICER: _role(
        "Compliance officer",
        _P.CHAT,
        _P.VIEW_PROMPTS,
        _P.VIEW_AUDIT,
        _P.EXPORT_AUDIT,
        _P.MANAGE_RETENTION,
        _P.PLACE_HOLDS,
        _P.LIST_METADATA,
        _P.BREAK_GLASS,
    ),
    # Somebody from outside: reads the evidence and takes part in nothing.
    EXTERNAL_AUDITOR: _role("External auditor", _P.VIEW_AUDIT),
    OPERATOR: _role(
        "Operator",
        _P.CHAT,
        _P.VIEW_HEALTH_DETAILS,
        _P.VIEW_METRICS,
        _P.MANAGE_LIMITS,
        _P.LIST_METADATA,
    ),
    # Says who may do what. Reads neither what people said nor the evidence about it.
    ADMINISTRATOR: _role(
        "Administrator",
        _P.CHAT,
        _P.VIEW_PROMPTS,
        _P.GATE_PROMPTS,
        _P.VIEW_HEALTH_DETAILS,
        _P.VIEW_METRICS,
        _P.MANAGE_LIMITS,
        # Where a model lies decides who gets to read what is asked: not for operators.
        _P.MANAGE_MODELS,
        _P.MANAGE_USERS,
        _P.GRANT_ROLES,
    ),
}

# Patterns of the permissions that Django's admin asks for, `app_label.action_model`.
MODEL_PERMISSIONS: dict[Permission, tuple[str, ...]] = {
    # Not all of the app: who is under a legal hold is for those alone who place them.
    _P.LIST_METADATA: (
        "conversations.view_conversation",
        "conversations.view_message",
        "conversations.view_budget*",
        "conversations.view_policyrule*",
    ),
    _P.PLACE_HOLDS: ("conversations.view_hold", "conversations.add_hold"),
    _P.VIEW_PROMPTS: ("prompts.view_prompt*", "prompts.view_evaluation*"),
    _P.EDIT_PROMPTS: (
        *("prompts.add_prompt*", "prompts.change_prompt*"),
        *("prompts.add_evaluationset", "prompts.change_evaluationset"),
    ),
    _P.PUBLISH_PROMPTS: ("prompts.change_prompt*",),
    _P.MANAGE_MODELS: (
        "prompts.view_languagemodel",
        "prompts.add_languagemodel",
        "prompts.change_languagemodel",
        "prompts.view_modelprice",
        "prompts.add_modelprice",
    ),
    # Purges and their certificates are evidence: numbers, and nobody whose words went.
    _P.VIEW_AUDIT: ("audit.view_entry", "conversations.view_purgerun"),
    _P.BREAK_GLASS: (
        "conversations.view_breakglassgrant",
        "conversations.add_breakglassgrant",
    ),
    _P.MANAGE_RETENTION: (
        "conversations.view_purgerun",
        "conversations.view_retentionpolicy",
        "conversations.add_retentionpolicy",
        "conversations.change_retentionpolicy",
    ),
    _P.MANAGE_LIMITS: (
        "conversations.*_budgetplan",
        "conversations.view_budgetwindow",
        "conversations.view_policyrule*",
        "conversations.add_policyrule",
        "conversations.change_policyrule",
    ),
    _P.MANAGE_USERS: (
        *("accounts.view_user", "accounts.add_user", "accounts.change_user"),
        "accounts.view_apitoken",
        *("conversations.view_erasure", "conversations.add_erasure"),
    ),
    _P.GRANT_ROLES: ("accounts.view_user", "accounts.view_role", "accounts.*_rolegrant"),
}


def permissions_of(roles: Iterable[str]) -> frozenset[Permission]:
    """Return what the roles with these slugs may do together.

    A slug that the table no longer knows gives nothing.
    """
    known = (ROLES[slug].permissions for slug in roles if slug in ROLES)
    return frozenset[Permission]().union(*known)


@lru_cache(maxsize=1024)
def admin_patterns(permissions: frozenset[Permission]) -> frozenset[str]:
    """Return the patterns of admin permissions that these permissions imply."""
    return frozenset(
        pattern for permission in permissions for pattern in MODEL_PERMISSIONS.get(permission, ())
    )


@lru_cache(maxsize=4096)
def implies(permissions: frozenset[Permission], asked: str) -> bool:
    """Say whether `asked`, one of ours or `app_label.action_model`, follows from `permissions`."""
    if asked in permissions:
        return True
    return any(fnmatchcase(asked, pattern) for pattern in admin_patterns(permissions))


def seed_roles() -> None:
    """Bring the rows of `Role` up to the table. Runs after each migrate; safe to repeat."""
    role = apps.get_model("accounts", "Role")
    role.objects.bulk_create(
        [role(slug=slug, label=definition.label) for slug, definition in ROLES.items()],
        update_conflicts=True,
        unique_fields=["slug"],
        update_fields=["label"],
    )
