"""Names of persons and places, by Presidio: an extra (`parley[presidio]`), off unless it is set up.

`PII_NAMES_MODEL` names a spaCy model that is installed on this machine. Nothing is downloaded.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from conversations.turn.pii.plain import Finding

_KINDS = {"PERSON": "PERSON", "LOCATION": "LOCATION"}
_LEAST_SCORE = 0.5


def names(text: str) -> Iterator[Finding]:
    """Yield names of persons and places; nothing while no model is set.

    Raises ImproperlyConfigured when a model is set and it, or Presidio, is not installed.
    """
    if settings.PII_NAMES_MODEL:
        for result in _analyser(settings.PII_NAMES_MODEL)(text):
            yield Finding(_KINDS[result.entity_type], result.start, result.end)


@lru_cache(maxsize=1)
def _analyser(model: str) -> Callable[[str], list[Any]]:
    try:
        import spacy  # noqa: PLC0415 - an extra that few install, and slow to load
        from presidio_analyzer import AnalyzerEngine  # noqa: PLC0415
        from presidio_analyzer.nlp_engine import NlpEngineProvider  # noqa: PLC0415
    except ImportError as error:
        raise ImproperlyConfigured(
            "PII_NAMES_MODEL is set, but presidio-analyzer is not installed."
        ) from error
    # Presidio would download a model that is missing.
    if not spacy.util.is_package(model):
        raise ImproperlyConfigured(f"PII_NAMES_MODEL names {model}, which is not installed.")
    language = model.partition("_")[0]
    engine = AnalyzerEngine(
        nlp_engine=NlpEngineProvider(
            nlp_configuration={
                "nlp_engine_name": "spacy",
                "models": [{"lang_code": language, "model_name": model}],
            }
        ).create_engine(),
        supported_languages=[language],
    )

    def analyse(text: str) -> list[Any]:
        found: list[Any] = engine.analyze(
            text, language=language, entities=list(_KINDS), score_threshold=_LEAST_SCORE
        )
        return found

    return analyse
