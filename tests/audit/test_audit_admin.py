"""The log in the admin."""

import pytest
from django.test import Client
from django.urls import reverse

from accounts.access import System
from audit.admin import NewestPages
from audit.models import Entry, PersonalDetails
from audit.trail import record

pytestmark = pytest.mark.django_db
LIST = "/admin/audit/entry/"


@pytest.fixture
def olive(account_of):
    return account_of("member", email="olive@example.org")


@pytest.fixture
def ravi_browser(account_of):
    client = Client()
    client.force_login(account_of("compliance_officer"))
    return client


@pytest.fixture
def entry(olive):
    return Entry.objects.get(pk=record(olive, "auth.password_changed", olive, how="form"))


def test_list_names_people_while_their_details_are_kept(ravi_browser, entry):
    assert "olive@example.org" in ravi_browser.get(LIST).content.decode()
    PersonalDetails.objects.filter(actor_label="olive@example.org").delete()
    PersonalDetails.objects.filter(target_label="olive@example.org").delete()
    page = ravi_browser.get(LIST).content.decode()
    assert "olive@example.org" not in page
    assert entry.actor_id in page


def test_entry_is_shown_and_can_not_be_changed(ravi_browser, entry):
    url = reverse("admin:audit_entry_change", args=[entry.pk])
    page = ravi_browser.get(url).content.decode()
    assert bytes(entry.personal_digest).hex() in page
    assert 'name="_save"' not in page
    assert ravi_browser.post(url, {"reason": "x"}).status_code == 403
    assert (
        ravi_browser.post(reverse("admin:audit_entry_delete", args=[entry.pk])).status_code == 403
    )
    assert ravi_browser.get(f"{LIST}add/").status_code == 403


@pytest.mark.parametrize("term", ["Olive@Example.org", "the account's id"])
def test_log_is_searched_by_email_or_id(ravi_browser, entry, olive, term):
    record(System("tests"), "account.created", ("accounts.user", "somebody-else"))
    found = ravi_browser.get(LIST, {"q": term if "@" in term else str(olive.pk)})
    rows = found.context["cl"].result_list
    assert entry in rows
    assert all(str(olive.pk) in (row.actor_id, row.target_id) for row in rows)


def test_filter_offers_the_vocabulary(ravi_browser, entry):
    rows = ravi_browser.get(LIST, {"event": entry.event}).context["cl"].result_list
    assert [row.pk for row in rows] == [entry.pk]


def test_list_never_counts_the_table(ravi_browser, entry, django_assert_max_num_queries):
    with django_assert_max_num_queries(8) as queries:
        ravi_browser.get(LIST)
    counts = [q["sql"] for q in queries if "COUNT(" in q["sql"] and "audit_entry" in q["sql"]]
    assert counts
    assert all(f"LIMIT {NewestPages.REACH}" in sql for sql in counts)


@pytest.mark.parametrize(
    ("role", "status"), [("external_auditor", 200), ("administrator", 403), ("operator", 403)]
)
def test_log_opens_for_those_who_may_read_it(account_of, role, status):
    client = Client()
    client.force_login(account_of(role))
    assert client.get(LIST).status_code == status
