"""The door for programs: asking, following, reading, and every problem that it tells."""

import http.client
import threading
import time
import uuid
from decimal import Decimal

import pytest
from django.test import Client

from accounts.models import ApiToken
from audit.models import Entry
from benchmarks.provider_simulator import sim
from conversations.doors.problems import KINDS, Problem
from conversations.models import BudgetPlan, Conversation, Feedback, Message
from conversations.rights.deleting import undo
from conversations.turn import Refusal
from conversations.turn.faults import FAULTS
from prompts.serving import live_version

from .doors import program_of, replies, slow, streamed

SESSIONS = "/api/v1/sessions"


@pytest.fixture
def program(live, olive):
    with program_of(live.url, olive) as client:
        yield client


@pytest.fixture
def stranger(live, sam):
    with program_of(live.url, sam) as client:
        yield client


def ask(program, text="Hello?", session=None, key=""):
    body = {"user_message": text} | ({"session_id": str(session)} if session else {})
    headers = {"Idempotency-Key": key} if key else {}
    return program.post("/chat", json=body, headers=headers)


def problem(answer, code: str) -> dict:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    told = answer.json()
    assert told["type"] == f"/problems/{code}/"
    assert answer.status_code == told["status"] == KINDS[code].status
    return told


# --- asking ----------------------------------------------------------------------------------


def test_reply_comes_with_everything_about_it(program, olive):
    answer = ask(program)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    (reply,) = replies()
    assert told["reply"] == reply.content == "A simulated reply."
    assert told["message_id"] == str(reply.pk)
    assert told["session_id"] == str(reply.conversation_id)
    assert told["state"] == "completed"
    assert told["finish_reason"] == "stop"
    assert told["model"] == reply.model
    assert told["prompt"] == {
        "slug": "general-assistant",
        "version": 1,
        "content_hash": live_version().content_hash,
        "release": None,
        "arm": "production",
        "fallback": False,
    }
    assert told["usage"]["tokens_out"] == reply.tokens_out > 0
    assert reply.conversation.owner == olive


def test_session_goes_on(program):
    session = ask(program).json()["session_id"]
    assert ask(program, "And then?", session).json()["session_id"] == session
    items = program.get(f"{SESSIONS}/{session}/messages").json()["items"]
    assert [item["content"] for item in items] == [
        "Hello?",
        "A simulated reply.",
        "And then?",
        "A simulated reply.",
    ]
    assert [item["parent_id"] for item in items[1:]] == [item["id"] for item in items[:-1]]


