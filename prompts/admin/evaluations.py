"""The pages of evaluations: sets with their cases, runs, two runs side by side, the gate."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db.models import Case, IntegerField, Prefetch, QuerySet, When
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path

from accounts.access import Denied, allowed
from accounts.admin import DiscreetAdmin
from accounts.roles import Permission
from prompts import publishing
from prompts.admin.forms import NoteForm
from prompts.admin.templates import PAGE as TEMPLATE_PAGE
from prompts.admin.templates import version_of
from prompts.catalogue import offers_for
from prompts.evaluation import cases as evaluated
from prompts.evaluation import differences, runs, sets
from prompts.evaluation.cases import MAX_BYTES, Malformed, cases_of, judged_checks
from prompts.evaluation.checks import Check
from prompts.evaluation.runs import MAX_LIMIT_USD, USUAL_LIMIT_USD, may_evaluate
from prompts.models import (
    EvaluationResult,
    EvaluationRun,
    EvaluationSet,
    EvaluationSetVersion,
    PromptTemplate,
)
from prompts.publishing import NotPossible

SET_PAGE = "admin:prompts_evaluationset_change"
RUN_PAGE = "admin:prompts_evaluationrun_change"
SHOWN_CASES = 50
SHOWN_RUNS = 10
_TEXTS = ("terms", "set_version__lines", "version__content")


# --- forms ---------------------------------------------------------------------------------------


class CasesForm(forms.Form):
    """Cases as a file of JSON Lines."""

    file = forms.FileField(
        label="Cases, as a file of JSON Lines",
        help_text=f"One case in each line, UTF-8, at most {MAX_BYTES // 1024**2} MB. No personal"
        " data of people: cases are kept, and sent to the provider.",
    )
    note = forms.CharField(label="What changes, and why", max_length=300, required=False)

    def clean_file(self) -> bytes:
        """Return what the file says, read no further than a set may be long."""
        content: bytes = self.cleaned_data["file"].read(MAX_BYTES + 1)
        return content


class SetForm(CasesForm):
    """A new set with its first cases."""

    name = forms.CharField(max_length=120)
    slug = forms.SlugField(help_text="How the command line and the log name it.")
    purpose = forms.CharField(max_length=500, required=False, help_text="What it shows, briefly.")
    field_order = ("name", "slug", "purpose", "file", "note")


class LimitForm(forms.Form):
    """What a run may cost."""

    limit_usd = forms.DecimalField(
        label="Limit, USD",
        min_value=Decimal("0.0001"),
        max_value=MAX_LIMIT_USD,
        initial=USUAL_LIMIT_USD,
        help_text="The run stops before it could cost more.",
    )


class BeginForm(LimitForm):
    """With what a version is evaluated."""

    set = forms.ModelChoiceField(EvaluationSet.objects.none(), label="Set", empty_label=None)
    judge = forms.ChoiceField(
        required=False, help_text="Judges the checks that need a judgement. Not every set has them."
    )
    field_order = ("set", "judge", "limit_usd")

    def __init__(self, user: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with_cases = EvaluationSet.objects.filter(versions__isnull=False).distinct()
        self.fields["set"].queryset = with_cases  # type: ignore[attr-defined]
        offered = [(offer.slug, offer.label) for offer in offers_for(user)]
        self.fields["judge"].choices = [("", "The model by default"), *offered]  # type: ignore[attr-defined]


class GateForm(NoteForm):
    """What a version has to pass before it can be published."""

    set = forms.ModelChoiceField(
        EvaluationSet.objects.all(), label="Set", required=False, empty_label="Nothing is required"
    )
    score = forms.DecimalField(
        label="Score",
        min_value=Decimal("0.001"),
        max_value=1,
        max_digits=4,
        decimal_places=3,
        help_text="The share of its cases that have to pass: 0.9 is nine in ten.",
    )
    field_order = ("set", "score", "note")


# --- sets ----------------------------------------------------------------------------------------


class _EvaluationAdmin(DiscreetAdmin):
    """Read by those who may see prompts; changed by verbs alone."""

    actions = None
    show_full_result_count = False
    folder = ""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say whether this person may see prompts."""
        return allowed(request.user, Permission.VIEW_PROMPTS)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Do as `has_view_permission`."""
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Answer no: it begins elsewhere."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no: its verbs change it."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no: a score says nothing without its cases."""
        return False

    def _require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _path(self, route: str, view: Callable[..., HttpResponse], name: str) -> Any:
        return path(route, self.admin_site.admin_view(view), name=f"prompts_{name}")

    def _page(
        self, request: HttpRequest, name: str, title: str, *, status: int = 200, **more: Any
    ) -> TemplateResponse:
        user = request.user
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "may_edit": allowed(user, Permission.EDIT_PROMPTS),
            "may_evaluate": may_evaluate(user),
            **more,
        }
        template = f"admin/prompts/{self.opts.model_name}/{name}.html"
        return TemplateResponse(request, template, context, status=status)


