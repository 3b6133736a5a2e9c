"""What the AI is and is told, in the admin: models with their prices, templates with versions."""

from prompts.admin.evaluations import EvaluationRunAdmin, EvaluationSetAdmin
from prompts.admin.figures import VersionFiguresAdmin
from prompts.admin.models import LanguageModelAdmin, ModelPriceAdmin
from prompts.admin.releases import ReleaseAdmin
from prompts.admin.schedules import ScheduledEvaluationAdmin
from prompts.admin.templates import PromptTemplateAdmin

__all__ = [
    "EvaluationRunAdmin",
    "EvaluationSetAdmin",
    "LanguageModelAdmin",
    "ModelPriceAdmin",
    "PromptTemplateAdmin",
    "ReleaseAdmin",
    "ScheduledEvaluationAdmin",
    "VersionFiguresAdmin",
]
