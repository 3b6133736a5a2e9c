"""Erasing an account: what goes, what stays, who may, and that every proof still holds."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from allauth.account.models import EmailAddress
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.access import Denied
from accounts.administration import LastAdministratorError, create_account, reactivate
from accounts.models import ApiToken, RoleGrant, User
from accounts.tokens import make_token, token_of
from audit import export as log_export
from audit import sealing
from audit.inspection import inspect_log
from audit.models import Entry, Export, PersonalDetails
from audit.selection import Selection
from audit.trail import ANONYMOUS, acting_as, record, record_outside
from conversations.models import BudgetWindow, Conversation, Erasure, Message, PersonExport
from conversations.retention.holds import end_due, lift, place
from conversations.rights.deleting import destroy_due
from conversations.rights.erasure import erase, finish_all
from conversations.turn import Progress, TurnEnded, close_reply
from tests.audit.conftest import SEED
from tests.conftest import PASSWORD
from tests.conversations.taking_along import exported

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _folder_of_its_own(settings, tmp_path):
    settings.EXPORT_FOLDER = tmp_path / "exports"


@pytest.fixture
def hold(ravi):
    def put(on):
        soon = datetime.now(UTC).date() + timedelta(days=90)
        return place(on, matter="Case 7", reason="A claim came.", review_on=soon, by=ravi)

    return put


def whole_database() -> str:
    """Every row of every table of ours, as text."""
    with connection.cursor() as cursor:
        text = ""
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT to_jsonb(t)::text FROM "{table}" AS t')
            text += "\n".join(row for (row,) in cursor.fetchall())
    return text


def entries_of(export: Export) -> set[int]:
    found = log_export.restored(export.selection).entries().filter(pk__lt=export.seen_entry)
    return set(found.values_list("pk", flat=True))


def done() -> None:
    destroy_due(timezone.now())
    finish_all(timezone.now())


# --- what goes --------------------------------------------------------------------------------


def test_exports_asked_for_by_the_email_name_the_account_and_find_the_same(olive, sam, ada, ravi):
    record(ada, "role.granted", olive, role="operator")
    record(olive, "auth.logged_out", olive)
    by_email = log_export.request_export(Selection(search="Olive@Parley.example"), by=ravi)
    Export.objects.update(state="failed")
    other = log_export.request_export(Selection(search=sam.email, event="role.granted"), by=ravi)
    before = entries_of(by_email)
    assert len(before) >= 2
    erase(olive, by=olive)
    by_email.refresh_from_db()
    assert by_email.selection == {"search": str(olive.pk)}
    assert entries_of(by_email) == before
    assert Export.objects.get(pk=other.pk).selection == other.selection


def test_nothing_tells_any_more_who_it_was_or_what_was_said(finished, olive, ada, olive_client):
    finished("Of tulips", by=olive)
    EmailAddress.objects.create(user=olive, email=olive.email, primary=True, verified=True)
    make_token(olive, name="Olive's laptop", scopes=["read"], lasts=None, by=olive)
    record(ada, "role.granted", olive, role="operator")
    typed = "Olive@Parley.example"
    record_outside(ANONYMOUS, "auth.login_failed", outcome="failed", target_label=typed)
    with acting_as(olive, address="203.0.113.7", user_agent="Firefox"):
        erase(olive, by=olive)
    done()
    text = whole_database().lower()
    for trace in ("olive@", "olive's", '"olive"', "203.0.113", "firefox"):
        assert trace not in text
    assert not Conversation.objects.exists()
    assert not Message.objects.exists()
    assert not BudgetWindow.objects.exists()
    assert Erasure.objects.get().finished_at


def test_sessions_of_all_devices_end_and_tokens_open_nothing(olive):
    clients = [Client(), Client()]
    for client in clients:
        client.force_login(olive)
    secret = make_token(olive, name="one", scopes=["read"], lasts=None, by=olive).secret
    erase(olive, by=olive)
    assert not Session.objects.exists()
    assert token_of(secret) is None
    assert not ApiToken.objects.exists()
    for client in clients:
        assert client.get("/").url.startswith("/account/sign-in/")
    assert not Client().login(email="olive@parley.example", password=PASSWORD)


def test_an_open_reply_is_stopped_and_destroyed_when_it_has(begin, olive):
    turn = begin()
    assert erase(olive, by=olive) == [turn.reply]
    done()
    assert Conversation.objects.exists()
    assert Erasure.objects.get().finished_at is None
    close_reply(turn.reply, Progress("So far", "", 2), TurnEnded(Message.State.STOPPED))
    done()
    assert not Conversation.objects.exists()
    assert Erasure.objects.get().finished_at


def test_files_that_were_asked_for_are_removed(
    finished, olive, settings, django_capture_on_commit_callbacks
):
    finished()
    export = exported(olive)
    waiting = PersonExport.objects.create(person=olive)
    with django_capture_on_commit_callbacks(execute=True):
        erase(olive, by=olive)
    assert {e.state for e in PersonExport.objects.filter(pk__in=[export.pk, waiting.pk])} == {
        "expired"
    }
    assert not list(Path(settings.EXPORT_FOLDER).glob("*"))


def test_what_waited_for_an_undo_does_not_wait_any_more(finished, olive):
    conversation = finished().conversation
    Conversation.objects.filter(pk=conversation.pk).update(
        lifecycle="deleted", deleted_at=timezone.now()
    )
    erase(olive, by=olive)
    done()
    assert not Conversation.objects.exists()


# --- what stays -------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_every_proof_stays_intact(finished, olive, ada, settings, tmp_path, monkeypatch):
    settings.AUDIT_FOLDER = tmp_path / "audit"
    monkeypatch.setenv("AUDIT_SIGNING_KEY", SEED)
    finished()
    record(ada, "role.granted", olive, role="operator")
    sealing.seal()
    before = Entry.objects.count()
    erase(olive, by=ada, reason="She asked by mail.")
    done()
    sealing.seal()
    report = inspect_log()
    assert report.holds, report.findings
    assert report.entries >= before + 2
    assert Entry.objects.filter(actor_id=str(olive.pk)).exists()
    whose = PersonalDetails.objects.filter(entry__actor_id=str(olive.pk))
    assert not whose.exists()


def test_the_log_says_who_erased_whom_by_number_and_why(olive, ada):
    erase(olive, by=ada, reason="She asked by mail.")
    entry = Entry.objects.get(event="account.erased")
    assert (entry.actor_id, entry.target_id) == (str(ada.pk), str(olive.pk))
    assert entry.reason == "She asked by mail."
    assert entry.personal.actor_label == ada.email
    assert entry.personal.target_label == ""


def test_of_others_nothing_goes(finished, olive, sam, ada):
    finished("Of sam's", by=sam)
    record(sam, "auth.logged_out", sam)
    erase(olive, by=olive)
    done()
    sam.refresh_from_db()
    assert (sam.email, sam.is_active) == ("sam@parley.example", True)
    assert Conversation.objects.visible_to(sam).count() == 1
    assert PersonalDetails.objects.filter(actor_label=sam.email).exists()


def test_a_new_account_with_the_same_email_is_a_new_person(finished, olive, ada):
    finished()
    erase(olive, by=olive)
    new = create_account("olive@parley.example", by=ada, roles=["member"])
    assert new.pk != olive.pk
    assert not Conversation.objects.visible_to(new).exists()


# --- under a hold -----------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["person", "conversation"])
def test_under_a_hold_the_account_is_closed_and_the_contents_stay(finished, olive, hold, on):
    turn = finished("Held words")
    placed = hold(olive if on == "person" else turn.conversation)
    record(olive, "auth.logged_out", olive)
    erase(olive, by=olive)
    done()
    stored = User.objects.get(pk=olive.pk)
    assert not stored.is_active
    assert "olive" not in stored.email
    assert Message.objects.get(role="user").content == "Held words"
    assert not Conversation.objects.exclude(lifecycle="deleted").exists()
    kept = Erasure.objects.get()
    assert (kept.former_email, kept.former_name) == ("olive@parley.example", "Olive")
    assert PersonalDetails.objects.filter(entry__actor_id=str(olive.pk)).exists()
    end_due(lift(placed, reason="Settled.", by=placed.author).ends_at)
    done()
    assert not Message.objects.exists()
    assert "olive@" not in whole_database()
    assert Erasure.objects.get().finished_at


def test_those_who_hold_see_whose_it_was_as_long_as_they_hold(olive, hold, ravi_client):
    hold(olive)
    erase(olive, by=olive)
    page = ravi_client.get(reverse("admin:conversations_hold_changelist")).content.decode()
    assert "olive@parley.example, erased" in page


# --- who may ----------------------------------------------------------------------------------


def test_others_are_erased_only_by_those_who_manage_accounts(olive, sam, ravi, ada):
    for by in (sam, ravi):
        with pytest.raises(Denied):
            erase(olive, by=by, reason="Because.")
    assert User.objects.get(pk=olive.pk).erased_at is None
    erase(olive, by=ada, reason="She asked.")
    assert User.objects.get(pk=olive.pk).erased_at


def test_the_last_administrator_stays(finished, ada, olive):
    finished(by=ada)
    with pytest.raises(LastAdministratorError):
        erase(ada, by=ada)
    ada.refresh_from_db()
    assert (ada.email, ada.is_active) == ("ada@parley.example", True)
    assert Conversation.objects.visible_to(ada).exists()
    RoleGrant.objects.create(user=olive, role_id="administrator")
    erase(ada, by=ada)
    assert User.objects.get(pk=ada.pk).erased_at


def test_an_erased_account_is_not_switched_on_again_nor_erased_twice(olive, ada):
    erase(olive, by=olive)
    assert not reactivate(User.objects.get(pk=olive.pk), by=ada)
    assert erase(User.objects.get(pk=olive.pk), by=ada) == []
    assert Entry.objects.filter(event="account.erased").count() == 1


# --- the page ---------------------------------------------------------------------------------


def test_the_page_says_what_happens_and_asks_for_the_password(finished, olive, olive_client, ada):
    finished()
    page = olive_client.get("/account/data/erase/").content.decode()
    assert "Your 1 conversation," in page
    for form in ({"sure": "on", "password": "wrong"}, {"password": PASSWORD}, {}):
        assert olive_client.post("/account/data/erase/", form).status_code == 400
    assert User.objects.get(pk=olive.pk).erased_at is None
    form = {"sure": "on", "password": PASSWORD}
    answer = olive_client.post("/account/data/erase/", form)
    assert "Your account is erased" in answer.content.decode()
    assert olive_client.get("/").url.startswith("/account/sign-in/")
    assert "olive@" not in whole_database()


def test_the_last_administrator_is_told_on_the_page(ada, ada_client):
    form = {"sure": "on", "password": PASSWORD}
    answer = ada_client.post("/account/data/erase/", form)
    assert answer.status_code == 400
    assert "last active administrator" in answer.content.decode()
