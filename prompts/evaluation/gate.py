"""What a template requires before one of its versions can be published: a passed evaluation.

    missing(template, version)      why it can't be published, as a sentence; or nothing

`publishing.require_evaluation` sets what is required, `publishing.publish` asks here.
What passes is a finished run of the required set's newest version with exactly the content that is
to be published, by its hash. Restoring and rolling back are not held up: they lead to what was
published before.
"""

from decimal import Decimal

from prompts.models import EvaluationRun, EvaluationSetVersion, PromptTemplate, PromptVersion


def missing(template: PromptTemplate, version: PromptVersion) -> str:
    """Return what is missing for a version to be published, and what to do; mostly empty."""
    required = template.required_set
    if required is None:
        return ""
    newest = required.versions.order_by("-number").first()
    asked = f"{required.name} with {percent_of(template.required_score)} or more of its cases"
    if newest is None:
        return f"{template.name} requires {asked}, and the set has no cases: upload some first."
    runs = _runs_of(template, version, newest)
    if any(run.reaches(template.required_score) for run in runs):
        return ""
    evaluate = "Press “Evaluate…” on the version's page"
    if not runs:
        return (
            f"v{version.number} has to pass {asked} before it can be published, and exactly this"
            f" text was not evaluated with v{newest.number} of the set. {evaluate}."
        )
    if any(run.is_open for run in runs):
        return f"v{version.number} is being evaluated with {required.name}: wait until it is done."
    return (
        f"v{version.number} has to pass {asked} before it can be published. {_last(runs[0])} Or let"
        " a publisher or an administrator lift the requirement."
    )


def _runs_of(
    template: PromptTemplate, version: PromptVersion, newest: EvaluationSetVersion
) -> list[EvaluationRun]:
    alike = {"template": template, "content_hash": version.content_hash, "set_version": newest}
    return list(EvaluationRun.objects.filter(**alike).order_by("-began_at").defer("terms"))


def shown_runs(template: PromptTemplate) -> dict[str, EvaluationRun]:
    """Return for each content hash its newest run, of the required set if there is one.

    One query.
    """
    found = EvaluationRun.objects.filter(template=template).order_by("-began_at")
    if template.required_set_id:
        found = found.filter(set_version__set=template.required_set_id)
    shown: dict[str, EvaluationRun] = {}
    for run in found.defer("terms")[:200]:
        shown.setdefault(run.content_hash, run)
    return shown


def _last(run: EvaluationRun) -> str:
    """Return how a run ended that opens nothing, and what to do about it."""
    if run.score is None:
        return "Its last evaluation did not come to its end: resume it, or begin another."
    passed = f"Its last evaluation passed {run.passed} of {run.total}"
    if run.unparsable:
        return (
            f"{passed}, but of {run.unparsable} the judge's answer could not be read: that does not"
            " count. Evaluate it again with another judge."
        )
    return f"{passed}. Change the text and evaluate it again."


def percent_of(score: Decimal) -> str:
    """Return a share as people read it: `90 %`."""
    return f"{float(score * 100):g}\N{NO-BREAK SPACE}%"
