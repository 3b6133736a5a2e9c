"""Which version of a prompt is live."""

import uuid
from functools import lru_cache
from typing import Any

from django.db import transaction
from django.utils import timezone

from audit.trail import System, acting_as
from prompts.models import PromptTemplate, PromptVersion

GENERAL_ASSISTANT = "general-assistant"
_FIRST_WORDING = (
    "You are a helpful assistant at an organisation. Answer clearly and briefly, in the language"
    " of the question. Use Markdown where it helps reading. When you don't know something, say so."
)


class NoLiveVersion(Exception):
    """A template has no published version to answer with."""


def live_version(slug: str = GENERAL_ASSISTANT) -> PromptVersion:
    """Return the version that new replies are told. Raises NoLiveVersion."""
    named = PromptTemplate.objects.filter(slug=slug).exclude(live_version=None).order_by()
    for version_id, name in named.values_list("live_version_id", "name"):
        return _published(version_id, name)
    raise NoLiveVersion(f"The prompt {slug} has no published version.")


@lru_cache(maxsize=64)
def _published(version_id: uuid.UUID, _template_name: str) -> PromptVersion:
    """Keep published versions at hand: they don't change, but for the name of their template."""
    return PromptVersion.objects.select_related("template").get(pk=version_id)


@acting_as(System("catalogue"))
@transaction.atomic
def seed_general_assistant(**_signal: Any) -> None:
    """Make sure that there is a prompt to begin with; runs after each migration."""
    template, made = PromptTemplate.objects.get_or_create(
        slug=GENERAL_ASSISTANT,
        defaults={"name": "General assistant", "purpose": "Everyday questions"},
    )
    if not made:
        return
    template.live_version = PromptVersion.objects.create(
        template=template,
        number=1,
        content=_FIRST_WORDING,
        change_note="The first wording, shipped with Parley",
        published_at=timezone.now(),
    )
    template.save(update_fields=["live_version"])
