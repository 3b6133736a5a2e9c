"""The page of a template's scheduled evaluation: what is planned, and what followed."""

from decimal import Decimal
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html

from accounts.access import allowed
from accounts.admin import DiscreetAdmin
from accounts.roles import Permission
from prompts.admin.forms import NoteForm
from prompts.evaluation import schedule
from prompts.evaluation.runs import MAX_LIMIT_USD
from prompts.evaluation.schedule import MOST_DAYS, Plan
from prompts.models import EvaluationSet, PromptTemplate, ScheduledEvaluation
from prompts.publishing import NotPossible

PAGE = "admin:prompts_scheduledevaluation_plan"
SHOWN = 30


class PlanForm(NoteForm):
    """With what a live version is evaluated, how often, and for how much."""

    cases = forms.ModelChoiceField(
        EvaluationSet.objects.all(),
        label="Set of cases",
        required=False,
        empty_label="None: it is not evaluated by a schedule",
    )
    days = forms.IntegerField(label="Days from one to the next", min_value=1, max_value=MOST_DAYS)
    limit_usd = forms.DecimalField(
        label="Limit of each, USD",
        min_value=Decimal("0.01"),
        max_value=MAX_LIMIT_USD,
        max_digits=8,
        decimal_places=2,
        help_text="An evaluation that reaches it stops, and is reported as unfinished.",
    )

    field_order = ("cases", "days", "limit_usd", "note")

    @classmethod
    def of(cls, template: PromptTemplate) -> "PlanForm":
        """Return the form that shows what is planned, with the required set as a proposal."""
        shown = {
            "cases": template.scheduled_set or template.required_set,
            "days": template.scheduled_days,
            "limit_usd": template.scheduled_limit_usd,
        }
        return cls(initial=shown)

    def plan(self) -> Plan | None:
        """Return what was planned. The form is valid."""
        given = self.cleaned_data
        if given["cases"] is None:
            return None
        return Plan(given["cases"], given["days"], given["limit_usd"])


@admin.register(ScheduledEvaluation)
class ScheduledEvaluationAdmin(DiscreetAdmin):
    """Scheduled evaluations: read by those who may see prompts, planned by publishers."""

    list_display = ("at", "about", "score", "result")
    list_display_links = None
    list_select_related = ("version__template", "run")
    list_filter = ("result", "template")
    actions = None
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Answer no: the worker adds them."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no: what followed stays."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say whether this person may see prompts."""
        return allowed(request.user, Permission.VIEW_PROMPTS)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Do as `has_view_permission`."""
        return self.has_view_permission(request)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show those of all templates."""
        return super().changelist_view(request, {"title": "Scheduled evaluations"})

    @admin.display(description="version")
    def about(self, evaluation: ScheduledEvaluation) -> str:
        """Return the version as a link to what is planned for its template."""
        page = reverse(PAGE, args=[evaluation.template_id])
        return format_html('<a href="{}">{}</a>', page, evaluation.version)

    @admin.display(description="passed", empty_value="–")
    def score(self, evaluation: ScheduledEvaluation) -> str | None:
        """Return how many cases passed."""
        run = evaluation.run
        return None if run is None or run.score is None else f"{run.passed} of {run.total}"

    def get_urls(self) -> list[Any]:
        """Put the page of a template's plan before Django's own."""
        view = self.admin_site.admin_view(self.plan_view)
        own = path("of/<uuid:template_id>/", view, name="prompts_scheduledevaluation_plan")
        return [own, *super().get_urls()]

    def plan_view(self, request: Any, template_id: UUID) -> HttpResponse:
        """Show what is planned for a template and what followed; plan anew."""
        template = self._template(request, template_id)
        form = PlanForm(request.POST) if request.method == "POST" else PlanForm.of(template)
        if request.method == "POST" and form.is_valid():
            note = form.cleaned_data["note"]
            try:
                schedule.plan(template, form.plan(), note=note, by=request.user)
            except NotPossible as error:
                form.add_error(None, str(error))
            else:
                self.message_user(request, "The plan is stored.")
                return redirect(PAGE, template.pk)
        return self._page(request, template, form)

    def _page(self, request: HttpRequest, template: PromptTemplate, form: PlanForm) -> HttpResponse:
        followed = template.scheduled_evaluations.select_related("version", "run", "baseline")
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Scheduled evaluation: {template.name}",
            "template": template,
            "plan": Plan.of(template),
            "form": form,
            "may_plan": allowed(request.user, Permission.GATE_PROMPTS),
            "followed": followed[:SHOWN],
        }
        page = "admin/prompts/scheduledevaluation/plan.html"
        return TemplateResponse(request, page, context, status=422 if form.errors else 200)

    def _template(self, request: HttpRequest, template_id: UUID) -> PromptTemplate:
        if not self.has_view_permission(request):
            raise PermissionDenied
        templates = PromptTemplate.objects.select_related(
            "live_version", "scheduled_set", "required_set"
        )
        found = templates.filter(pk=template_id).first()
        if found is None:
            raise Http404("There is no such template.")
        return found
