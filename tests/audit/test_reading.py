"""Reading in the administration is recorded: who, what, by which filter."""

import pytest

from audit.models import Entry
from audit.sealing import seal

pytestmark = pytest.mark.django_db
LOG = "/admin/audit/entry/"


def read() -> list[Entry]:
    found = Entry.objects.filter(event__endswith=".viewed").select_related("personal")
    return list(found.order_by("pk"))


def test_list_one_entry_and_a_search_of_the_log(ravi_client, ravi, olive):
    ravi_client.get(LOG)
    first = Entry.objects.earliest("pk")
    ravi_client.get(f"{LOG}{first.pk}/change/")
    ravi_client.get(LOG, {"q": "olive@parley.example", "event": "turn.started"})
    listed, one, searched = read()
    assert {entry.event for entry in read()} == {"audit.viewed"}
    assert {entry.actor_id for entry in read()} == {str(ravi.pk)}
    assert listed.payload == {"page": "list", "filter": {}, "searched": False}
    assert (one.target_kind, one.target_id) == ("audit.entry", str(first.pk))
    assert one.payload["page"] == "record"
    assert searched.payload == {
        "page": "list",
        "filter": {"event": "turn.started"},
        "searched": True,
    }
    assert searched.personal.target_label == "olive@parley.example"


@pytest.mark.django_db(transaction=True)
def test_checkpoints_and_checks_of_the_log(ravi_client, ravi, write):
    write(1)
    seal()
    pages = ["checkpoint/", "checkpoint/1/change/", "checkpoint/1/note/", "inspectionrun/"]
    for page in pages:
        assert ravi_client.get(f"/admin/audit/{page}").status_code == 200
    for page in ("checkpoint/2/change/", "checkpoint/?below=x"):
        assert ravi_client.get(f"/admin/audit/{page}").status_code == 404
    assert {(entry.event, entry.actor_id) for entry in read()} == {("audit.viewed", str(ravi.pk))}
    assert [(entry.target_kind, entry.target_id, entry.payload["page"]) for entry in read()] == [
        ("audit.checkpoint", "", "list"),
        ("audit.checkpoint", "1", "record"),
        ("audit.checkpoint", "1", "note"),
        ("audit.inspectionrun", "", "list"),
    ]


def test_how_many_entries_an_export_would_have(ravi_client):
    ravi_client.get("/admin/audit/export/add/", {"q": "olive@parley.example", "outcome": "denied"})
    (entry,) = read()
    assert (entry.target_kind, entry.payload["page"]) == ("audit.export", "form")
    assert entry.payload["filter"] == {"outcome": "denied"}
    assert entry.payload["searched"]
    assert entry.personal.target_label == "olive@parley.example"


def test_values_that_no_filter_offers_are_withheld(ada_client, olive):
    ada_client.get("/admin/accounts/user/", {"email__startswith": "olive", "is_active__exact": "1"})
    (entry,) = read()
    assert entry.event == "account.viewed"
    assert entry.payload["filter"] == {
        "email__startswith": "(withheld)",
        "is_active__exact": "1",
    }


def test_address_in_the_place_of_a_choice_is_withheld(ravi_client):
    ravi_client.get(
        "/admin/conversations/conversation/", {"lifecycle__exact": "olive@parley.example"}
    )
    ravi_client.get(LOG, {"target": "Olive Oil", "no_filter": "olive@parley.example"})
    assert read()[0].payload["filter"] == {"lifecycle__exact": "(withheld)"}
    assert read()[1].payload["filter"] == {"target": "(withheld)"}


def test_metadata_of_a_conversation(ravi_client, ravi, finished):
    conversation = finished().conversation
    ravi_client.get(f"/admin/conversations/conversation/{conversation.pk}/change/")
    (entry,) = read()
    assert (entry.event, entry.target_id) == ("conversation.viewed", str(conversation.pk))
    assert entry.target_kind == "conversations.conversation"


def test_prompt_pages(ada_client):
    ada_client.get("/admin/prompts/prompttemplate/")
    (entry,) = read()
    assert (entry.event, entry.payload["page"]) == ("prompt.viewed", "list")


def test_page_that_was_not_shown_was_not_read(olive_client, ada_client, client, olive):
    assert olive_client.get(LOG).status_code != 200
    assert ada_client.get(LOG).status_code == 403
    assert client.get(LOG).status_code == 302
    assert read() == []


def test_index_and_settings_are_no_reading(ada_client):
    assert ada_client.get("/admin/").status_code == 200
    assert ada_client.get("/admin/prompts/languagemodel/").status_code == 200
    assert read() == []
