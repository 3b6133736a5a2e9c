"""Policy rules in the admin: tried on a sample, saved as versions, refused with a reason."""

import pytest
from django.db import InternalError, ProgrammingError, connection, transaction

from accounts.access import Denied
from audit.models import Entry
from conversations.models import PolicyRule, PolicyRuleVersion
from conversations.turn.policy import kept_policy
from conversations.turn.rules import save_rule

pytestmark = pytest.mark.django_db
LIST = "/admin/conversations/policyrule/"
NO_VERSIONS = {
    "versions-TOTAL_FORMS": 0,
    "versions-INITIAL_FORMS": 0,
    "versions-MIN_NUM_FORMS": 0,
    "versions-MAX_NUM_FORMS": 0,
}


@pytest.fixture(autouse=True)
def _forgotten():
    yield
    kept_policy.forget()


def terms(**given) -> dict:
    about = {
        "name": "Project names",
        "kind": "words",
        "direction": "both",
        "action": "mask",
        "words": "Falcon",
        "is_active": "on",
    }
    return about | given


@pytest.fixture
def falcon(ada) -> PolicyRule:
    rule = PolicyRule(name="Falcon", kind="words", direction="both", action="mask", words="Falcon")
    save_rule(rule, by=ada)
    return rule


def test_trial_shows_what_the_rule_would_do_and_saves_nothing(ada_client):
    data = terms(sample="The <b>fal**con** flies", _try="1", **NO_VERSIONS)
    response = ada_client.post(f"{LIST}add/", data)
    page = response.content.decode()
    assert response.status_code == 200
    assert "The &lt;b&gt;▮▮▮** flies" in page
    assert "Sent by somebody: found once" in page
    assert "In a reply: found once" in page
    assert "errornote" not in page
    assert 'value="Project names"' in page
    assert not PolicyRule.objects.exists()
    assert not Entry.objects.filter(event="policy.rule_saved").exists()


def test_trial_of_a_standing_rule_leaves_it_as_it_is(ada_client, falcon):
    data = terms(words="Eagle", action="block", sample="An eagle.", _try="1", **NO_VERSIONS)
    page = ada_client.post(f"{LIST}{falcon.pk}/change/", data).content.decode()
    assert "In a reply: blocked. This much may be seen before." in page
    falcon.refresh_from_db()
    assert (falcon.words, falcon.version) == ("Falcon", 1)


def test_page_of_the_trial_needs_no_inline_code(ada_client, falcon):
    response = ada_client.get(f"{LIST}{falcon.pk}/change/")
    page = response.content.decode()
    assert 'name="_try"' in page
    assert "onclick" not in page
    assert "style=" not in page


def test_saving_makes_a_version_and_an_entry_each_time(ada_client, ada):
    ada_client.post(f"{LIST}add/", terms(**NO_VERSIONS))
    rule = PolicyRule.objects.get()
    ada_client.post(f"{LIST}{rule.pk}/change/", terms(words="Eagle", **NO_VERSIONS))
    versions = PolicyRuleVersion.objects.filter(rule=rule).order_by("number")
    assert [(v.number, v.words, v.author) for v in versions] == [
        (1, "Falcon", ada),
        (2, "Eagle", ada),
    ]
    entries = Entry.objects.filter(event="policy.rule_saved", target_id=str(rule.pk))
    assert sorted(entry.payload["version"] for entry in entries) == [1, 2]
    assert not any("Eagle" in str(entry.payload) for entry in entries)
    assert "Falcon" in ada_client.get(f"{LIST}{rule.pk}/change/").content.decode()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kind": "pattern", "pattern": "a+", "direction": "output"}, "upper bound"),
        ({"kind": "pattern", "pattern": "(", "direction": "input"}, "no valid pattern"),
        ({"kind": "pattern", "pattern": ""}, "no pattern yet"),
        ({"words": " \n "}, "no word yet"),
        ({"kind": "size", "action": "block"}, "how many characters"),
        ({"kind": "moderation"}, "no place to mask"),
    ],
)
@pytest.mark.parametrize("how", [{}, {"_try": "1", "sample": "x"}])
def test_rule_that_can_not_be_applied_is_refused_with_a_sentence(ada_client, given, says, how):
    response = ada_client.post(f"{LIST}add/", terms(**given, **how, **NO_VERSIONS))
    assert response.status_code == 200
    assert says in response.content.decode()
    assert not PolicyRule.objects.exists()


def test_moderation_is_not_asked_for_a_trial(ada_client):
    data = terms(kind="moderation", action="flag", words="", sample="x", _try="1", **NO_VERSIONS)
    assert "It is not asked here" in ada_client.post(f"{LIST}add/", data).content.decode()


def test_versions_can_not_be_changed_or_removed(falcon):
    for statement in (
        "UPDATE conversations_policyruleversion SET words = ''",
        "DELETE FROM conversations_policyruleversion",
    ):
        refused = pytest.raises((ProgrammingError, InternalError), match="never changed")
        with refused, transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)


def test_only_those_who_manage_limits_may_save(olive_client, ravi_client, ravi, falcon):
    assert olive_client.get(LIST).status_code in {302, 403}
    assert ravi_client.get(f"{LIST}{falcon.pk}/change/").status_code == 200
    page = ravi_client.get(f"{LIST}{falcon.pk}/change/").content.decode()
    assert 'name="_save"' not in page
    assert 'name="_try"' not in page
    assert ravi_client.post(f"{LIST}add/", terms(**NO_VERSIONS)).status_code == 403
    with pytest.raises(Denied):
        save_rule(falcon, by=ravi)


def test_rules_are_put_out_of_force_and_never_deleted(ada_client, falcon):
    assert ada_client.post(f"{LIST}{falcon.pk}/delete/", {"post": "yes"}).status_code == 403
