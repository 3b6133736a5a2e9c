"""The models on offer."""

from django.conf import settings


def default_model() -> str:
    """Return the name of the model that answers where a prompt names none."""
    return str(settings.OPENAI_MODEL)
