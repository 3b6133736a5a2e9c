"""What the AI is and is told: models on offer with their prices, templates and their versions."""

from prompts.models.catalogue import LanguageModel, ModelPrice
from prompts.models.drift import RatingBaseline, RatingTally
from prompts.models.evaluation import (
    EvaluationResult,
    EvaluationRun,
    EvaluationSet,
    EvaluationSetVersion,
    ScheduledEvaluation,
)
from prompts.models.figures import VersionFigures
from prompts.models.guards import ArmTally, GuardReading, ReleaseGuard
from prompts.models.releases import WHOLE, Arm, Release, ReleaseDecision, percent
from prompts.models.templates import PromptTemplate, PromptVersion, hash_of

__all__ = [
    "WHOLE",
    "Arm",
    "ArmTally",
    "EvaluationResult",
    "EvaluationRun",
    "EvaluationSet",
    "EvaluationSetVersion",
    "GuardReading",
    "LanguageModel",
    "ModelPrice",
    "PromptTemplate",
    "PromptVersion",
    "RatingBaseline",
    "RatingTally",
    "Release",
    "ReleaseDecision",
    "ReleaseGuard",
    "ScheduledEvaluation",
    "VersionFigures",
    "hash_of",
    "percent",
]
