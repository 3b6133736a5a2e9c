"""Which version of a prompt is live."""

from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone

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
    version = (
        PromptVersion.objects.select_related("template")
        .filter(template__slug=slug, id=F("template__live_version_id"))
        .first()
    )
    if version is None:
        raise NoLiveVersion(f"The prompt {slug} has no published version.")
    return version


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
