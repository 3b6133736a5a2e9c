"""What administrators do to accounts."""

import pytest
from django.db import IntegrityError, transaction
from django.db.models import Value

from accounts.access import Denied, System
from accounts.administration import (
    LastAdministratorError,
    create_account,
    deactivate,
    grant,
    reactivate,
    revoke,
)
from accounts.models import RoleGrant, User

BY = System("tests")
pytestmark = pytest.mark.django_db


def test_email_is_one_in_any_case(account_of):
    olive = account_of("member", email="Olive@Example.org")
    assert olive.email == "olive@example.org"
    assert User.objects.get(email="OLIVE@example.ORG") == olive
    assert User.objects.get_by_natural_key("oLive@example.org") == olive
    with pytest.raises(IntegrityError), transaction.atomic():
        account_of("member", email="OLIVE@EXAMPLE.ORG")


def test_database_itself_refuses_an_email_in_capitals(account_of):
    account_of("member", email="olive@example.org")
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.update(email=Value("OLIVE@example.org"))


def test_account_has_a_time_ordered_id_and_no_superuser_column(account_of):
    first, second = account_of("member"), account_of("operator")
    assert first.pk.version == 7
    assert first.pk < second.pk
    assert "is_superuser" not in {field.name for field in User._meta.get_fields()}
    assert not hasattr(User.objects, "create_superuser")


def test_grant_names_who_gave_it_and_happens_once(account_of):
    ada, olive = account_of("administrator"), account_of("member")
    assert grant(olive, "operator", by=ada) is True
    assert grant(olive, "operator", by=ada) is False
    assert RoleGrant.objects.get(user=olive, role="operator").granted_by == ada
    assert olive.roles == {"member", "operator"}


def test_member_can_grant_nothing_not_even_to_themselves(account_of):
    olive = account_of("member")
    with pytest.raises(Denied):
        grant(olive, "administrator", by=olive)
    with pytest.raises(Denied):
        create_account("new@example.org", by=olive)
    assert olive.roles == {"member"}


def test_last_administrator_stays(account_of):
    ada = account_of("administrator")
    with pytest.raises(LastAdministratorError, match="last active administrator"):
        revoke(ada, "administrator", by=ada)
    with pytest.raises(LastAdministratorError):
        deactivate(ada, by=ada)
    assert User.objects.get(pk=ada.pk).is_active


def test_inactive_administrator_does_not_count(account_of):
    ada = account_of("administrator", email="ada@example.org")
    second = account_of("administrator", email="second@example.org")
    deactivate(second, by=ada)
    with pytest.raises(LastAdministratorError):
        revoke(ada, "administrator", by=BY)
    reactivate(second, by=ada)
    assert revoke(ada, "administrator", by=BY) is True


def test_switching_off_takes_effect_with_the_next_request(account_of, client):
    olive, ada = account_of("member"), account_of("administrator")
    client.force_login(olive)
    assert client.get("/account/").status_code == 200
    deactivate(olive, by=ada)
    assert client.get("/account/").status_code == 302
