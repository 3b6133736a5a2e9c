"""Retention in the admin: how long what is said is kept, and what was purged.

A change is shown before it is saved: what it would remove, and when. Who may change it also lets a
purge go on that stopped to ask.
"""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from kombu.exceptions import OperationalError

from accounts.access import allowed
from accounts.models import Role
from accounts.roles import Permission
from audit.admin.reading import in_fours
from audit.models import Entry
from audit.statements import signed_by
from conversations.models import PurgeRun, RetentionPolicy
from conversations.retention.plot import THEMES, bars, drawn, finding
from conversations.retention.policies import (
    PeriodRefused,
    Preview,
    add_policy,
    in_words,
    name_of,
    pending,
    periods,
    preview,
    set_period,
)
from conversations.retention.purge import Cutoff, confirm, last_finished, oldest_due, standing

SHOWN_RUNS = 48
POLICIES = "admin:conversations_retentionpolicy_changelist"
REPORT = "admin:conversations_purgerun_changelist"


class _Pages(admin.ModelAdmin):  # type: ignore[type-arg]
    """Pages of our own in the admin's frame; rows are changed by verbs alone."""

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def page(
        self, request: HttpRequest, template: str, title: str, **context: Any
    ) -> TemplateResponse:
        """Return a page. Raises PermissionDenied for who may not see this part."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        of_site = {**self.admin_site.each_context(request), "opts": self.opts, "title": title}
        return TemplateResponse(request, template, {**of_site, **context})


# --- policies ---------------------------------------------------------------------------------


class PeriodForm(forms.Form):
    """A period, and why it is to be this one."""

    amount = forms.IntegerField(label="Keep messages for", required=True)
    unit = forms.ChoiceField(choices=[("24", "days"), ("1", "hours")])
    note = forms.CharField(
        label="Why",
        max_length=300,
        help_text="Stays with the version and in the audit log. Name no person.",
    )

    @property
    def hours(self) -> int:
        return int(self.cleaned_data["amount"]) * int(self.cleaned_data["unit"])


class RoleForm(PeriodForm):
    """A role that has no policy yet, and the period that it is to have."""

    role = forms.ModelChoiceField(Role.objects.none(), empty_label=None)
    field_order = ("role", "amount", "unit", "note")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taken = RetentionPolicy.objects.exclude(role=None).values("role")
        self.fields["role"].queryset = Role.objects.exclude(pk__in=taken)  # type: ignore[attr-defined]


@admin.register(RetentionPolicy)
class RetentionPolicyAdmin(_Pages):
    """How long conversations are kept: everybody's, temporary ones, those of a role."""

    def get_urls(self) -> list[URLPattern]:
        """Leave a list, a page for each policy, and one to add a role's."""
        view, name = self.admin_site.admin_view, "conversations_retentionpolicy"
        return [
            path("", view(self.changelist_view), name=f"{name}_changelist"),
            path("add/", view(self.add_view), name=f"{name}_add"),
            path("<int:object_id>/change/", view(self.change_view), name=f"{name}_change"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show all policies, with what holds now and what is to come."""
        now = timezone.now()
        holding = periods(now)
        found = RetentionPolicy.objects.select_related("role").prefetch_related("versions")
        shown = []
        for policy in found:
            to_come = pending(sorted(policy.versions.all(), key=lambda v: v.number), now)
            shown.append(
                {
                    "policy": policy,
                    "name": name_of(policy),
                    "period": holding[policy.pk],
                    "pending": to_come,
                    "pending_words": in_words(to_come.hours) if to_come else "",
                }
            )
        return self.page(
            request,
            "admin/conversations/retentionpolicy/change_list.html",
            "Retention policies",
            policies=shown,
            may_change=self.has_change_permission(request),
        )

    def change_view(
        self,
        request: Any,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show one policy; show what a change would do, then make it."""
        policy = RetentionPolicy.objects.select_related("role").filter(pk=object_id).first()
        if policy is None:
            raise Http404("There is no policy with this number.")
        now = timezone.now()
        holding = periods(now)[policy.pk]
        if request.method == "POST" and not self.has_change_permission(request):
            raise PermissionDenied
        form = PeriodForm(request.POST or None, initial=_initial(holding.hours))
        shown: Preview | None = None
        if request.method == "POST" and form.is_valid():
            try:
                shown = preview(policy, form.hours, now)
                if request.POST.get("previewed") == str(form.hours):
                    return self._saved(request, policy, form)
            except PeriodRefused as refused:
                form.add_error("amount", str(refused))
        versions = list(policy.versions.select_related("author").order_by("-number"))
        return self.page(
            request,
            "admin/conversations/retentionpolicy/change_form.html",
            name_of(policy),
            policy=policy,
            holding=holding,
            pending=pending(versions[::-1], now),
            form=form,
            preview=None if form.errors else shown,
            versions=[{"version": each, "words": in_words(each.hours)} for each in versions],
            may_change=self.has_change_permission(request),
        )

    def _saved(self, request: Any, policy: RetentionPolicy, form: PeriodForm) -> HttpResponse:
        made = set_period(policy, form.hours, by=request.user, note=form.cleaned_data["note"])
        when = (
            "It holds from now on."
            if made.effective_at <= timezone.now()
            else f"It takes effect on {made.effective_at:%-d %B %Y, %H:%M} UTC."
        )
        self.message_user(request, f"{name_of(policy)}: {in_words(made.hours)}. {when}")
        return redirect(POLICIES)

    def add_view(
        self, request: Any, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Give a role a policy of its own."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = RoleForm(request.POST or None, initial=_initial(30 * 24))
        if request.method == "POST" and form.is_valid():
            role, note = form.cleaned_data["role"], form.cleaned_data["note"]
            try:
                add_policy(role.pk, form.hours, by=request.user, note=note)
            except PeriodRefused as refused:
                form.add_error("amount", str(refused))
            else:
                self.message_user(
                    request, f"What the role {role} begins from now on: {in_words(form.hours)}."
                )
                return redirect(POLICIES)
        template = "admin/conversations/retentionpolicy/add_form.html"
        return self.page(request, template, "A policy for a role", form=form)


def _initial(hours: int) -> dict[str, Any]:
    if hours % 24 == 0:
        return {"amount": hours // 24, "unit": "24"}
    return {"amount": hours, "unit": "1"}


# --- what was purged --------------------------------------------------------------------------


@admin.register(PurgeRun)
class PurgeRunAdmin(_Pages):
    """What is due, held and overdue, and each purge with its certificate."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        """Leave a report, its plot, and a page for each run."""
        view, name = self.admin_site.admin_view, "conversations_purgerun"
        return [
            path("", view(self.changelist_view), name=f"{name}_changelist"),
            path("plot-<str:width>-<str:theme>.svg", view(self.plot_view), name=f"{name}_plot"),
            path("<int:object_id>/change/", view(self.change_view), name=f"{name}_change"),
            path("<int:pk>/certificate.txt", view(self.certificate_view), name=f"{name}_note"),
            path("<int:pk>/confirm/", view(self.confirm_view), name=f"{name}_confirm"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show how things stand."""
        now = timezone.now()
        shown, found = bars(now), standing(now)
        runs = list(PurgeRun.objects.defer("certificate", "tree_hashes")[:SHOWN_RUNS])
        kinds = {"messages": "Messages", "feedback": "Feedback", "day_keys": "Day keys"}
        return self.page(
            request,
            "admin/conversations/purgerun/change_list.html",
            "Purges",
            periods=list(periods(now).values()),
            oldest_due=oldest_due(now),
            last_finished=last_finished(),
            asking=next((run for run in runs if run.state == PurgeRun.State.ASKING), None),
            certified=PurgeRun.objects.exclude(certificate="").first(),
            finding=finding(shown),
            standing=[(kinds[each.kind], each) for each in found],
            runs=runs,
            may_change=allowed(request.user, Permission.MANAGE_RETENTION),
        )

    def plot_view(self, request: HttpRequest, width: str, theme: str) -> HttpResponse:
        """Draw what was purged each day."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if theme not in THEMES or width not in {"wide", "narrow"}:
            raise Http404
        svg = drawn(bars(timezone.now()), theme, narrow=width == "narrow")
        return HttpResponse(svg, content_type="image/svg+xml")

    def change_view(
        self,
        request: Any,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show one run, and its certificate if it has one."""
        run = _run(int(object_id))
        entries = Entry.objects.filter(
            target_kind="conversations.purgerun", target_id=str(run.pk), event="retention.purged"
        )
        return self.page(
            request,
            "admin/conversations/purgerun/change_form.html",
            f"Purge {run.pk}",
            run=run,
            cutoffs=[Cutoff.stored(each) for each in run.cutoffs],
            root=in_fours(bytes(run.root).hex()),
            signed_by=signed_by(run.certificate) if run.certificate else [],
            entry=entries.first() if allowed(request.user, Permission.VIEW_AUDIT) else None,
            may_change=allowed(request.user, Permission.MANAGE_RETENTION),
        )

    def certificate_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Hand out a certificate as it was signed."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        run = _run(pk)
        if not run.certificate:
            raise Http404("This purge has no certificate.")
        return HttpResponse(
            run.certificate,
            content_type="text/plain; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="purge-{run.pk}.txt"'},
        )

    def confirm_view(self, request: Any, pk: int) -> HttpResponse:
        """Let a purge go on that stopped to ask."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        run = confirm(_run(pk), by=request.user, now=timezone.now())
        if run is None:
            self.message_user(request, "This purge does not ask any more.", messages.WARNING)
        else:
            self.message_user(request, f"Purge {run.pk} goes on{_soon()}")
        return redirect(REPORT)


def _soon() -> str:
    """Ask the worker for it; say when it goes on."""
    from conversations.tasks import purge  # noqa: PLC0415 - tasks import what imports the admin

    try:
        purge.delay()
    except OperationalError:
        return " within the hour: the queue for work in the background does not answer."
    return "."


def _run(pk: int) -> PurgeRun:
    found = PurgeRun.objects.filter(pk=pk).first()
    if found is None:
        raise Http404("There is no purge with this number.")
    return found
