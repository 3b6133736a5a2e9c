"""What a turn leaves in the log: its id, who asked, digests; and never what was said."""

import asyncio
import hashlib
import hmac
import uuid
from collections.abc import Iterator

import pytest
from django.conf import settings as configured
from django.db import connection
from django.test import AsyncClient
from django.utils import timezone

from accounts.tokens import make_token
from audit.acting import acting_as, current_actor
from audit.events import EVENTS
from audit.models import Entry, ModelChange
from chatbot import telemetry
from chatbot.database import db
from conversations.encryption import SealKey, content_digest
from conversations.keyring import KeyDay
from conversations.models import BudgetPlan, Conversation, Message, PolicyRule, Runner
from conversations.reply.runner import ReplyRunner
from conversations.turn import close_abandoned, continue_turn, request_stop
from conversations.turn.policy import kept_policy
from conversations.turn.rules import save_rule

from .doors import program_of, slow

SECRET = "tulip-7391"


def entries(**wanted: object) -> list[Entry]:
    return list(Entry.objects.filter(**wanted).order_by("pk"))


@pytest.fixture
def daffodils_are_refused(ada) -> Iterator[PolicyRule]:
    terms = {"kind": "words", "direction": "input", "action": "block", "words": "daffodil"}
    rule = PolicyRule(name="Plans", **terms)
    save_rule(rule, by=ada)
    kept_policy.forget()
    yield rule
    kept_policy.forget()


# --- ids -------------------------------------------------------------------------------------


def test_all_entries_of_a_turn_carry_its_id(finished):
    reply = finished().reply
    events = [entry.event for entry in entries(turn_id=str(reply.pk))]
    assert events == ["turn.started", "turn.ended"]


def test_stop_and_continuation_belong_to_the_turn(begin, olive, runner_row):
    turn = begin()
    request_stop(turn.conversation.pk, by=olive)
    Message.objects.filter(pk=turn.reply.pk).update(state="stopped")
    continue_turn(turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk)
    events = [entry.event for entry in entries(turn_id=str(turn.reply.pk))]
    assert events == ["turn.started", "turn.stop_requested", "turn.continued"]


def test_reply_that_another_process_closes_keeps_its_id(begin):
    turn = begin()
    Runner.objects.update(beat_at=timezone.now() - timezone.timedelta(minutes=1))
    close_abandoned()
    (entry,) = entries(event="turn.ended")
    assert (entry.turn_id, entry.reason) == (str(turn.reply.pk), "process_died")
    assert entry.payload["reply_digest"] == content_digest("", turn.reply.seal_key())


def test_hits_of_a_rule_belong_to_the_turn(begin, ada):
    save_rule(
        PolicyRule(name="Plans", kind="words", direction="input", action="flag", words="tulip"),
        by=ada,
    )
    kept_policy.forget()
    turn = begin("About the tulip")
    kept_policy.forget()
    assert entries(event="policy.hit")[0].turn_id == str(turn.reply.pk)


def test_detached_reply_carries_the_request_that_asked(live, olive):
    with program_of(live.url, olive) as program:
        answer = program.post("/chat", json={"user_message": "Hello?"})
    reply = answer.json()["message_id"]
    started, ended = entries(turn_id=reply)
    assert (started.event, ended.event) == ("turn.started", "turn.ended")
    assert started.request_id == ended.request_id == answer.headers["X-Request-ID"]
    assert (started.actor_kind, ended.actor_kind) == ("token", "system")
    assert ended.personal.network == ""


async def test_work_beside_replies_is_not_of_the_request_that_came_first(olive):
    seen = []

    async def look() -> None:
        seen.append((current_actor(), telemetry.current_ids()))

    runner = ReplyRunner()
    with telemetry.only_ids({"request_id": "r1"}), acting_as(olive):
        runner._keep(look())
    await asyncio.gather(*runner._background)
    assert seen == [(None, {})]


# --- digests ---------------------------------------------------------------------------------


def test_digests_are_of_the_texts_and_of_their_conversation(finished, begin):
    first, second = finished(SECRET, reply=SECRET), begin(SECRET)
    digests = [entry.payload["question_digest"] for entry in entries(event="turn.started")]
    assert digests == [content_digest(SECRET, t.question.seal_key()) for t in (first, second)]
    assert len(set(digests)) == 2
    (ended,) = entries(event="turn.ended")
    assert ended.payload["reply_digest"] == digests[0]


