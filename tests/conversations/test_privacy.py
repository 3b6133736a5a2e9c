import pytest
from django.core.exceptions import ImproperlyConfigured

from conversations.turn.privacy import Mode, mode_for


@pytest.fixture(autouse=True)
def _modes(settings):
    settings.PII_MODE = "pseudonymise"
    settings.PII_MODE_BY_ROLE = {"compliance_officer": "off", "operator": "block"}


def test_without_a_word_on_the_role_the_deployment_decides(olive):
    assert mode_for(olive) is Mode.PSEUDONYMISE


def test_a_role_may_have_a_mode_of_its_own(ravi):
    assert mode_for(ravi) is Mode.OFF


@pytest.mark.parametrize(
    ("roles", "strictest"),
    [
        (("compliance_officer", "member"), Mode.PSEUDONYMISE),
        (("compliance_officer", "operator"), Mode.BLOCK),
        ((), Mode.PSEUDONYMISE),
    ],
)
def test_of_several_roles_the_strictest_holds(make_user, roles, strictest):
    assert mode_for(make_user("kim", *roles)) is strictest


def test_a_mode_or_role_that_does_not_exist_is_said_in_a_sentence(olive, settings):
    settings.PII_MODE_BY_ROLE = {"boss": "off"}
    with pytest.raises(ImproperlyConfigured, match="no role: boss"):
        mode_for(olive)
    settings.PII_MODE_BY_ROLE = {}
    settings.PII_MODE = "hidden"
    with pytest.raises(ImproperlyConfigured, match="can be off, pseudonymise, mask, block"):
        mode_for(olive)
