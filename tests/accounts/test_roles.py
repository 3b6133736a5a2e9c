"""The table of roles, and the sections of the admin that follow from it."""

import pytest
from django.apps import apps
from django.contrib import admin

from accounts.models import Role
from accounts.roles import (
    DESCRIPTIONS,
    MODEL_PERMISSIONS,
    ROLES,
    Permission,
    implies,
    permissions_of,
    seed_roles,
)


def test_every_permission_has_words_and_somebody_who_holds_it():
    assert set(DESCRIPTIONS) == set(Permission)
    assert permissions_of(ROLES) == set(Permission)


def test_everyone_chats_but_the_external_auditor():
    silent = {slug for slug, role in ROLES.items() if Permission.CHAT not in role.permissions}
    assert silent == {"external_auditor"}


def test_external_auditor_reads_the_log_and_nothing_else():
    assert ROLES["external_auditor"].permissions == {Permission.VIEW_AUDIT}


def test_nobody_alone_both_manages_accounts_and_reads_what_people_said():
    for role in ROLES.values():
        assert not {Permission.GRANT_ROLES, Permission.BREAK_GLASS} <= role.permissions


def test_nobody_alone_both_edits_and_publishes_prompts():
    for role in ROLES.values():
        assert not {Permission.EDIT_PROMPTS, Permission.PUBLISH_PROMPTS} <= role.permissions


def test_unknown_role_gives_nothing():
    assert permissions_of(["emperor"]) == frozenset()


def test_permission_of_ours_does_not_imply_its_neighbours():
    held = frozenset({Permission.VIEW_AUDIT})
    assert implies(held, "audit.view_entry")
    assert not implies(held, "audit.change_entry")
    assert not implies(held, "audit.view_modelchange")


@pytest.mark.django_db
def test_seeding_twice_repairs_labels_and_adds_nothing():
    Role.objects.filter(slug="member").update(label="Mitglied")
    seed_roles()
    seed_roles()
    assert dict(Role.objects.values_list("slug", "label")) == {
        slug: role.label for slug, role in ROLES.items()
    }


SECTIONS = {
    "member": set(),
    "prompt_editor": {"prompts"},
    "prompt_publisher": {"prompts"},
    "compliance_officer": {"prompts", "audit", "conversations"},
    "external_auditor": {"audit", "conversations"},
    "operator": {"conversations"},
    "administrator": {"prompts", "accounts", "conversations"},
}


# Who sees which of what tells of purges, holds, erasures and reading what others said.
SEEN = {
    "compliance_officer": {"retentionpolicy", "purgerun", "hold", "breakglassgrant"},
    "external_auditor": {"purgerun"},
    "administrator": {"erasure"},
}
KEPT_CLOSE = {
    *("retentionpolicy", "retentionversion", "purgerun", "hold", "heldkey", "personexport"),
    *("erasure", "breakglassgrant", "breakglassview", "counselexport"),
}
OPEN_TO_OPERATORS = {
    *("conversation", "message", "budgetplan", "budgetwindow", "policyrule", "policyruleversion"),
}


@pytest.mark.parametrize("role", ROLES)
def test_who_sees_holds_policies_and_purges(role):
    held = ROLES[role].permissions
    seen = {name for name in KEPT_CLOSE if implies(held, f"conversations.view_{name}")}
    assert seen == SEEN.get(role, set())


def test_nobody_may_change_or_remove_evidence():
    evidence = KEPT_CLOSE - {"retentionpolicy"}
    for held in (role.permissions for role in ROLES.values()):
        for act in ("change", "delete"):
            assert not any(implies(held, f"conversations.{act}_{name}") for name in evidence)


def test_who_sees_each_model_of_conversations_was_decided():
    known = {model._meta.model_name for model in apps.get_app_config("conversations").get_models()}
    assert known == KEPT_CLOSE | OPEN_TO_OPERATORS | {
        *("runner", "feedback", "reservation", "satisfaction", "satisfactionpause"),
    }
    held = ROLES["operator"].permissions
    assert {n for n in known if implies(held, f"conversations.view_{n}")} == OPEN_TO_OPERATORS


@pytest.mark.django_db
@pytest.mark.parametrize("role", ROLES)
def test_admin_shows_the_sections_of_the_role(role, account_of, rf):
    user = account_of(role)
    request = rf.get("/admin/")
    request.user = user
    shown = {app["app_label"] for app in admin.site.get_app_list(request)}
    registered = {model._meta.app_label for model in admin.site._registry}
    assert shown == SECTIONS[role] & registered
    assert user.is_staff is bool(SECTIONS[role])


@pytest.mark.django_db
@pytest.mark.parametrize("role", ROLES)
def test_no_role_reaches_models_of_libraries(role, account_of):
    user = account_of(role)
    assert not user.is_superuser
    for label in ("auth", "account", "sessions", "contenttypes", "auditlog"):
        assert not user.has_module_perms(label)


def test_admin_patterns_belong_to_known_permissions():
    assert set(MODEL_PERMISSIONS) <= set(Permission)