@admin.register(EvaluationSet)
class EvaluationSetAdmin(_EvaluationAdmin):
    """Sets of cases: read by those who may see prompts, written by editors."""

    list_display = ("name", "cases", "newest_version", "purpose")
    search_fields = ("name", "slug", "purpose")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Say whether this person may edit prompts."""
        return allowed(request.user, Permission.EDIT_PROMPTS)

    def get_queryset(self, request: HttpRequest) -> QuerySet[EvaluationSet]:
        """Load the versions, without their cases."""
        versions = EvaluationSetVersion.objects.defer("lines")
        found: QuerySet[EvaluationSet] = super().get_queryset(request)
        return found.prefetch_related(Prefetch("versions", versions))

    @admin.display(description="cases")
    def cases(self, shown: EvaluationSet) -> int:
        """Return how many cases its newest version has."""
        return shown.newest.case_count if shown.newest else 0

    @admin.display(description="newest version", empty_value="none")
    def newest_version(self, shown: EvaluationSet) -> str | None:
        """Return number and day of its newest version."""
        newest = shown.newest
        return f"v{newest.number}, {newest.created_at:%-d %b %Y}" if newest else None

    def get_urls(self) -> list[Any]:
        """Put the pages of sets before Django's own."""
        return [
            self._path("add/", self.add_view, "evaluationset_add"),
            self._path(
                "versions/<uuid:object_id>/download/", self.download_view, "evaluationset_download"
            ),
            self._path("gate/<uuid:object_id>/", self.gate_view, "prompttemplate_gate"),
            *super().get_urls(),
        ]

    def add_view(
        self, request: Any, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Let an editor make a set from a file."""
        if not self.has_add_permission(request):
            raise PermissionDenied("Your roles do not allow you to edit prompts.")
        form = SetForm(request.POST or None, request.FILES or None)
        if request.method == "POST" and form.is_valid():
            given = form.cleaned_data
            made = EvaluationSet(slug=given["slug"], name=given["name"], purpose=given["purpose"])
            try:
                sets.make_set(made, given["file"], note=given["note"], by=request.user)
            except Malformed as error:
                form.add_error("file", str(error))
            except ValidationError as error:
                form.add_error(None, error)
            else:
                self.message_user(request, f"{made.name} is stored.")
                return redirect(SET_PAGE, made.pk)
        status = 422 if form.errors else 200
        return self._page(request, "add", "New evaluation set", status=status, form=form)

    def change_view(
        self,
        request: Any,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show the cases of a version, and store a new one."""
        self._require_view(request)
        which = _found(EvaluationSet.objects.all(), object_id)
        form = CasesForm(request.POST or None, request.FILES or None)
        if request.method == "POST" and form.is_valid():
            given = form.cleaned_data
            try:
                made = sets.store_version(which, given["file"], note=given["note"], by=request.user)
            except (Malformed, NotPossible) as error:
                form.add_error("file", str(error))
            else:
                self.message_user(request, f"{made} is stored: {made.case_count} cases.")
                return redirect(SET_PAGE, which.pk)
        status = 422 if form.errors else 200
        shown = _shown_set(which, request.GET.get("version"))
        context = {**shown, "form": form, "page": _paged(request, shown["cases"])}
        return self._page(request, "change", which.name, status=status, **context)

    def download_view(self, request: HttpRequest, object_id: UUID) -> HttpResponse:
        """Give a version's cases as they were uploaded."""
        self._require_view(request)
        version = _found(EvaluationSetVersion.objects.select_related("set"), object_id)
        name = f"{version.set.slug}-v{version.number}.jsonl"
        return HttpResponse(
            version.lines,
            content_type="application/jsonl; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    def gate_view(self, request: Any, object_id: UUID) -> HttpResponse:
        """Show or change what a template requires before a version can be published."""
        if not allowed(request.user, Permission.GATE_PROMPTS):
            raise PermissionDenied("Your roles do not allow you to change what a prompt requires.")
        template = _found(PromptTemplate.objects.select_related("required_set"), object_id)
        initial = {"set": template.required_set_id, "score": template.required_score}
        form = GateForm(request.POST or None, initial=initial)
        if request.method == "POST" and form.is_valid():
            given = form.cleaned_data
            try:
                publishing.require_evaluation(
                    template, given["set"], given["score"], note=given["note"], by=request.user
                )
            except NotPossible as error:
                form.add_error(None, str(error))
            else:
                self.message_user(request, "What is required holds from now on.")
                return redirect(TEMPLATE_PAGE, template.pk)
        title = f"Required before publishing: {template.name}"
        status = 422 if form.errors else 200
        return self._page(request, "gate", title, status=status, form=form, template=template)


def _shown_set(which: EvaluationSet, asked: str | None) -> dict[str, Any]:
    versions = list(which.versions.defer("lines").select_related("created_by"))
    chosen = next((one for one in versions if str(one.number) == asked), None)
    chosen = chosen or (versions[0] if versions else None)
    latest = EvaluationRun.objects.filter(set_version__set=which)
    return {
        "set": which,
        "versions": versions,
        "version": chosen,
        "version_query": f"&version={chosen.number}" if chosen else "",
        "cases": cases_of(chosen.lines) if chosen else (),
        "runs": _listed(latest)[:SHOWN_RUNS],
        "required_by": PromptTemplate.objects.filter(required_set=which),
    }


def _paged(request: HttpRequest, rows: Any) -> Any:
    return Paginator(rows, SHOWN_CASES).get_page(request.GET.get("page"))


def _found(rows: Any, pk: object) -> Any:
    """Return the row with this id. Raises Http404."""
    try:
        asked = UUID(str(pk))
    except ValueError as error:
        raise Http404("There is nothing of this kind.") from error
    found = rows.filter(pk=asked).first()
    if found is None:
        raise Http404("There is nothing of this kind.")
    return found


# --- runs ----------------------------------------------------------------------------------------


@admin.register(EvaluationRun)
class EvaluationRunAdmin(_EvaluationAdmin):
    """Runs: read by those who may see prompts, begun by editors and publishers."""

    list_display = ("version", "set_version", "outcome", "spent", "began_at", "began_by")
    list_filter = ("state", "template")

    def get_queryset(self, request: HttpRequest) -> QuerySet[EvaluationRun]:
        """Load what a list says of a run."""
        return _listed(super().get_queryset(request).select_related("began_by"))

    @admin.display(description="outcome")
    def outcome(self, run: EvaluationRun) -> str:
        """Return how many cases passed, or where it stands."""
        if run.state == EvaluationRun.State.FINISHED:
            return f"{run.passed} of {run.total}"
        return f"{run.get_state_display()}, {run.decided} of {run.total} decided"

    @admin.display(description="cost", ordering="spent_usd")
    def spent(self, run: EvaluationRun) -> str:
        """Return what it cost so far."""
        return f"${run.spent_usd:.4f}"

    def get_urls(self) -> list[Any]:
        """Put the pages of runs before Django's own."""
        return [
            self._path("begin/<uuid:object_id>/", self.begin_view, "evaluationrun_begin"),
            self._path("<uuid:object_id>/progress/", self.progress_view, "evaluationrun_progress"),
            self._path(
                "<uuid:object_id>/compare/<uuid:other_id>/",
                self.compare_view,
                "evaluationrun_compare",
            ),
            *super().get_urls(),
        ]

    def begin_view(self, request: Any, object_id: UUID) -> HttpResponse:
        """Let somebody choose with what a version is evaluated, and begin."""
        if not may_evaluate(request.user):
            raise PermissionDenied("Evaluating prompts is for those who write or release them.")
        version = version_of(object_id)
        initial = {"set": version.template.required_set_id}
        form = BeginForm(request.user, request.POST or None, initial=initial)
        if request.method == "POST" and form.is_valid():
            given = form.cleaned_data
            newest = sets.newest_version(given["set"])
            assert newest is not None, "the form offers sets with cases alone"
            try:
                run = runs.begin(
                    version,
                    newest,
                    limit_usd=given["limit_usd"],
                    judge=given["judge"],
                    by=request.user,
                )
            except NotPossible as error:
                form.add_error(None, str(error))
            else:
                return redirect(RUN_PAGE, run.pk)
        status = 422 if form.errors else 200
        context = {"form": form, "version": version, "template": version.template}
        return self._page(request, "begin", f"Evaluate {version}", status=status, **context)

    def change_view(
        self,
        request: Any,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a run, and do what is decided about it."""
        run = self._run(request, object_id)
        trouble = ""
        if request.method == "POST":
            trouble = self._act(request, run)
            if not trouble:
                return redirect(RUN_PAGE, run.pk)
            run = self._run(request, object_id)
        context = {**_shown_run(request, run), "trouble": trouble}
        status = 409 if trouble else 200
        return self._page(request, "run", f"Evaluation of {run.version}", status=status, **context)

    def _act(self, request: Any, run: EvaluationRun) -> str:
        """Do what was asked for; return why it can't be done, or nothing."""
        act = request.POST.get("act", "")
        limit = LimitForm(request.POST)
        if act != "cancel" and not limit.is_valid():
            return "Give the limit as a number of dollars."
        try:
            if act == "cancel":
                runs.cancel(run, by=request.user)
            elif act in {"resume", "ask_again"}:
                runs.resume(
                    run,
                    by=request.user,
                    ask_again=act == "ask_again",
                    limit_usd=limit.cleaned_data["limit_usd"],
                )
            else:
                return "Choose what to do with the evaluation."
        except (NotPossible, Denied) as error:
            return str(error)
        return ""

    def progress_view(self, request: HttpRequest, object_id: UUID) -> HttpResponse:
        """Show a run as a piece of its page, which asks again while it is open."""
        run = self._run(request, object_id)
        return self._page(request, "_run", "", **_shown_run(request, run))

    def compare_view(self, request: HttpRequest, object_id: UUID, other_id: UUID) -> HttpResponse:
        """Show two runs of a set case by case."""
        run, other = self._run(request, object_id), self._run(request, other_id)
        if run.set_version.set_id != other.set_version.set_id:
            raise Http404("These are runs of different sets.")
        found = differences.between(other, run)
        counted = dict.fromkeys(differences.Change, 0)
        for one in found:
            counted[one.change] += 1
        page = _paged(request, found)
        page.object_list = differences.with_words(page.object_list)
        context = {
            "run": run,
            "other": other,
            "page": page,
            "counted": [(change.label, count) for change, count in counted.items() if count],
        }
        title = f"{run.version} beside {other.version}"
        return self._page(request, "compare", title, **context)

    def _run(self, request: HttpRequest, object_id: object) -> EvaluationRun:
        self._require_view(request)
        found: EvaluationRun = _found(
            # The page of an open run asks each second, and shows no cases.
            EvaluationRun.objects.select_related(
                "version__template", "set_version__set", "template", "began_by"
            ).defer(*_TEXTS),
            object_id,
        )
        return found


def _listed(runs_of_all: QuerySet[EvaluationRun]) -> QuerySet[EvaluationRun]:
    """Return runs with what they are named by, and without their texts, which may be megabytes."""
    return runs_of_all.select_related("version__template", "set_version__set").defer(*_TEXTS)


class _Row:
    """A result beside its case, for the page."""

    def __init__(self, result: EvaluationResult, case: evaluated.Case) -> None:
        self.result, self.case = result, case

    @property
    def checks(self) -> list[tuple[Check, Any]]:
        """The checks with their verdicts, as far as there are any."""
        verdicts = [*self.result.verdicts, *[None] * len(self.case.checks)]
        return list(zip(self.case.checks, verdicts, strict=False))

    @property
    def missed(self) -> list[Any]:
        """The verdicts that keep the case from passing."""
        return [v for v in self.result.verdicts if v and v["outcome"] != "passed"]


_STATES_WORST_FIRST = ("error", "uncertain", "failed", "claimed", "waiting", "passed")
_WORST_FIRST = Case(
    *(When(state=state, then=at) for at, state in enumerate(_STATES_WORST_FIRST)),
    output_field=IntegerField(),
)


def _shown_run(request: HttpRequest, run: EvaluationRun) -> dict[str, Any]:
    """Return what the page of a run shows. Six queries at most."""
    page = _paged(request, run.results.none())
    is_judged = bool(run.judge)
    if not run.is_open:
        cases = cases_of(run.set_version.lines)
        is_judged = any(map(judged_checks, cases))
        page = _paged(request, run.results.order_by(_WORST_FIRST, "position"))
        page.object_list = [_Row(result, cases[result.position]) for result in page]
    others = EvaluationRun.objects.filter(set_version__set=run.set_version.set).exclude(pk=run.pk)
    return {
        "run": run,
        "page": page,
        "others": _listed(others)[:SHOWN_RUNS],
        "limit": LimitForm(initial={"limit_usd": run.limit_usd.normalize()}),
        "is_judged": is_judged,
        "kept_days": runs.KEPT_FOR.days,
    }
