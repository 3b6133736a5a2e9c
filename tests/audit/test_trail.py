"""Writing the log."""

import asyncio
import hashlib
import json

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.http import HttpResponse
from django.test import AsyncRequestFactory, RequestFactory

from accounts.access import Denied, System, require
from accounts.administration import deactivate, grant, revoke
from accounts.models import User
from audit import trail
from audit.events import EVENTS, UnknownEventError
from audit.models import Entry, PersonalDetails
from audit.trail import (
    ANONYMOUS,
    MissingActorError,
    acting_as,
    acting_as_the_signed_in,
    current_actor,
    ip_prefixes,
    record,
    record_outside,
)
from chatbot.database import db
from chatbot.telemetry import bind

BY = System("tests")
pytestmark = pytest.mark.django_db


def last() -> Entry:
    return Entry.objects.select_related("personal").latest("id")


def test_entry_says_who_did_what_to_what(account_of):
    ada, olive = account_of("administrator", "operator"), account_of("member")
    bind(request_id="r1", turn_id="t1")
    record(ada, "role.granted", olive, role="operator", reason="asked for")
    entry = last()
    assert (entry.event, entry.outcome, entry.reason) == ("role.granted", "succeeded", "asked for")
    assert (entry.actor_kind, entry.actor_id) == ("user", str(ada.pk))
    assert entry.actor_roles == "administrator,operator"
    assert (entry.target_kind, entry.target_id) == ("accounts.user", str(olive.pk))
    assert (entry.request_id, entry.trace_id, entry.turn_id) == ("r1", "", "t1")
    assert entry.payload == {"role": "operator"}
    assert abs((entry.recorded_at - entry.occurred_at).total_seconds()) < 60


def test_entry_itself_holds_no_personal_value(account_of):
    olive = account_of("member", email="olive@example.org")
    with acting_as(olive, address="203.0.113.77", user_agent="curl/8.5.0"):
        record(None, "auth.login_succeeded", olive)
    with connection.cursor() as cursor:
        cursor.execute("SELECT row_to_json(e)::text FROM audit_entry e ORDER BY id DESC LIMIT 1")
        (text,) = cursor.fetchone()
    assert "olive" not in text
    assert "203.0.113" not in text
    personal = last().personal
    assert (personal.actor_label, personal.target_label) == (olive.email, olive.email)
    assert (personal.network, personal.user_agent) == ("203.0.113.0/24", "curl")


def test_digest_commits_to_the_personal_values(account_of):
    record(account_of("member"), "auth.logged_out")
    entry = last()
    names = ("actor_label", "network", "target_label", "user_agent")
    values = {name: getattr(entry.personal, name) for name in names}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    expected = hashlib.sha256(bytes(entry.personal.salt) + text.encode()).digest()
    assert bytes(entry.personal_digest) == expected
    assert len(bytes(entry.personal.salt)) == 16


def test_equal_values_have_different_digests():
    for _ in range(2):
        record(BY, "account.created")
    first, second = Entry.objects.order_by("-id")[:2]
    assert bytes(first.personal_digest) != bytes(second.personal_digest)


def test_recording_is_one_statement(account_of, django_assert_num_queries):
    user = User.objects.with_roles().get(pk=account_of("member").pk)
    with django_assert_num_queries(1):
        record(user, "auth.login_succeeded", user)


def test_unknown_event_is_an_error():
    with pytest.raises(UnknownEventError, match="add it there"):
        record(BY, "coffee.made")


def test_unknown_outcome_is_an_error():
    with pytest.raises(ValueError, match="perhaps"):
        record(BY, "account.created", outcome="perhaps")


def test_nobody_acting_is_an_error():
    with pytest.raises(MissingActorError, match="without an actor"):
        record(None, "account.created")


def test_every_event_is_a_dotted_name_with_a_sentence():
    for name, event in EVENTS.items():
        assert name.count(".") == 1
        assert event.says.endswith(".")
        assert len(name) <= Entry._meta.get_field("event").max_length


def test_acting_nests_and_ends():
    with acting_as(System("outer")):
        with acting_as(System("inner")):
            assert current_actor() == System("inner")
        assert current_actor() == System("outer")
    assert current_actor() is None


async def test_concurrent_tasks_act_for_themselves():
    async def act(name: str) -> object:
        with acting_as(System(name)):
            await asyncio.sleep(0)
            return current_actor()

    actors = await asyncio.gather(*(act(str(n)) for n in range(20)))
    assert actors == [System(str(n)) for n in range(20)]


def test_impersonator_is_named(account_of):
    ada, olive = account_of("administrator"), account_of("member")
    with acting_as(olive, impersonator=ada):
        record(None, "conversation.created", ("conversations.conversation", "1"))
    assert last().impersonator_id == str(ada.pk)


def test_entry_shares_the_fate_of_the_change():
    before = Entry.objects.count()
    with transaction.atomic():
        record(BY, "account.created")
        transaction.set_rollback(True)
    assert Entry.objects.count() == before


def test_entry_names_its_transaction():
    record(BY, "account.created")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()::text::bigint")
        assert last().transaction_id == cursor.fetchone()[0]


def test_hostile_text_is_stored_and_marked():
    record(BY, "account.created", target_label="a\x00\ud800", note="\x00")
    assert last().personal.target_label == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
    assert last().payload["_made_safe"] is True


@pytest.mark.django_db(transaction=True)
def test_refusal_is_recorded_although_the_transaction_rolls_back(account_of):
    sam = account_of("member", email="sam@example.org")
    before = Entry.objects.count()

    @transaction.atomic
    def create_and_overstep():
        record(sam, "conversation.created")
        require(sam, "audit.view")

    with pytest.raises(Denied):
        create_and_overstep()
    entry = last()
    assert Entry.objects.count() == before + 1
    assert (entry.event, entry.outcome, entry.actor_id) == ("access.denied", "denied", str(sam.pk))
    assert entry.payload == {"permission": "audit.view", "count": 1}
    assert entry.reason == "Your roles do not allow you to read the audit log."