def test_stream_tells_the_text_as_it_arrives(program):
    text = "Hello?\n" + sim(text="one two three", tokens_per_second=20, chunk_characters=4)
    with streamed(program, "/chat", {"user_message": text}) as events:
        told = list(events)
    names = [name for name, _ in told]
    assert names[0] == "turn.started"
    assert names[-1] == "turn.ended"
    deltas = [data["text"] for name, data in told if name == "text.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == told[-1][1]["reply"] == "one two three"
    assert told[0][1]["message_id"] == told[-1][1]["message_id"]


def test_stream_tells_thinking_apart(program):
    text = "Hello?\n" + sim(reasoning=3, tokens=2)
    with streamed(program, "/chat", {"user_message": text}) as events:
        names = {name for name, _ in events}
    assert names == {"turn.started", "thinking.delta", "text.delta", "turn.ended"}


def test_reply_goes_on_when_its_reader_leaves(program):
    text = slow(30, per_second=60)
    with streamed(program, "/chat", {"user_message": text}) as events:
        _, begun = next(events)
    path = f"{SESSIONS}/{begun['session_id']}/messages/{begun['message_id']}"
    told = _until(lambda: program.get(path).json(), lambda told: told["state"] != "streaming")
    assert told["state"] == "completed"
    assert told["content"].count("word") == 30


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
def test_no_database_connection_is_held_while_replies_are_written(program, settings, accept):
    count = settings.DATABASE_POOL_SIZE + 2
    body = {"user_message": slow(100, per_second=40)}

    def follow() -> None:
        assert program.post("/chat", json=body, headers={"Accept": accept}).status_code == 200

    threads = [threading.Thread(target=follow) for _ in range(count)]
    for thread in threads:
        thread.start()
    _until(lambda: [reply.state for reply in replies()], lambda seen: seen == ["streaming"] * count)
    assert program.get(SESSIONS).status_code == 200
    assert {reply.state for reply in replies()} == {"streaming"}
    for thread in threads:
        thread.join()


def _until(look, holds, seconds=20):
    give_up = time.monotonic() + seconds
    while not holds(seen := look()):
        assert time.monotonic() < give_up, seen
        time.sleep(0.05)
    return seen


def test_stop_keeps_the_text_and_ends_the_waiting_request(program):
    text = slow(2000, per_second=50)
    with streamed(program, "/chat", {"user_message": text}) as events:
        _, begun = next(events)
        next(events)
        answer = program.post(f"{SESSIONS}/{begun['session_id']}/stop")
        assert answer.status_code == 202
        assert answer.json() == {"message_id": begun["message_id"]}
        ended = [data for name, data in events if name == "turn.ended"]
    assert ended[0]["state"] == "stopped"
    assert ended[0]["reply"]
    again = program.post(f"{SESSIONS}/{begun['session_id']}/stop")
    assert again.json() == {"message_id": None}


# --- idempotency -----------------------------------------------------------------------------


def test_key_makes_a_retry_find_its_turn(program):
    first, second = (ask(program, key="k-1").json() for _ in range(2))
    assert first == second
    assert Message.objects.count() == 2


def test_key_finds_a_reply_that_is_still_written(program):
    text = slow(40, per_second=80)
    told = []
    threads = [
        threading.Thread(target=lambda: told.append(ask(program, text, key="k-2").json()))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replies()) == 1
    assert [one["reply"] for one in told] == [replies()[0].content] * 3


def test_key_of_another_message_is_refused(program):
    ask(program, "Hello?", key="k-3")
    problem(ask(program, "Something else?", key="k-3"), "key_reused")


def test_key_finds_a_turn_whose_text_cannot_be_read_any_more(program):
    told = ask(program, key="k-5").json()
    Message.objects.update(content_sealed=b"\x02damaged")
    again = ask(program, key="k-5")
    assert again.status_code == 200, again.text
    assert again.json() == {**told, "reply": ""}


def test_same_key_of_another_account_is_another_session(program, stranger):
    mine, theirs = (ask(one, key="k-4").json()["session_id"] for one in (program, stranger))
    assert mine != theirs


@pytest.mark.parametrize("key", ["with space", "k" * 65, "ü"])
def test_unusable_key_is_refused(program, key):
    headers = {"Idempotency-Key": key.encode()}
    answer = program.post("/chat", json={"user_message": "Hello?"}, headers=headers)
    assert problem(answer, "invalid")["errors"][0]["at"] == "header.Idempotency-Key"


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer x", "Basic eDp5", "Bearer parley_" + "0" * 72]
)
def test_without_a_valid_token_there_is_no_way_in(live, program, authorization):
    headers = {"Authorization": authorization or ""}
    answer = program.post("/chat", json={"user_message": "Hello?"}, headers=headers)
    problem(answer, "unauthorised")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.django_db
def test_session_cookie_opens_nothing(olive):
    client = Client()
    client.force_login(olive)
    for path in (SESSIONS, "/v1/models"):
        assert client.get(path).status_code == 401


def test_scopes_open_what_they_say(live, olive):
    with (
        program_of(live.url, olive, "read") as reader,
        program_of(live.url, olive, "chat") as asker,
    ):
        assert problem(ask(reader), "forbidden_scope")["scope"] == "chat"
        assert problem(asker.get(SESSIONS), "forbidden_scope")["scope"] == "read"
        assert reader.get(SESSIONS).status_code == 200


def test_account_that_may_not_chat_any_more_is_refused_and_recorded(live, program, olive):
    olive.grants.all().delete()
    problem(ask(program), "forbidden")
    assert Entry.objects.filter(event="access.denied").exists()


