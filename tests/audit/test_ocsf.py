"""Entries become OCSF events that hold to the schema, version 1.6.0."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.events import EVENTS
from audit.leaves import Row
from audit.ocsf import ocsf_event

# Of the schema: for each class its category, the activities that it knows, and what it requires
# beside what every event does. Activities 0 and 99 are known everywhere.
CLASSES = {
    3001: (3, range(1, 13), {"user"}),
    3002: (3, range(1, 8), {"user"}),
    3004: (3, range(1, 14), {"entity"}),
    6003: (6, range(1, 5), {"actor", "api", "src_endpoint"}),
}
REQUIRED = {
    *("activity_id", "category_uid", "class_uid", "type_uid"),
    *("metadata", "severity_id", "time"),
}


def row(event: str, **given: Any) -> Row:
    values = {
        "entry": 7,
        "transaction": 1,
        "event": event,
        "occurred_at": "2026-11-22T14:31:07.204518Z",
        "recorded_at": "2026-11-22T14:31:07.205001Z",
        "actor_kind": "user",
        "actor_id": "3",
        "actor_roles": "member,operator",
        "impersonator_id": "",
        "token_id": "",
        "target_kind": "",
        "target_id": "",
        "outcome": "succeeded",
        "reason": "",
        "request_id": "r1",
        "trace_id": "",
        "turn_id": "",
        "payload": "{}",
        "personal_digest": "ab" * 32,
    }
    return Row(**{**values, **given})


def event(name: str, **given: Any) -> dict[str, Any]:
    made = ocsf_event(41, "chat.example/log", row(name, **given))
    require_valid(made)
    return made


def require_valid(made: dict[str, Any]) -> None:
    category, activities, required = CLASSES[made["class_uid"]]
    assert made.keys() >= REQUIRED | required
    assert made["category_uid"] == category
    assert made["activity_id"] in {0, 99, *activities}
    assert made["type_uid"] == made["class_uid"] * 100 + made["activity_id"]
    assert made["metadata"].keys() >= {"product", "version"}
    assert made["metadata"]["version"] == "1.6.0"
    for user in (made["actor"]["user"], made.get("user", {"uid": ""})):
        assert user.keys() & {"uid", "name"}
    if made["class_uid"] == 3002:
        assert "service" in made
    assert isinstance(made["time"], int)


ACCOUNT = {"target_kind": "accounts.user", "target_id": "9"}
CONVERSATION = {"target_kind": "conversations.conversation", "target_id": "c1"}


@pytest.mark.parametrize(
    ("name", "given", "type_uid"),
    [
        ("auth.login_succeeded", ACCOUNT, 300201),
        ("auth.logged_out", ACCOUNT, 300202),
        ("auth.password_changed", ACCOUNT, 300103),
        ("auth.password_reset_requested", ACCOUNT, 300104),
        ("account.created", ACCOUNT, 300101),
        ("account.reactivated", ACCOUNT, 300102),
        ("account.deactivated", ACCOUNT, 300105),
        ("role.granted", ACCOUNT, 300107),
        ("role.revoked", ACCOUNT, 300108),
        ("token.created", {"target_kind": "accounts.apitoken", "target_id": "2"}, 300401),
        ("token.revoked", {"target_kind": "accounts.apitoken", "target_id": "2"}, 300404),
        ("conversation.viewed", CONVERSATION, 300402),
        ("conversation.renamed", CONVERSATION, 300403),
        ("conversation.deleted", CONVERSATION, 300404),
        ("model.offered", {"target_kind": "prompts.languagemodel", "target_id": "1"}, 300401),
        ("budget.changed", {"target_kind": "conversations.plan", "target_id": "1"}, 300403),
        ("policy.rule_saved", {"target_kind": "conversations.rule", "target_id": "1"}, 300403),
        ("export.downloaded", {"target_kind": "audit.export", "target_id": "1"}, 300402),
        ("turn.ended", CONVERSATION, 600399),
        ("access.denied", CONVERSATION, 600399),
        ("policy.hit", CONVERSATION, 600399),
        ("audit.viewed", {}, 600302),
        ("log.prefix_removed", {}, 600399),
    ],
)
def test_each_group_has_its_class(name, given, type_uid):
    assert event(name, **given)["type_uid"] == type_uid


@pytest.mark.parametrize("name", [*EVENTS, "something.that_comes_later"])
@pytest.mark.parametrize("target", [{}, ACCOUNT, CONVERSATION], ids=["none", "account", "record"])
def test_every_event_with_any_target_holds_to_the_schema(name, target):
    event(name, **target)


def test_what_happened_is_told_whole():
    made = event(
        "role.granted",
        **ACCOUNT,
        payload='{"role": "operator", "why": "holiday"}',
        impersonator_id="4",
        trace_id="t1",
    )
    assert made["time"] == 1795357867204
    assert made["metadata"] == {
        "version": "1.6.0",
        "product": {"name": "Parley", "vendor_name": "Parley"},
        "log_name": "audit",
        "log_provider": "chat.example/log",
        "uid": "41",
        "sequence": 41,
        "event_code": "role.granted",
        "original_time": "2026-11-22T14:31:07.204518Z",
        "logged_time": 1795357867205,
        "correlation_uid": "r1",
    }
    assert made["actor"]["user"]["uid"] == "3"
    assert [group["name"] for group in made["actor"]["user"]["groups"]] == ["member", "operator"]
    assert made["user"]["uid"] == "9"
    assert made["policy"]["name"] == "operator"
    assert made["unmapped"]["payload"] == {"role": "operator", "why": "holiday"}
    assert made["unmapped"]["impersonator"] == "4"
    assert made["unmapped"]["trace_id"] == "t1"


def test_what_was_refused_is_a_failure_with_its_reason():
    made = event("access.denied", outcome="denied", reason="Your role does not allow this.")
    assert (made["status_id"], made["status_code"], made["severity_id"]) == (2, "denied", 2)
    assert made["status_detail"] == "Your role does not allow this."


def test_failed_login_names_nobody():
    made = event(
        "auth.login_failed", actor_kind="anonymous", actor_id="", actor_roles="", outcome="failed"
    )
    assert (made["type_uid"], made["status"]) == (300201, "Failure")
    assert made["user"] == {"name": "anonymous", "type_id": 0, "type": "Unknown"}


def test_part_of_the_product_acts_as_the_system():
    made = event("retention.purged", actor_kind="system", actor_id="retention", actor_roles="")
    assert made["actor"]["app_name"] == "retention"
    assert made["actor"]["user"]["type"] == "System"


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


@given(event_name=TEXT, target=TEXT, payload=st.dictionaries(TEXT, TEXT | st.integers(-99, 99)))
def test_whatever_an_entry_holds_becomes_one_line(event_name, target, payload):
    made = event(
        event_name, target_kind=target, target_id=target, payload=orjson.dumps(payload).decode()
    )
    assert b"\n" not in orjson.dumps(made)
    assert made["unmapped"].get("payload", {}) == payload