@pytest.mark.django_db(transaction=True)
def test_entries_beside_stay_when_everything_else_rolls_back():
    before = Entry.objects.count()
    with transaction.atomic():
        for _ in range(3):
            record_outside(BY, "access.denied", outcome="denied")
        transaction.set_rollback(True)
    assert Entry.objects.count() == before + 3


@pytest.mark.django_db(transaction=True)
def test_connection_beside_is_outside_of_the_pool_and_closed_afterwards():
    with trail._connection_beside(connection) as beside:
        beside.ensure_connection()
        assert beside.pool is None
        assert beside.connection is not connection.connection
    assert beside.connection is None


@pytest.mark.django_db(transaction=True)
async def test_asynchronous_twin_records_for_who_acts_there():
    with acting_as(System("reaper")):
        pk = await trail.arecord(None, "turn.ended", outcome="failed", tokens=3)
    entry = await db(Entry.objects.get)(pk=pk)
    assert (entry.actor_kind, entry.actor_id, entry.payload) == ("system", "reaper", {"tokens": 3})


# --- what others announce --------------------------------------------------------------------


def test_signing_in_and_out_is_recorded(client, account_of):
    olive = account_of("member", email="olive@example.org")
    client.post(
        "/account/sign-in/",
        {"login": olive.email, "password": "a sentence"},
        headers={"User-Agent": "curl/8.5.0"},
    )
    entry = last()
    assert (entry.event, entry.actor_id, entry.actor_roles) == (
        "auth.login_succeeded",
        str(olive.pk),
        "member",
    )
    assert (entry.personal.network, entry.personal.user_agent) == ("127.0.0.0/24", "curl")
    assert len(entry.request_id) == 32
    client.post("/account/sign-out/")
    assert (last().event, last().actor_id) == ("auth.logged_out", str(olive.pk))


def test_failed_sign_in_is_recorded_without_the_password(client, account_of):
    account_of("member", email="olive@example.org")
    client.post("/account/sign-in/", {"login": "Olive@example.org", "password": "hunter2 hunter2"})
    entry = last()
    assert (entry.event, entry.outcome, entry.actor_kind) == (
        "auth.login_failed",
        "failed",
        "anonymous",
    )
    assert entry.personal.target_label.lower() == "olive@example.org"
    rows = [list(Entry.objects.values()), list(PersonalDetails.objects.values())]
    assert "hunter2" not in str(rows)


def test_verbs_of_administrators_are_recorded(account_of):
    ada, olive = account_of("administrator"), account_of("member")
    grant(olive, "operator", by=ada)
    revoke(olive, "operator", by=ada)
    deactivate(olive, by=ada)
    events = list(Entry.objects.order_by("-id").values_list("event", "actor_id", "target_id")[:3])
    assert events == [
        (event, str(ada.pk), str(olive.pk))
        for event in ("account.deactivated", "role.revoked", "role.granted")
    ]


# --- the middleware --------------------------------------------------------------------------


def test_request_acts_for_whoever_is_signed_in(account_of):
    olive = account_of("member")
    request = RequestFactory().get("/", REMOTE_ADDR="203.0.113.77")
    request.user = olive

    def view(_request):
        record(None, "conversation.created")
        return HttpResponse()

    acting_as_the_signed_in(view)(request)
    assert last().actor_id == str(olive.pk)
    assert last().personal.network == "203.0.113.0/24"
    assert current_actor() is None


def test_request_does_not_look_up_who_it_is_unless_asked():
    class Request(RequestFactory().get("/").__class__):
        @property
        def user(self):
            raise AssertionError("nobody asked")

    request = Request(RequestFactory()._base_environ())
    assert acting_as_the_signed_in(lambda _: HttpResponse())(request).status_code == 200


def test_stranger_acts_as_nobody_signed_in():
    request = RequestFactory().get("/")
    request.user = AnonymousUser()

    def view(_request):
        record(None, "auth.logged_out")
        return HttpResponse()

    acting_as_the_signed_in(view)(request)
    assert (last().actor_kind, last().actor_id) == ("anonymous", "")


async def test_asynchronous_request_acts_for_itself_too():
    request = AsyncRequestFactory().get("/")
    request.user = AnonymousUser()
    seen = []

    async def view(_request):
        seen.append(current_actor().is_authenticated)
        return HttpResponse()

    await acting_as_the_signed_in(view)(request)
    assert seen == [False]
    assert current_actor() is None


# --- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "networks"),
    [
        ("24/56", ["203.0.113.0/24", "2001:db8:1:200::/56"]),
        ("32/128", ["203.0.113.77/32", "2001:db8:1:2ff::7/128"]),
        ("0/0", ["", ""]),
    ],
)
def test_setting_says_how_much_of_an_address_is_kept(settings, kept, networks):
    settings.AUDIT_IP_PREFIX = kept
    found = []
    for address in ("203.0.113.77", "2001:db8:1:2ff::7"):
        with acting_as(ANONYMOUS, address=address):
            record(None, "account.created")
        found.append(last().personal.network)
    assert found == networks


@pytest.mark.parametrize("text", ["", "24", "33/56", "24/129", "24/56/1", "-1/56", "all/none"])
def test_setting_that_is_no_pair_of_lengths_is_told_at_the_start(settings, text):
    settings.AUDIT_IP_PREFIX = text
    with pytest.raises(ImproperlyConfigured, match="24/56"):
        ip_prefixes()
