"""The log in the admin: who may read it, what is found, what an entry and its proof say."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.access import System
from audit import verify as verifier
from audit.inspection_runs import SILENT
from audit.models import Checkpoint, Entry, InspectionRun, PersonalDetails, Publication, SigningKey
from audit.sealing import seal
from audit.selection import PAGE
from audit.tasks import inspect
from audit.trail import ANONYMOUS, acting_as, record, record_outside
from audit.verify import InclusionProof
from tests.audit.conftest import behind_the_triggers

pytestmark = pytest.mark.django_db
LIST = "/admin/audit/entry/"
BY = System("tests")


def ids(response) -> list[int]:
    """The entries on a page, in its order."""
    return [told.entry.pk for _, lines in response.context["days"] for told in lines]


def page_of(entry_id: int) -> str:
    return reverse("admin:audit_entry_change", args=[entry_id])


def viewed() -> Entry:
    return Entry.objects.filter(event="audit.viewed").select_related("personal").latest("id")


@pytest.fixture
def entries():
    """Write so many entries; return their ids, the newest first."""

    def write(count: int, event: str = "account.created", by=BY, **more) -> list[int]:
        return [record(by, event, ("accounts.user", str(n)), **more) for n in range(count)][::-1]

    return write


# --- who ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "status"),
    [
        ("compliance_officer", 200),
        ("external_auditor", 200),
        ("administrator", 403),
        ("operator", 403),
    ],
)
def test_every_page_of_the_log_opens_for_those_who_may_read_it(make_user, client, role, status):
    client.force_login(make_user("pat", role))
    entry = record(BY, "account.created")
    Checkpoint.objects.create(
        number=1, origin="o", size=1, root=bytes(32), note="n", key_id="k",
        cursor_transaction=0, cursor_entry=0,
    )  # fmt: skip
    asked = {
        path: client.get(path).status_code
        for path in (
            *(LIST, page_of(entry), f"{LIST}timeline/request/r/"),
            *("/admin/audit/checkpoint/", "/admin/audit/checkpoint/1/change/"),
            *("/admin/audit/checkpoint/1/note/", "/admin/audit/inspectionrun/"),
        )
    }
    assert set(asked.values()) == {status}, asked


def test_an_entry_can_not_be_added_changed_or_removed(ravi_client):
    entry = record(BY, "account.created")
    assert ravi_client.get(f"{LIST}add/").status_code == 403
    assert ravi_client.post(f"{LIST}{entry}/delete/", {"post": "yes"}).status_code == 403
    page = ravi_client.post(page_of(entry), {"reason": "x"})
    assert 'name="_save"' not in page.content.decode()
    assert Entry.objects.get(pk=entry).reason == ""


# --- the list -----------------------------------------------------------------------------------


def test_pages_lead_back_and_forth_and_stay_while_entries_arrive(ravi_client, entries):
    written = entries(2 * PAGE + 10)
    only = {"event": "account.created"}
    first = ravi_client.get(LIST, only)
    shown = [ids(first)]
    assert first.context["newer"] == ""
    second = ravi_client.get(LIST + first.context["older"])
    entries(5)
    shown.append(ids(second))
    third = ravi_client.get(LIST + second.context["older"])
    shown.append(ids(third))
    assert [pk for page in shown for pk in page][: len(written)] == written
    assert ids(ravi_client.get(LIST + third.context["newer"])) == shown[1]
    assert third.context["older"] == ""
    back = ravi_client.get(LIST + second.context["newer"])
    assert ids(back) == shown[0]
    assert ids(ravi_client.get(LIST + back.context["newer"]))[5:] == shown[0][:-5]


def test_list_asks_the_same_few_questions_however_long_it_is(ravi_client, entries, olive):
    def questions() -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            assert ravi_client.get(LIST).status_code == 200
        return [query["sql"] for query in captured]

    entries(2, by=olive)
    few = questions()
    entries(PAGE + 5, by=olive)
    many = questions()
    assert len(many) == len(few) <= 10
    assert not any("COUNT(" in sql or "OFFSET" in sql for sql in many)


@pytest.fixture
def mixed(olive, ravi, sam) -> dict[str, int]:
    """An entry of each kind, by name."""
    with acting_as(BY, address="192.0.2.7"):
        failed = record_outside(
            ANONYMOUS, "auth.login_failed", outcome="failed", target_label="o.lind@example.org"
        )
    return {
        "olive in": record(olive, "auth.login_succeeded", olive),
        "sam in": record(sam, "auth.login_succeeded", sam),
        "failed": failed,
        "granted": record(ravi, "role.granted", olive, role="operator"),
        "denied": record_outside(olive, "access.denied", ("a.thing", "7"), outcome="denied"),
        "job": record(System("purge"), "conversation.deleted", ("conversations.conversation", "c")),
    }


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"event": "role.granted"}, {"granted"}),
        ({"group": "Sign-in"}, {"olive in", "sam in", "failed"}),
        ({"outcome": "denied"}, {"denied"}),
        ({"actor_kind": "system"}, {"job"}),
        ({"actor_kind": "anonymous"}, {"failed"}),
        ({"actor": "olive@parley.example"}, {"olive in", "denied"}),
        ({"actor": "purge"}, {"job"}),
        ({"role": "compliance_officer"}, {"granted"}),
        ({"role": "member"}, {"olive in", "sam in", "denied"}),
        ({"target_kind": "a.thing"}, {"denied"}),
        ({"target_kind": "a.thing", "target": "8"}, set()),
        ({"target": "c"}, {"job"}),
        ({"actor": "olive@parley.example", "outcome": "succeeded"}, {"olive in"}),
        ({"group": "Sign-in", "role": "member"}, {"olive in", "sam in"}),
        ({"q": "Olive@Parley.example"}, {"olive in", "granted", "denied"}),
        ({"q": "olive@parley.example", "group": "Sign-in"}, {"olive in"}),
        ({"q": "o.lind@example.org"}, {"failed"}),
        ({"q": "c"}, {"job"}),
        ({"q": "nobody@example.org"}, set()),
        ({"period": "today"}, {"olive in", "sam in", "failed", "granted", "denied", "job"}),
        ({"period": "week", "event": "role.granted"}, {"granted"}),
        ({"to": "2020-01-01"}, set()),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_filters_narrow_the_list_together(ravi_client, mixed, asked, found):
    names = {pk: name for name, pk in mixed.items()}
    shown = ids(ravi_client.get(LIST, asked))
    assert {names[pk] for pk in shown if pk in names} == found
    assert shown == sorted(shown, reverse=True)


def test_search_finds_requests_turns_tokens_and_accounts_by_id(ravi_client, olive):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO audit_entry (event, occurred_at, actor_kind, actor_id, actor_roles,"
            " impersonator_id, target_kind, target_id, outcome, reason, request_id, trace_id,"
            " turn_id, token_id, payload, personal_digest) VALUES ('turn.ended', now(), 'token',"
            " %s, '', '', '', '', 'succeeded', '', 'req', '', 'turn', 'tok', '{}', %s)"
            " RETURNING id",
            [str(olive.pk), bytes(32)],
        )
        (entry,) = cursor.fetchone()
    for term in ("req", "turn", "tok", str(olive.pk)):
        assert ids(ravi_client.get(LIST, {"q": term})) == [entry]
    assert ids(ravi_client.get(LIST, {"token": "tok"})) == [entry]


def test_former_email_still_finds_the_account(ravi_client, olive):
    entry = record(olive, "auth.login_succeeded", olive)
    type(olive).objects.filter(pk=olive.pk).update(email="olive.new@parley.example")
    later = record(olive, "auth.logged_out")
    assert ids(ravi_client.get(LIST, {"q": "olive@parley.example"})) == [later, entry]


def test_days_are_of_utc_and_both_are_included(ravi_client, monkeypatch):
    def at(day: int, hour: int) -> int:
        monkeypatch.setattr(
            "audit.trail.timezone.now", lambda: datetime(2026, 3, day, hour, tzinfo=UTC)
        )
        return record(BY, "account.created")

    before, first, last, after = at(1, 23), at(2, 0), at(3, 23), at(4, 0)
    monkeypatch.undo()
    # A clock that was wrong for a moment: the order is that of the sequence.
    shown = ids(ravi_client.get(LIST, {"from": "2026-03-02", "to": "2026-03-03"}))
    assert shown == [last, first]
    assert before not in shown
    assert after not in shown


@pytest.mark.parametrize(
    "asked",
    [
        {"event": "no.event"},
        {"group": "Nothing"},
        {"outcome": "perhaps"},
        {"role": "king"},
        {"period": "century"},
        {"from": "yesterday"},
        {"from": "2026-03-03", "to": "2026-03-02"},
        {"from": "0001-01-01"},
        {"target_kind": "'; --"},
        {"actor": "nobody@example.org"},
        {"q": "x" * 300},
        {"q": "a\x00b"},
        {"below": "12x"},
        {"below": "9" * 30},
    ],
    ids=str,
)
def test_what_can_not_be_looked_up_is_said_in_a_sentence(ravi_client, asked):
    response = ravi_client.get(LIST, asked)
    assert response.status_code == 400
    assert "That can’t be looked up." in response.content.decode()
    assert ids(response) == []


def test_list_says_who_what_and_how_it_ended(ravi_client, mixed, olive):
    page = ravi_client.get(LIST).content.decode()
    for words in ("Refused", "Failed", "Done", "system job", "compliance officer", olive.email):
        assert words in page
    assert "address 192.0.2.0/24" in page
    assert "in a few seconds" in page


# --- one entry ----------------------------------------------------------------------------------


def test_entry_says_everything_it_knows(ravi_client, olive, ravi):
    with acting_as(ravi, address="198.51.100.9", user_agent="curl/8"):
        entry = record(None, "role.granted", olive, role="operator", reason="asked for by Sam")
    page = ravi_client.get(page_of(entry)).content.decode()
    occurred = Entry.objects.get(pk=entry).occurred_at
    for words in (
        f"{occurred:%H:%M:%S.%f} UTC",
        *("ravi@parley.example", "compliance officer", "198.51.100.0/24, curl"),
        *(olive.email, str(olive.pk), "asked for by Sam", "operator", "Not sealed yet"),
        reverse("admin:audit_entry_timeline", args=["account", olive.pk]),
    ):
        assert words in page, words


def test_entry_leads_only_to_what_its_reader_may_open(ravi_client, make_user, client, finished):
    turn = finished()
    page = f"/admin/conversations/conversation/{turn.conversation.pk}/change/"
    entry = Entry.objects.filter(event="turn.started").latest("id")
    assert f'href="{page}"' in ravi_client.get(page_of(entry.pk)).content.decode()
    client.force_login(make_user("piet", "external_auditor"))
    assert f'href="{page}"' not in client.get(page_of(entry.pk)).content.decode()


def test_change_is_told_before_and_after_and_texts_line_by_line(ravi_client):
    changes = {
        "name": ["Support", "Support agent"],
        "is_active": [True, False],
        "content": ["Be kind.\nBe short.", "Be kind.\nBe exact."],
    }
    entry = record(BY, "record.changed", ("a.thing", "1"), action="update", changes=changes)
    page = ravi_client.get(page_of(entry)).content.decode()
    assert "<td><del>Support</del></td><td><ins>Support agent</ins></td>" in page
    assert "<td><del>yes</del></td><td><ins>no</ins></td>" in page
    assert '<td class="out"><del>Be short.</del></td>' in page
    assert '<td class="in"><ins>Be exact.</ins></td>' in page
    assert "<td>Be kind.</td>" in page
    assert "<dt>action</dt><dd>update</dd>" in page


def test_now_and_before_are_told_as_a_change(ravi_client):
    entry = record(
        BY, "model.redefined", ("a.thing", "1"), now={"label": "B"}, before={"label": "A"}
    )
    page = ravi_client.get(page_of(entry)).content.decode()
    assert "<td><del>A</del></td><td><ins>B</ins></td>" in page


def test_erased_values_are_said_to_be_erased_and_altered_ones_are_not_believed(ravi_client, olive):
    entry = record(olive, "auth.login_succeeded", olive)
    details = PersonalDetails.objects.filter(pk=entry)
    assert "kept as they were recorded" in ravi_client.get(page_of(entry)).content.decode()
    details.update(actor_label="sam@parley.example")
    assert "changed beside the entry" in ravi_client.get(page_of(entry)).content.decode()
    details.delete()
    page = ravi_client.get(page_of(entry)).content.decode()
    assert "erased; the entry holds their salted digest" in page
    assert olive.email not in page
    assert olive.email not in ravi_client.get(LIST).content.decode()


def test_what_is_not_there_is_not_found(ravi_client):
    for path in (page_of(987654321), f"{LIST}987654321/proof/", f"{LIST}timeline/planet/x/"):
        assert ravi_client.get(path).status_code == 404


# --- proofs -------------------------------------------------------------------------------------


@pytest.fixture
def sealed_entry(folder, olive) -> int:
    for _ in range(300):
        record(BY, "account.created")
    entry = record(olive, "auth.login_succeeded", olive)
    seal()
    record(BY, "account.created")
    seal()
    return entry


def test_sealed_entry_is_verified_while_its_page_is_made(ravi_client, sealed_entry):
    Publication.objects.create(
        checkpoint=Checkpoint.objects.get(number=2), destination="file:/archive"
    )
    page = ravi_client.get(page_of(sealed_entry)).content.decode()
    assert "Sealed in checkpoint 1 · verified" in page
    assert f"key {SigningKey.objects.get().key_id}" in page
    assert "published to 1 place" in page
    assert "file:/archive" in page
    listed = ravi_client.get(LIST, {"event": "auth.login_succeeded"}).content.decode()
    assert "in a few seconds" not in listed


def test_downloaded_proof_proves_the_entry_and_is_recorded(ravi_client, sealed_entry, tmp_path):
    response = ravi_client.get(f"{LIST}{sealed_entry}/proof/")
    assert f"entry-{sealed_entry}.tlog-proof" in response["Content-Disposition"]
    proof = tmp_path / "entry.tlog-proof"
    proof.write_bytes(response.content)
    assert f'"entry":{sealed_entry},'.encode() in InclusionProof.parse(proof.read_text()).extra
    verify = [sys.executable, verifier.__file__, proof, "--key", SigningKey.objects.get().vkey]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0
    noted = Entry.objects.latest("id")
    assert (noted.event, noted.target_id) == ("audit.proof_downloaded", str(sealed_entry))


@pytest.mark.parametrize(
    ("tampering", "said"),
    [
        (
            "UPDATE audit_entry SET reason = 'never mind' WHERE id = {}",
            "not the one that was sealed",
        ),
        ("UPDATE audit_leaf SET hash = sha256('x') WHERE entry_id = {} - 1", "does not lead to"),
        ("DELETE FROM audit_leaf WHERE entry_id = {} - 1", "are missing"),
        ("UPDATE audit_checkpoint SET note = replace(note, E'\\n301\\n', E'\\n302\\n')", "wrong"),
        ("DELETE FROM audit_signingkey", "No key that you gave has signed this"),
    ],
    ids=["the entry", "a leaf beside it", "a leaf gone", "the checkpoint", "the key"],
)
def test_what_does_not_hold_is_said_and_no_proof_is_handed_out(
    ravi_client, sealed_entry, tampering, said
):
    behind_the_triggers(tampering.format(sealed_entry))
    page = ravi_client.get(page_of(sealed_entry)).content.decode()
    assert "This entry’s proof does not hold." in page
    assert said in page
    assert "verified</h2>" not in page
    assert ravi_client.get(f"{LIST}{sealed_entry}/proof/").status_code == 404


def test_clock_that_was_set_back_is_told(ravi_client, sealed_entry):
    behind_the_triggers("UPDATE audit_leaf SET clock_went_back = true")
    assert "clock was set back" in ravi_client.get(LIST).content.decode()
    assert "clock was set back" in ravi_client.get(page_of(sealed_entry)).content.decode()


# --- timelines ----------------------------------------------------------------------------------


def test_timeline_tells_oldest_first_what_an_account_did_and_what_was_done_to_it(
    ravi_client, mixed, olive
):
    response = ravi_client.get(reverse("admin:audit_entry_timeline", args=["account", olive.pk]))
    assert ids(response) == [mixed["olive in"], mixed["granted"], mixed["denied"]]
    page = response.content.decode()
    assert f"Timeline of account {olive.email}" in page
    assert f"{olive.email} (member) signed in." in page
    sentence = "An account was given a role, by ravi@parley.example (compliance officer), on"
    assert sentence in page


def test_timeline_goes_on_page_by_page(ravi_client, entries):
    written = [
        record(BY, "conversation.renamed", ("conversations.conversation", "c"))
        for _ in range(PAGE + 3)
    ]
    path = reverse("admin:audit_entry_timeline", args=["conversation", "c"])
    first = ravi_client.get(path)
    assert ids(first) == written[:PAGE]
    assert first.context["earlier"] == ""
    second = ravi_client.get(path + first.context["later"])
    assert ids(second) == written[PAGE:]
    assert second.context["later"] == ""
    assert ids(ravi_client.get(path + second.context["earlier"])) == written[:PAGE]


def test_conversation_and_account_lead_to_their_timelines(make_user, client, finished, olive):
    turn = finished()
    client.force_login(make_user("pat", "compliance_officer", "administrator"))
    for kind, page in (
        ("conversation", f"/admin/conversations/conversation/{turn.conversation.pk}/change/"),
        ("account", f"/admin/accounts/user/{olive.pk}/change/"),
    ):
        pk = page.split("/")[-3]
        assert f"/admin/audit/entry/timeline/{kind}/{pk}/" in client.get(page).content.decode()


def test_who_may_not_read_the_log_is_not_led_there(ada_client, olive):
    page = ada_client.get(f"/admin/accounts/user/{olive.pk}/change/").content.decode()
    assert "timeline" not in page


# --- reading is recorded ------------------------------------------------------------------------


def test_reading_is_recorded_once_a_page_without_personal_values(ravi_client, ravi, olive):
    entry = record(olive, "auth.login_succeeded", olive)
    asked = {"outcome": "succeeded", "actor": olive.email, "q": "Olive@parley.example"}
    ravi_client.get(LIST, asked)
    noted = viewed()
    assert noted.actor_id == str(ravi.pk)
    assert noted.payload == {
        "page": "list",
        "filter": {"outcome": "succeeded", "actor": str(olive.pk)},
        "searched": True,
    }
    assert noted.personal.target_label == "Olive@parley.example"
    ravi_client.get(page_of(entry))
    assert (viewed().payload["page"], viewed().target_id) == ("record", str(entry))
    ravi_client.get(reverse("admin:audit_entry_timeline", args=["account", olive.pk]))
    assert viewed().payload["filter"] == {"about": str(olive.pk)}
    assert Entry.objects.filter(event="audit.viewed").count() == 3


# --- checkpoints --------------------------------------------------------------------------------


def test_checkpoints_are_listed_shown_and_downloaded(ravi_client, sealed_entry):
    Publication.objects.create(
        checkpoint=Checkpoint.objects.get(number=1), destination="witness", answer="— w abc="
    )
    listed = ravi_client.get("/admin/audit/checkpoint/").content.decode()
    assert listed.index("/checkpoint/2/") < listed.index("/checkpoint/1/")
    note = Checkpoint.objects.get(number=1).note
    shown = ravi_client.get("/admin/audit/checkpoint/1/change/").content.decode()
    assert note.splitlines()[0] in shown
    assert "— w abc=" in shown
    assert ravi_client.get("/admin/audit/checkpoint/1/note/").content.decode() == note


# --- checks of the log --------------------------------------------------------------------------


@pytest.fixture
def queued(monkeypatch) -> list[int]:
    """The runs that a worker would take up."""
    runs: list[int] = []
    monkeypatch.setattr(inspect, "delay", runs.append)
    return runs


ASK = "/admin/audit/inspectionrun/ask/"
CHECKS = "/admin/audit/inspectionrun/"


def test_log_is_verified_by_a_button_and_what_came_of_it_is_recorded(
    ravi_client, ravi, sealed_entry, queued
):
    page = ravi_client.post(ASK, {"whole": "1"}, follow=True).content.decode()
    assert "Verifying the whole log" in page
    assert Entry.objects.filter(event="log.inspection_requested", actor_id=str(ravi.pk)).exists()
    ravi_client.post(ASK, {"whole": "1"})
    assert len(queued) == 1  # one at a time
    inspect(queued[0])
    page = ravi_client.get(CHECKS).content.decode()
    assert "The log holds up to checkpoint 2" in page
    noted = Entry.objects.get(event="log.inspected")
    assert (noted.outcome, noted.payload["findings"]) == ("succeeded", 0)
    ravi_client.post(ASK)
    inspect(queued[1])
    assert InspectionRun.objects.latest("id").since_checkpoint == 2


def test_what_does_not_hold_is_named_on_the_page(ravi_client, sealed_entry, queued):
    behind_the_triggers("UPDATE audit_entry SET reason = 'no' WHERE id = %s", [sealed_entry])
    ravi_client.post(ASK, {"whole": "1"})
    inspect(queued[0])
    page = ravi_client.get(CHECKS).content.decode()
    assert "The log does not hold." in page
    assert page_of(sealed_entry) in page
    assert Entry.objects.get(event="log.inspected").outcome == "failed"


def test_run_that_fell_silent_makes_room_for_another(ravi_client, queued):
    ravi_client.post(ASK, {"whole": "1"})
    InspectionRun.objects.update(alive_at=datetime.now(UTC) - SILENT - timedelta(seconds=1))
    ravi_client.post(ASK, {"whole": "1"})
    assert len(queued) == 2
    assert InspectionRun.objects.get(pk=queued[0]).state == "failed"


def test_only_readers_of_the_log_have_it_verified(make_user, queued):
    client = Client()
    client.force_login(make_user("pat", "administrator"))
    assert client.post(ASK).status_code == 403
    client.force_login(make_user("piet", "external_auditor"))
    assert client.get(ASK).status_code == 405
    client.post(ASK)
    assert len(queued) == 1
