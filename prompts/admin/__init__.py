"""What the AI is and is told, in the admin: models with their prices, templates with versions."""

from prompts.admin.figures import VersionFiguresAdmin
from prompts.admin.models import LanguageModelAdmin, ModelPriceAdmin
from prompts.admin.releases import ReleaseAdmin
from prompts.admin.templates import PromptTemplateAdmin

__all__ = [
    "LanguageModelAdmin",
    "ModelPriceAdmin",
    "PromptTemplateAdmin",
    "ReleaseAdmin",
    "VersionFiguresAdmin",
]
