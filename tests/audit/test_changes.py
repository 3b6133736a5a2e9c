"""Edits that django-auditlog captures, and the traps of that library."""

import ast
import asyncio
from pathlib import Path

import pytest
from auditlog.registry import auditlog
from django.contrib.contenttypes.models import ContentType
from django.db import IntegrityError, transaction

from accounts.administration import create_account, deactivate
from accounts.models import User
from audit.acting import acting_as
from audit.changes import NotInTransactionError, watched
from audit.models import Entry, ModelChange
from audit.trail import MissingActorError
from chatbot.database import db
from prompts.models import PromptTemplate, PromptVersion

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("accounts", "audit", "chatbot", "conversations", "prompts")
pytestmark = pytest.mark.django_db


def changes() -> list[Entry]:
    return list(Entry.objects.filter(event="record.changed").order_by("pk"))


@pytest.fixture
def template() -> PromptTemplate:
    return PromptTemplate.objects.get(slug="general-assistant")


def test_edit_of_an_account_tells_what_changed_and_not_to_what(ada_client, ada, olive):
    form = {"email": "olivia@parley.example", "name": "Olivia", "roles": ["member"]}
    before = len(changes())
    url = f"/admin/accounts/user/{olive.pk}/change/"
    assert ada_client.post(url, form | {"is_active": "on"}).status_code == 302
    (entry,) = changes()[before:]
    assert (entry.actor_id, entry.target_id) == (str(ada.pk), str(olive.pk))
    assert entry.payload == {
        "action": "update",
        "changes": {"email": "(changed)", "name": "(changed)"},
    }
    assert entry.personal.target_label == "olivia@parley.example"


def test_captured_difference_holds_no_personal_value_either(ada, olive):
    with acting_as(ada):
        olive.email, olive.name = "olivia@parley.example", "Olivia"
        olive.save()
    row = ModelChange.objects.values().latest("timestamp")
    assert "oliv" not in str(row).lower()
    assert row["actor_id"] == ada.pk
    assert row["object_repr"] == f"account {olive.pk}"


def test_account_has_one_entry_when_it_is_made_or_switched_off(ada):
    before = Entry.objects.latest("pk").pk
    made = create_account("new@parley.example", by=ada)
    deactivate(made, by=ada)
    later = Entry.objects.filter(pk__gt=before).order_by("pk")
    assert [entry.event for entry in later] == ["account.created", "account.deactivated"]


def test_password_and_last_sign_in_are_no_edit(olive, ada):
    before = Entry.objects.count(), ModelChange.objects.count()
    olive.set_password("something else 1")
    olive.save()
    olive.save(update_fields=["last_login"])
    assert (Entry.objects.count(), ModelChange.objects.count()) == before


def test_edit_of_a_prompt_tells_the_values_but_no_wording(ada, template):
    with acting_as(ada):
        draft = PromptVersion.objects.create(
            template=template, number=2, content="About tulips", change_note="shorter"
        )
        template.purpose = "Everything"
        template.save()
    made, edited = changes()[-2:]
    assert made.payload["action"] == "create"
    assert made.payload["changes"]["content"] == "(changed)"
    assert made.payload["changes"]["content_hash"] == [None, draft.content_hash]
    assert made.payload["changes"]["parameters"] == [None, {}]
    assert edited.payload["changes"] == {"purpose": ["Everyday questions", "Everything"]}
    rows = str(list(ModelChange.objects.values())) + str(list(Entry.objects.values("payload")))
    assert "tulips" not in rows


# --- traps -----------------------------------------------------------------------------------


def test_edit_by_nobody_is_an_error(olive):
    olive.name = "Olivia"
    with pytest.raises(MissingActorError), transaction.atomic():
        olive.save()
    olive.refresh_from_db()
    assert olive.name == "Olive"


@pytest.mark.django_db(transaction=True)
async def test_right_actor_in_concurrent_tasks_also_after_their_block_has_ended(make_user):
    """Traps 3, 4 and 6: the library's context leaks, ends too early, and may mix up two."""
    people = [await db(make_user)(f"person{n}") for n in range(6)]

    async def edit(person: User) -> None:
        await asyncio.sleep(0.01)
        await db(_rename)(person)

    tasks = []
    for person in people:
        with acting_as(person):
            tasks.append(asyncio.create_task(edit(person)))
    await asyncio.gather(*tasks)
    edits = Entry.objects.filter(event="record.changed", target_kind="accounts.user")
    rows = await db(list)(edits.values_list("actor_id", "target_id"))
    assert sorted(rows) == sorted((str(person.pk), str(person.pk)) for person in people)