def test_foreign_and_unknown_sessions_are_not_there(program, stranger):
    told = ask(program).json()
    session, message = told["session_id"], told["message_id"]
    problem(ask(stranger, session=session), "not_found")
    problem(ask(program, session=uuid.uuid4()), "not_found")
    for path in ("", "/messages", f"/messages/{message}"):
        problem(stranger.get(f"{SESSIONS}/{session}{path}"), "not_found")
    problem(stranger.post(f"{SESSIONS}/{session}/stop"), "not_found")
    feedback = f"{SESSIONS}/{session}/messages/{message}/feedback"
    problem(stranger.put(feedback, json={"rating": "up"}), "not_found")
    assert stranger.get(SESSIONS).json()["items"] == []
    assert Message.objects.count() == 2


@pytest.mark.parametrize(
    ("lifecycle", "code"),
    [("archived", "archived"), ("deleted", "not_found"), ("purged", "not_found")],
)
def test_session_that_was_put_away_takes_no_message(program, lifecycle, code):
    session = ask(program).json()["session_id"]
    Conversation.objects.update(lifecycle=lifecycle)
    problem(ask(program, session=session), code)
    assert Message.objects.count() == 2


def test_second_message_waits_for_the_open_reply(program):
    text = slow(500, per_second=50)
    with streamed(program, "/chat", {"user_message": text}) as events:
        _, begun = next(events)
        answer = ask(program, "And?", begun["session_id"])
        problem(answer, "reply_open")
        assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid"),
        (b"{", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b'{"user_message": "\\ud800"}', "malformed"),
        (b"[" * 5000, "malformed"),
        (b"[]", "invalid"),
        (b'"text"', "invalid"),
        (b'{"user_message": 1}', "invalid"),
        (b'{"user_message": null}', "invalid"),
        (b'{"user_message": "x", "surprise": 1}', "invalid"),
        (b'{"user_message": "x", "session_id": "7"}', "invalid"),
        (b'{"user_message": " \\u0000\\n"}', "empty"),
        (b'{"user_message": "%b"}' % (b"x" * 70_000), "too_long"),
    ],
)
def test_bad_body_is_a_stable_problem(program, body, code):
    answer = program.post("/chat", content=body, headers={"Content-Type": "application/json"})
    problem(answer, code)
    assert not Message.objects.exists()


def test_problem_repeats_nothing_of_what_was_said(program):
    answer = program.post("/chat", json={"user_message": ["a secret"], "more secrets": 1})
    assert "a secret" not in answer.text


@pytest.mark.parametrize(
    ("control", "code"),
    [
        ({"status": 500}, "provider_failing"),
        ({"status": 429}, "provider_busy"),
        ({"status": 401}, "provider_unauthorised"),
        ({"status": 400}, "provider_rejected"),
        ({"html": True}, "provider_garbled"),
        ({"tokens": 10, "reset_after": 5}, "provider_cut"),
    ],
)
def test_provider_fault_is_a_problem_that_names_the_stored_reply(program, control, code):
    told = problem(ask(program, "Hello?\n" + sim(**control)), code)
    (reply,) = replies()
    assert told["message_id"] == str(reply.pk)
    assert told["session_id"] == str(reply.conversation_id)
    assert told["reply"] == reply.content
    assert ask(program, "Again?", told["session_id"]).status_code == 200


def test_provider_fault_in_a_stream_ends_it_with_a_problem(program):
    text = "Hello?\n" + sim(tokens=10, reset_after=5)
    with streamed(program, "/chat", {"user_message": text}) as events:
        *_, (name, ended) = events
    assert name == "turn.ended"
    assert ended["state"] == "failed"
    assert ended["problem"]["type"] == "/problems/provider_cut/"


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/", f"{SESSIONS}/7", "/chat/"])
def test_unknown_address_is_a_problem(program, path):
    assert program.get(path, follow_redirects=False).status_code == 404


