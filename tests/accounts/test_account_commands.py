"""Accounts from the command line."""

import io
import json

import pytest
from django.core.management import CommandError, call_command

from accounts.models import User

pytestmark = pytest.mark.django_db


def run(name, *args, given="", monkeypatch=None, **options):
    out = io.StringIO()
    if monkeypatch:
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
    call_command(name, *args, stdout=out, **options)
    return out.getvalue()


def test_superusers_are_refused_with_the_way_out():
    with pytest.raises(CommandError, match="create_account EMAIL --role administrator"):
        call_command("createsuperuser", "--noinput")


def test_created_account_signs_in_with_the_printed_password():
    said = run("create_account", "Ada@example.org", "--role", "administrator", "--name", "Ada")
    password = said.strip().rpartition(" ")[2]
    ada = User.objects.get(email="ada@example.org")
    assert ada.check_password(password)
    assert ada.roles == {"administrator"}


def test_given_password_is_not_printed(monkeypatch):
    given = "a long enough sentence"
    said = run(
        "create_account",
        "sam@example.org",
        "--role",
        "member",
        "--password-stdin",
        given=f"{given}\n",
        monkeypatch=monkeypatch,
    )
    assert given not in said
    assert User.objects.get(email="sam@example.org").check_password(given)


@pytest.mark.parametrize(
    ("email", "password", "said"),
    [
        ("sam@example.org", "short", "too short"),
        ("not an email", "a long enough sentence", "valid email"),
        ("ada@example.org", "a long enough sentence", "There is an account with this email"),
    ],
)
def test_what_speaks_against_an_account_is_said(monkeypatch, account_of, email, password, said):
    account_of("administrator", email="ada@example.org")
    with pytest.raises(CommandError, match=said):
        run(
            "create_account",
            email,
            "--role",
            "member",
            "--password-stdin",
            given=password,
            monkeypatch=monkeypatch,
        )


STARTING = {
    "administrator": {"email": "ada@example.org", "password": "one two three"},
    "member": {"email": "olive@example.org", "password": "four five six"},
}


def start(monkeypatch, wanted=STARTING):
    said = run("starting_accounts", given=json.dumps(wanted), monkeypatch=monkeypatch)
    return {role: account["state"] for role, account in json.loads(said).items()}


def test_starting_accounts_are_made_once_and_then_left_to_their_people(monkeypatch):
    assert start(monkeypatch) == {"administrator": "created", "member": "created"}
    assert start(monkeypatch) == {"administrator": "kept", "member": "kept"}
    olive = User.objects.get(email="olive@example.org")
    olive.set_password("something else")
    olive.save()
    assert start(monkeypatch) == {"administrator": "kept", "member": "kept"}
    olive.refresh_from_db()
    assert olive.check_password("something else")


@pytest.mark.parametrize("given", ["", "[]", '{"emperor": {"email": "e", "password": "p"}}'])
def test_starting_accounts_refuse_what_they_do_not_understand(monkeypatch, given):
    with pytest.raises(CommandError):
        run("starting_accounts", given=given, monkeypatch=monkeypatch)
