"""What tests that commit leave behind: nothing, and the guards of the tables as they were."""

import pytest

from accounts.models import Role
from accounts.roles import ROLES
from prompts.models import LanguageModel
from tests import flush
from tests.flush import FirstState

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("large_bytes", [flush.LARGE_BYTES, 0], ids=["emptied", "truncated"])
def test_tables_hold_again_what_they_held_at_first(finished, monkeypatch, large_bytes):
    first = FirstState.read()
    finished("Another question")
    Role.objects.filter(slug="member").update(label="Somebody")
    LanguageModel.objects.update(label="Another")
    changed = FirstState.read()
    assert {"audit_entry", "accounts_role", "prompts_languagemodel"} <= {
        table for table, known in first.fingerprints.items() if changed.fingerprints[table] != known
    }
    monkeypatch.setattr(flush, "LARGE_BYTES", large_bytes)
    first.bring_back()
    monkeypatch.undo()
    assert FirstState.read() == first
    assert Role.objects.get(slug="member").label == ROLES["member"].label