@pytest.mark.django_db
def test_digest_says_nothing_without_the_key_and_dies_with_it(settings, tmp_path):
    conversation_id = uuid.uuid4()
    key = SealKey(conversation_id, KeyDay(1, timezone.now().date()))
    digest = content_digest(SECRET, key)
    assert len(bytes.fromhex(digest)) == 32
    assert digest != hashlib.sha256(SECRET.encode()).hexdigest()
    assert digest != hmac.digest(conversation_id.bytes, SECRET.encode(), "sha256").hex()
    settings.KEYRING = str(tmp_path)
    assert content_digest(SECRET, key) != digest


@pytest.mark.django_db
def test_digests_ask_nothing_of_the_database(django_assert_num_queries):
    today = KeyDay(1, timezone.now().date())
    content_digest("the first of the day", SealKey(uuid.uuid4(), today))  # it makes the day's key
    with django_assert_num_queries(0):
        content_digest("x" * 400_000, SealKey(uuid.uuid4(), today))


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
async def test_refused_questions_are_counted_and_written_once(olive, daffodils_are_refused):
    client = AsyncClient()
    await db(client.force_login)(olive)
    conversation_id = uuid.uuid4()
    for text in ("a daffodil", "a daffodil", ""):
        await client.post(f"/c/{conversation_id}/messages", {"text": text, "key": "k"})
    refused = await db(entries)(event="turn.refused")
    assert [entry.reason for entry in refused] == ["policy", "empty"]
    assert refused[0].outcome == "denied"
    assert (refused[0].actor_id, refused[0].payload) == (str(olive.pk), {"count": 1})
    assert refused[0].target_id == str(conversation_id)
    assert not await db(Conversation.objects.exists)()


@pytest.mark.django_db(transaction=True)
def test_refusal_by_a_budget_or_limit_names_the_token(live, olive, settings):
    BudgetPlan.objects.update_or_create(role=None, defaults={"session_usd": 0})
    with program_of(live.url, olive) as program:
        assert program.post("/chat", json={"user_message": "Hello?"}).status_code == 429
        settings.RATE_LIMITS = "user=1/hour"
        for _ in range(3):
            assert program.post("/chat", json={"user_message": "Hello?"}).status_code == 429
    assert {entry.reason for entry in entries(event="turn.refused")} == {
        "budget_spent",
        "too_many",
    }
    assert {entry.actor_kind for entry in entries(event="turn.refused")} == {"token"}


# --- a day in the house ----------------------------------------------------------------------


def table_of(name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT row_to_json(t)::text FROM {name} AS t")
        return "\n".join(row for (row,) in cursor.fetchall())


@pytest.mark.django_db(transaction=True)
def test_no_entry_holds_a_personal_value_or_what_was_said(
    live, olive, ada_client, ravi_client, daffodils_are_refused, olive_client
):
    with program_of(live.url, olive) as program:
        asked = program.post("/chat", json={"user_message": f"{SECRET}?"}).json()
        session, reply = asked["session_id"], asked["message_id"]
        path = f"/api/v1/sessions/{session}/messages/{reply}/feedback"
        program.put(path, json={"rating": "up", "comment": SECRET})
        program.post("/chat", json={"user_message": f"{SECRET} daffodil", "session_id": session})
        program.get("/api/v1/sessions")
        program.get(f"/api/v1/sessions/{uuid.uuid4()}")
        program.post("/chat", json={"user_message": slow(3, 0) + SECRET, "session_id": session})
    conversation = Conversation.objects.get()
    conversation.title = SECRET
    conversation.save()
    olive_client.get(conversation.get_absolute_url())
    ravi_client.get(conversation.get_absolute_url())
    ravi_client.get(f"/admin/conversations/conversation/{session}/change/")
    ravi_client.get("/admin/audit/entry/", {"q": olive.email})
    ada_client.get("/admin/accounts/user/", {"email__startswith": "olive", "q": "olive"})
    form = {"email": "olivia@parley.example", "name": "Olivia", "roles": ["member"]}
    ada_client.post(f"/admin/accounts/user/{olive.pk}/change/", form | {"is_active": "on"})
    wrong = {"login": olive.email, "password": f"{SECRET} {SECRET}"}
    olive_client.post("/account/sign-in/", wrong)
    make_token(olive, name=SECRET, scopes=["read"], lasts=None, by=olive)

    written = table_of("audit_entry") + table_of("audit_modelchange")
    for planted in (SECRET, "simulated reply", "olive", "olivia", "127.0.0.1", "daffodil"):
        assert planted not in written.lower(), planted
    recorded = entries()
    assert {"turn.started", "turn.refused", "turn.ended", "feedback.given", "audit.viewed"} <= {
        entry.event for entry in recorded
    }
    for entry in recorded:
        assert set(entry.payload) <= set(EVENTS[entry.event].tells), entry.event
    assert ModelChange.objects.exists()
    assert configured.CONTENT_KEYS not in written
