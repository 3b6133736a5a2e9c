"""Entries as SIEMs read them: the Open Cybersecurity Schema Framework, version 1.6.0.

Four classes are used: Authentication (3002), Account Change (3001), Entity Management (3004) for
records that are made, read, changed or removed, and API Activity (6003) for everything else. What
the schema has no place for stands under `unmapped`, so that an event tells all that the leaf tells.
Personal values are no part of a leaf and of no event: accounts appear by their ids.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson

from audit.leaves import Row
from audit.models import ActorKind, Outcome

VERSION = "1.6.0"
PRODUCT = {"name": "Parley", "vendor_name": "Parley"}
ACCOUNT = "accounts.user"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OTHER = 99


class _Class(NamedTuple):
    uid: int
    name: str
    category: int
    category_name: str
    # Activity → its number in this class.
    activities: Mapping[str, int]


_IAM = (3, "Identity & Access Management")
_AUTHENTICATION = _Class(3002, "Authentication", *_IAM, {"Logon": 1, "Logoff": 2})
_ACCOUNT_CHANGE = _Class(
    3001,
    "Account Change",
    *_IAM,
    {
        "Create": 1,
        "Enable": 2,
        "Password Change": 3,
        "Password Reset": 4,
        "Disable": 5,
        "Delete": 6,
        "Attach Policy": 7,
        "Detach Policy": 8,
    },
)
_ENTITY_MANAGEMENT = _Class(
    3004, "Entity Management", *_IAM, {"Create": 1, "Read": 2, "Update": 3, "Delete": 4}
)
_API_ACTIVITY = _Class(
    6003,
    "API Activity",
    *(6, "Application Activity"),
    {"Create": 1, "Read": 2, "Update": 3, "Delete": 4},
)

_EVENTS: dict[str, tuple[_Class, str]] = {
    "auth.login_succeeded": (_AUTHENTICATION, "Logon"),
    "auth.login_failed": (_AUTHENTICATION, "Logon"),
    "auth.logged_out": (_AUTHENTICATION, "Logoff"),
    "auth.password_changed": (_ACCOUNT_CHANGE, "Password Change"),
    "auth.password_reset_requested": (_ACCOUNT_CHANGE, "Password Reset"),
    "auth.password_reset": (_ACCOUNT_CHANGE, "Password Reset"),
    "account.created": (_ACCOUNT_CHANGE, "Create"),
    "account.deactivated": (_ACCOUNT_CHANGE, "Disable"),
    "account.reactivated": (_ACCOUNT_CHANGE, "Enable"),
    "account.deleted": (_ACCOUNT_CHANGE, "Delete"),
    "role.granted": (_ACCOUNT_CHANGE, "Attach Policy"),
    "role.revoked": (_ACCOUNT_CHANGE, "Detach Policy"),
}

# What the last word of an event's name does to a record.
_FACTS = {
    **dict.fromkeys(("created", "offered", "given", "declared", "placed"), "Create"),
    **dict.fromkeys(("viewed", "searched", "downloaded", "opened"), "Read"),
    **dict.fromkeys(
        (
            "renamed",
            "archived",
            "restored",
            "redefined",
            "set",
            "changed",
            "saved",
            "published",
            "rotated",
        ),
        "Update",
    ),
    **dict.fromkeys(("deleted", "withdrawn", "revoked", "purged", "erased", "lifted"), "Delete"),
}

# Subjects that are something done with the product and no record.
_ACTIVITIES = frozenset({"access", "api", "auth", "turn", "policy.hit"})


def ocsf_event(index: int, origin: str, row: Row) -> dict[str, Any]:
    """Return the OCSF event of the entry at leaf `index` of the log `origin`.

    `metadata.log_provider` and `metadata.uid` together name it once and for all: who gets an event
    twice knows it by them.
    """
    kind, activity = _class_and_activity(row)
    number = kind.activities.get(activity, _OTHER)
    return {
        "activity_id": number,
        "activity_name": activity,
        "category_uid": kind.category,
        "category_name": kind.category_name,
        "class_uid": kind.uid,
        "class_name": kind.name,
        "type_uid": kind.uid * 100 + number,
        "type_name": f"{kind.name}: {activity if number != _OTHER else 'Other'}",
        "time": _milliseconds(row.occurred_at),
        **_severity_and_status(row),
        "metadata": _metadata(index, origin, row),
        "actor": _actor(row),
        **_SUBJECTS[kind.uid](row),
        "unmapped": _unmapped(row),
    }


def _class_and_activity(row: Row) -> tuple[_Class, str]:
    if row.event in _EVENTS:
        kind, activity = _EVENTS[row.event]
        # A reset that was asked for without an account to reset names none.
        if kind is not _ACCOUNT_CHANGE or row.target_kind == ACCOUNT:
            return kind, activity
    subject, _, fact = row.event.partition(".")
    is_record = row.target_id and not _ACTIVITIES & {subject, row.event}
    activity = _FACTS.get(fact.rpartition("_")[2], fact)
    return _ENTITY_MANAGEMENT if is_record else _API_ACTIVITY, activity


def _severity_and_status(row: Row) -> dict[str, Any]:
    succeeded = row.outcome == Outcome.SUCCEEDED
    found: dict[str, Any] = {
        "severity_id": 1 if succeeded else 2,
        "severity": "Informational" if succeeded else "Low",
        "status_id": 1 if succeeded else 2,
        "status": "Success" if succeeded else "Failure",
        "status_code": row.outcome,
    }
    return {**found, "status_detail": row.reason} if row.reason else found


def _metadata(index: int, origin: str, row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "version": VERSION,
        "product": PRODUCT,
        "log_name": "audit",
        "log_provider": origin,
        "uid": str(index),
        "sequence": index,
        "event_code": row.event,
        "original_time": row.occurred_at,
        "logged_time": _milliseconds(row.recorded_at),
    }
    return {**found, "correlation_uid": row.request_id} if row.request_id else found


def _actor(row: Row) -> dict[str, Any]:
    if row.actor_kind == ActorKind.SYSTEM:
        return {
            "app_name": row.actor_id,
            "user": {"name": row.actor_id, "type_id": 3, "type": "System"},
        }
    if not row.actor_id:
        return {"user": {"name": "anonymous", "type_id": 0, "type": "Unknown"}}
    user = _user(row.actor_id)
    if row.actor_roles:
        user["groups"] = [{"name": role, "type": "role"} for role in row.actor_roles.split(",")]
    return {"user": user}


def _user(uid: str) -> dict[str, Any]:
    return {"uid": uid, "type_id": 1, "type": "User"}


def _of_authentication(row: Row) -> dict[str, Any]:
    # Whoever tried in vain is told by a personal value, which no leaf holds.
    user = _user(row.target_id) if row.target_id else _actor(row)["user"]
    return {"user": user, "service": {"name": PRODUCT["name"]}, "is_remote": True}


def _of_account(row: Row) -> dict[str, Any]:
    role = _payload(row).get("role")
    policy = {"policy": {"name": role, "type": "role"}} if isinstance(role, str) else {}
    return {"user": _user(row.target_id), **policy}


def _of_entity(row: Row) -> dict[str, Any]:
    entity: dict[str, Any] = {"uid": row.target_id, "type": row.target_kind, "type_id": _OTHER}
    if row.target_kind == ACCOUNT:
        entity |= {"type": "User", "type_id": 2, "user": _user(row.target_id)}
    return {"entity": entity}


def _of_activity(row: Row) -> dict[str, Any]:
    api: dict[str, Any] = {"operation": row.event, "service": {"name": PRODUCT["name"]}}
    if row.request_id:
        api["request"] = {"uid": row.request_id}
    # Required by the schema; addresses are personal values.
    found: dict[str, Any] = {"api": api, "src_endpoint": {"name": "Unknown"}}
    if row.target_id:
        found["resources"] = [{"uid": row.target_id, "type": row.target_kind}]
    return found


_SUBJECTS = {
    _AUTHENTICATION.uid: _of_authentication,
    _ACCOUNT_CHANGE.uid: _of_account,
    _ENTITY_MANAGEMENT.uid: _of_entity,
    _API_ACTIVITY.uid: _of_activity,
}


def _unmapped(row: Row) -> dict[str, Any]:
    """Return what has no field of its own, and the kinds and ids as the leaf has them."""
    found = {
        "entry": str(row.entry),
        "actor_kind": row.actor_kind,
        "token": row.token_id,
        "impersonator": row.impersonator_id,
        "target_kind": row.target_kind,
        "target_id": row.target_id,
        "trace_id": row.trace_id,
        "turn_id": row.turn_id,
        "personal_digest": row.personal_digest,
        "payload": _payload(row),
    }
    return {name: value for name, value in found.items() if value}


def _payload(row: Row) -> dict[str, Any]:
    return dict(orjson.loads(row.payload))


def _milliseconds(time: str) -> int:
    return (datetime.fromisoformat(time) - _EPOCH) // timedelta(milliseconds=1)
