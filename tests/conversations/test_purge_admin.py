"""What was purged, as a compliance officer sees it: report, plot, certificates, a question."""

import xml.etree.ElementTree as ET
from datetime import UTC, date, datetime, timedelta

import pytest
from django.db.models import F
from django.urls import reverse
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from audit.sealing import seal
from audit.statements import signed_by
from conversations.models import Conversation, Message, PurgeRun
from conversations.retention.plot import Bar, drawn, finding
from conversations.retention.purge import purge
from tests.audit.conftest import SEED

REPORT = "/admin/conversations/purgerun/"


def _aged(days: float) -> None:
    Message.objects.update(created_at=F("created_at") - timedelta(days=days))
    Conversation.objects.update(key_day=(datetime.now(UTC) - timedelta(days=days)).date())


@pytest.fixture
def asks(finished, settings) -> PurgeRun:
    settings.RETENTION_MAX_MESSAGES_UNASKED = 1
    finished()
    _aged(40)
    return purge(datetime.now(UTC))


@pytest.mark.django_db
def test_the_report_says_what_is_due_and_what_went(ravi_client, finished):
    finished()
    _aged(40)
    page = ravi_client.get(REPORT).content.decode()
    assert "The oldest message that is due has been so for <strong>10" in page
    purge(datetime.now(UTC))
    page = ravi_client.get(REPORT).content.decode()
    assert "Nothing is due." in page
    assert "2 messages purged" in page


@pytest.mark.django_db
def test_a_purge_that_asks_is_shown_and_confirmed(ravi_client, asks, monkeypatch):
    from conversations.tasks import purge as task

    monkeypatch.setattr(task, "delay", lambda: purge(datetime.now(UTC)))
    assert "A purge stopped and asks." in ravi_client.get(REPORT).content.decode()
    confirm = reverse("admin:conversations_purgerun_confirm", args=[asks.pk])
    assert ravi_client.get(confirm).status_code == 405
    assert ravi_client.post(confirm).status_code == 302
    asks.refresh_from_db()
    assert asks.state == "finished"
    assert not Message.objects.exists()


@pytest.mark.django_db
def test_who_only_sees_metadata_confirms_nothing(client, make_user, asks):
    client.force_login(make_user("otto", "operator"))
    confirm = reverse("admin:conversations_purgerun_confirm", args=[asks.pk])
    assert client.post(confirm).status_code == 403
    assert "<button" not in _body(client.get(REPORT).content.decode())
    asks.refresh_from_db()
    assert asks.state == "asking"


@pytest.mark.django_db
def test_an_external_auditor_reads_the_report_and_changes_nothing(client, make_user, asks):
    client.force_login(make_user("piet", "external_auditor"))
    page = client.get(REPORT)
    assert page.status_code == 200
    body = _body(page.content.decode())
    assert "<button" not in body
    assert "retentionpolicy" not in body
    shown = client.get(reverse("admin:conversations_purgerun_change", args=[asks.pk]))
    assert shown.status_code == 200
    confirm = reverse("admin:conversations_purgerun_confirm", args=[asks.pk])
    assert client.post(confirm).status_code == 403


def _body(page: str) -> str:
    return page.partition('id="content-main"')[2]


@pytest.mark.django_db
def test_strangers_see_neither_report_nor_plot(olive_client, client):
    for url in (REPORT, f"{REPORT}plot-wide-light.svg", f"{REPORT}1/certificate.txt"):
        assert olive_client.get(url).status_code in {302, 403}
        assert client.get(url).status_code == 302


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["wide-light", "wide-dark", "narrow-light", "narrow-dark"])
def test_the_plot_is_an_image_of_its_own(ravi_client, name):
    response = ravi_client.get(f"{REPORT}plot-{name}.svg")
    assert response["Content-Type"] == "image/svg+xml"
    assert ET.fromstring(response.content).tag.endswith("svg")  # our own
    assert ravi_client.get(f"{REPORT}plot-wide-pink.svg").status_code == 404


@examples(deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 10**9)] * 3), min_size=30, max_size=30),
    st.dates(date(2020, 1, 1), date(2040, 1, 1)),
    st.booleans(),
)
def test_bars_stay_within_the_plot(figures, first, narrow):
    bars = [Bar(first + timedelta(days=at), *each) for at, each in enumerate(figures)]
    root = ET.fromstring(drawn(bars, "dark", narrow=narrow))
    height, width = float(root.get("height")), float(root.get("width"))
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y = float(rect.get("x")), float(rect.get("y"))
        assert 0 <= x <= x + float(rect.get("width")) <= width
        assert 0 <= y <= y + float(rect.get("height")) <= height
    assert f"{bars[-1].due:,} due now" in finding(bars)


@pytest.mark.django_db(transaction=True)
def test_a_certificate_is_shown_verified_and_handed_out(
    ravi_client, finished, settings, tmp_path, monkeypatch
):
    settings.AUDIT_FOLDER = tmp_path / "audit"
    monkeypatch.setenv("AUDIT_SIGNING_KEY", SEED)
    finished()
    _aged(40)
    seal()
    run = purge(datetime.now(UTC))
    url = reverse("admin:conversations_purgerun_change", args=[run.pk])
    page = ravi_client.get(url).content.decode()
    assert "verified now" in page
    assert "Audit entry, with its proof" in page
    note = reverse("admin:conversations_purgerun_note", args=[run.pk])
    assert signed_by(ravi_client.get(note).content.decode())