@transaction.atomic
def _rename(person: User) -> None:
    person.name = "Another"
    person.save()


@pytest.mark.parametrize("name", ["set_actor", "set_extra_data", "AuditlogMiddleware", "LogAccess"])
def test_context_of_the_library_is_not_used(name):
    """Traps 3, 4, 6, 11, 14."""
    assert not [path for path in sources() if name in path.read_text()]


@pytest.mark.django_db(transaction=True)
def test_change_that_fails_leaves_no_entry(ada, olive, sam):
    """Trap 9: the difference is captured before the row is saved."""
    before = len(changes())
    olive.email = sam.email
    with acting_as(ada), pytest.raises(IntegrityError), transaction.atomic():
        olive.save()
    assert len(changes()) == before
    assert not ModelChange.objects.filter(object_pk=str(olive.pk)).exists()


@pytest.mark.django_db(transaction=True)
def test_change_outside_of_a_transaction_is_refused(ada, olive):
    """Trap 9 again: there the entry would stay although the save may fail."""
    olive.name = "Olivia"
    with acting_as(ada), pytest.raises(NotInTransactionError):
        olive.save()
    olive.refresh_from_db()
    assert olive.name == "Olive"
    assert not ModelChange.objects.filter(object_pk=str(olive.pk)).exists()


def test_watched_models_have_no_relations_that_the_library_gets_wrong():
    """Traps 8 and 10: proxies are not seen, and relations of many to many are told wrongly."""
    for model in watched():
        assert not model._meta.many_to_many
        assert not model._meta.proxy
        assert not [sub for sub in model.__subclasses__() if sub._meta.proxy]
    assert set(watched()) == set(auditlog.get_models())


# Recorded by an event of its own.
BULK_WRITES = {("accounts/administration.py", "User"), ("accounts/access.py", "User")}


def test_no_bulk_write_touches_a_watched_model():
    """Trap 7: bulk writes are not seen."""
    names = {model.__name__ for model in watched()}
    found = {
        (str(path.relative_to(ROOT)), model)
        for path in sources()
        for model in bulk_written(ast.parse(path.read_text()))
        if model in names
    }
    assert found <= BULK_WRITES


def test_the_search_for_bulk_writes_finds_them():
    code = "User.objects.filter(pk=1).update(name='x'); Role.objects.bulk_create([])"
    assert bulk_written(ast.parse(code)) == {"User", "Role"}


def sources() -> list[Path]:
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return [path for path in found if "migrations" not in path.parts]


def bulk_written(tree: ast.AST) -> set[str]:
    """Return the names at the beginning of `Name.objects.….update(…)` and its like."""
    writes = {"update", "bulk_create", "bulk_update", "aupdate", "abulk_create", "abulk_update"}
    return {
        root
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in writes
        and (root := _root(node.func.value))
    }


def _root(node: ast.AST) -> str:
    while not isinstance(node, ast.Name):
        inner = getattr(node, "value", None) or getattr(node, "func", None)
        if inner is None:
            return ""
        node = inner
    return node.id


def test_deleting_an_account_or_content_type_leaves_what_was_captured(make_user, ada):
    """Trap 2."""
    person = make_user("pat")
    with acting_as(person):
        ada.name = "Ada L."
        ada.save()
    acted = person.pk
    person.delete()
    ContentType.objects.get_for_model(User).delete()
    ContentType.objects.clear_cache()
    assert ModelChange.objects.get(object_pk=str(ada.pk)).actor_id == acted
    assert changes()[-1].actor_id == str(acted)


def test_seeded_prompt_is_the_catalogues_doing():
    seeded = Entry.objects.filter(event="record.changed", actor_id="catalogue")
    assert {entry.target_kind for entry in seeded} == {
        "prompts.prompttemplate",
        "prompts.promptversion",
    }