def test_unknown_method_is_a_problem_with_those_that_are_known(program):
    answer = program.get("/chat")
    problem(answer, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_large_body_is_refused_before_it_is_sent(live):
    connection = http.client.HTTPConnection(live.url.removeprefix("http://"), timeout=10)
    connection.putrequest("POST", "/chat")
    connection.putheader("Content-Length", str(10 * 1024 * 1024))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert b"/problems/too_long/" in answer.read()
    connection.close()


def test_large_body_that_is_sent_all_the_same_is_answered(program):
    problem(program.post("/chat", content=b"x" * 10 * 1024 * 1024), "too_long")


def test_large_body_without_a_length_is_refused_too(program):
    def chunks():
        yield b'{"user_message": "'
        for _ in range(40):
            yield b"x" * 100_000
        yield b'"}'

    problem(program.post("/chat", content=chunks()), "too_long")


# --- reading ---------------------------------------------------------------------------------


def test_sessions_come_page_by_page(program):
    asked = [ask(program).json()["session_id"] for _ in range(3)]
    first = program.get(SESSIONS, params={"limit": 2}).json()
    rest = program.get(SESSIONS, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == asked[::-1]
    assert rest["next_cursor"] is None


def test_messages_come_page_by_page(program):
    session = ask(program).json()["session_id"]
    ask(program, "And then?", session)
    path, found, page = f"{SESSIONS}/{session}/messages", [], {"next_cursor": ""}
    while page["next_cursor"] is not None:
        after = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
        page = program.get(path, params={"limit": 3, **after}).json()
        found += page["items"]
    assert [item["role"] for item in found] == ["user", "assistant"] * 2


@pytest.mark.parametrize("cursor", ["x", "é", "MjAyNg", "0" * 201])
def test_foreign_cursor_is_refused(program, cursor):
    told = problem(program.get(SESSIONS, params={"cursor": cursor}), "invalid")
    assert told["errors"][0]["at"] == "query.cursor"


def test_feedback_is_kept_sealed_replaced_and_taken_back(program):
    told = ask(program).json()
    path = f"{SESSIONS}/{told['session_id']}/messages/{told['message_id']}"
    for rating, comment in (("up", ""), ("down", "Not what I meant.")):
        given = {"rating": rating, "reasons": ["other"], "comment": comment}
        assert program.put(f"{path}/feedback", json=given).json() == given
        assert program.get(path).json()["feedback"] == given
    (kept,) = Feedback.objects.all()
    assert b"meant" not in bytes(kept.comment_sealed)
    assert program.delete(f"{path}/feedback").status_code == 204
    assert program.get(path).json()["feedback"] is None
    recorded = Entry.objects.filter(event__startswith="feedback.")
    assert [entry.event for entry in recorded.order_by("pk")] == [
        "feedback.given",
        "feedback.given",
        "feedback.withdrawn",
    ]
    assert "meant" not in str(list(recorded.values()))


@pytest.mark.parametrize("reasons", [["correct"], ["wrong", "slow"], ["WRONG"], [""]])
def test_reasons_that_do_not_fit_the_thumb_are_refused(program, reasons):
    told = ask(program).json()
    path = f"{SESSIONS}/{told['session_id']}/messages/{told['message_id']}/feedback"
    refused = problem(program.put(path, json={"rating": "down", "reasons": reasons}), "invalid")
    (error,) = refused["errors"]
    assert error["at"] == "body.reasons"
    assert error["message"].startswith("The reasons of a thumb down are: wrong, not_helpful,")
    assert not Feedback.objects.exists()


def test_question_can_not_be_rated(program):
    session = ask(program).json()["session_id"]
    question = Message.objects.get(role="user")
    path = f"{SESSIONS}/{session}/messages/{question.pk}/feedback"
    problem(program.put(path, json={"rating": "up"}), "not_found")


def test_a_deleted_session_is_gone_for_every_request_and_can_be_brought_back(program, olive):
    told = ask(program).json()
    path = f"{SESSIONS}/{told['session_id']}"
    assert program.delete(path).status_code == 204
    for answer in (
        program.get(path),
        program.get(f"{path}/messages"),
        program.delete(path),
        ask(program, session=told["session_id"]),
    ):
        problem(answer, "not_found")
    assert program.get(SESSIONS).json()["items"] == []
    assert program.get("/api/v1/usage").json()["days"] == []
    entry = Entry.objects.get(event="conversation.deleted")
    assert (entry.actor_kind, entry.target_id) == ("token", told["session_id"])
    assert undo(uuid.UUID(told["session_id"]), by=olive) == 1
    assert program.get(path).status_code == 200


def test_deleting_a_session_stops_the_reply_in_it(program):
    with streamed(program, "/chat", {"user_message": slow(400, 40)}) as events:
        next(events)
        reply = Message.objects.get(role="assistant")
        assert program.delete(f"{SESSIONS}/{reply.conversation_id}").status_code == 204
        assert [name for name, _ in events][-1] == "turn.ended"
    reply.refresh_from_db()
    assert reply.state == "stopped"


def test_nobody_deletes_a_session_of_somebody_else(program, stranger):
    session = ask(program).json()["session_id"]
    problem(stranger.delete(f"{SESSIONS}/{session}"), "not_found")
    assert program.get(f"{SESSIONS}/{session}").status_code == 200


def test_usage_sums_tokens_and_cost_of_the_caller_by_day(program, stranger):
    for _ in range(2):
        ask(program)
    Message.objects.filter(role="assistant").update(
        tokens_in=10, tokens_out=5, tokens_cached=2, cost_usd=Decimal("0.00000125")
    )
    ask(stranger)
    (day,) = program.get("/api/v1/usage").json()["days"]
    assert day["replies"] == 2
    assert (day["tokens_in"], day["tokens_cached"], day["tokens_out"]) == (20, 4, 10)
    assert Decimal(day["cost_usd"]) == Decimal("0.0000025")


def test_turn_names_its_token_in_the_log(program):
    ask(program)
    entry = Entry.objects.get(event="turn.started")
    token = ApiToken.objects.get()
    assert (entry.actor_kind, entry.actor_id) == ("token", str(token.user_id))
    assert (entry.token_id, entry.actor_roles) == (str(token.pk), "member")


# --- problems --------------------------------------------------------------------------------


def test_every_kind_has_a_page(client, db):
    listed = client.get("/problems/").content.decode()
    for kind in KINDS.values():
        assert f'href="{kind.path}"' in listed
        page = client.get(kind.path)
        assert page.status_code == 200
        assert kind.code in page.content.decode()
    assert client.get("/problems/nothing/").status_code == 404


def test_every_fault_of_a_turn_has_a_kind():
    for fault in FAULTS.keys() - {"content_filter", "policy"}:
        kind = Problem.of_reply(Message(fault=fault)).kind
        assert kind.status >= 500
        assert (kind.code == "internal") == (fault == "internal")


def test_refusal_keeps_its_code_and_time_to_wait():
    told = Problem.of_refusal(Refusal("too_many", "Slowly.", "Wait.", retry_after=7.2))
    assert told.kind.status == 429
    assert told.headers()["Retry-After"] == "8"
    assert Problem.of_refusal(Refusal("new_code", "No.", "So.")).kind.code == "refused"


def test_limits_are_told_with_every_answer_and_end_in_a_problem(program, settings):
    settings.RATE_LIMITS = "token=1/minute"
    first, second = ask(program), ask(program, "Again?")
    assert first.status_code == 200
    assert first.headers["RateLimit-Policy"] == '"token-minute";q=1;w=60'
    problem(second, "too_many")
    assert 1 <= int(second.headers["Retry-After"]) <= 60
    assert "RateLimit" in second.headers


def test_rules_and_budgets_end_in_problems_of_their_own(program, settings):
    settings.PII_MODE = "block"
    problem(ask(program, "Write to olive@parley.example"), "personal_data")
    BudgetPlan.objects.update_or_create(role=None, defaults={"session_usd": Decimal("0.00001")})
    problem(ask(program), "budget_spent")


def test_reply_that_a_rule_ended_says_why_in_the_words_of_the_rule(program, rule):
    rule(direction="output", action="block", words="tulip", message="Ask the board.")
    told = ask(program, "Hello?\n" + sim(text="Plant a tulip.")).json()
    assert (told["state"], told["fault"], told["reply"]) == ("refused", "policy", "Plant a ")
    assert "Ask the board." in told["refusal"]
    (reply,) = replies()
    again = program.get(f"{SESSIONS}/{told['session_id']}/messages/{reply.pk}").json()
    assert again["refusal"] == told["refusal"]
    assert ask(program).json()["refusal"] is None
