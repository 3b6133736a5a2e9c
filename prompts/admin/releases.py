"""The pages of releases: to begin one, to see how far it is, and to decide about it."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path

from accounts.access import Denied, allowed
from accounts.admin import DiscreetAdmin
from accounts.models import User
from accounts.roles import ROLES, Permission
from prompts.admin.forms import BeginForm, BoundsForm, NoteForm
from prompts.admin.templates import version_of
from prompts.figures import arm_comparison
from prompts.models import Release, percent
from prompts.publishing import NotPossible
from prompts.release import guards, rollout
from prompts.release.rollout import Progress

PAGE = "admin:prompts_release_change"

Verb = Callable[..., Release]
ACTS: dict[str, tuple[Verb, str]] = {
    "advance": (rollout.advance, "The release went on to {share}."),
    "pause": (rollout.pause, "The release is paused."),
    "resume": (rollout.resume, "The release goes on."),
    "finish": (rollout.finish, "In production: v{number} answers everybody."),
    "roll_back": (rollout.roll_back, "Rolled back: v{before} answers everybody again."),
}


@admin.register(Release)
class ReleaseAdmin(DiscreetAdmin):
    """Releases: read by those who may see prompts, decided by publishers."""

    list_display = ("version", "where", "began_at", "ended_at")
    list_select_related = ("version__template",)
    list_filter = ("state",)
    actions = None
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Answer no: a release begins on the page of its version."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no: its verbs change it."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no: replies name their release."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say whether this person may see prompts."""
        return allowed(request.user, Permission.VIEW_PROMPTS)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Do as `has_view_permission`."""
        return self.has_view_permission(request)

    def get_urls(self) -> list[Any]:
        """Put the page on which a release begins before Django's own."""
        begin = self.admin_site.admin_view(self.begin_view)
        own = path("begin/<uuid:version_id>/", begin, name="prompts_release_begin")
        return [own, *super().get_urls()]

    # --- beginning -------------------------------------------------------------------------------

    def begin_view(self, request: Any, version_id: UUID) -> HttpResponse:
        """Show the usual plan, to change and to begin with."""
        if not allowed(request.user, Permission.PUBLISH_PROMPTS):
            raise PermissionDenied("Your roles do not allow you to release prompts.")
        version = version_of(version_id)
        form = BeginForm(request.POST or None)
        if request.method == "POST" and (plan := form.plan()):
            try:
                note = form.cleaned_data["note"]
                release = rollout.begin(version, plan, note=note, by=request.user)
            except NotPossible as error:
                form.add_error(None, str(error))
            else:
                self.message_user(request, f"The release of {version} has begun.")
                return redirect(PAGE, release.pk)
        own = not version.permits(request.user, Permission.PUBLISH_PROMPTS)
        context = {"version": version, "template": version.template, "form": form, "own": own}
        response = self._page(request, "begin", f"Release {version}", **context)
        response.status_code = 422 if request.method == "POST" else 200
        return response

    # --- deciding --------------------------------------------------------------------------------

    def change_view(
        self,
        request: Any,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show how far a release is, and do what is decided about it."""
        release = self._release(request, object_id)
        if request.POST.get("act") == "bounds":
            return self._set_bounds(request, release)
        form = NoteForm(request.POST or None)
        trouble = ""
        if request.method == "POST" and form.is_valid():
            trouble = self._act(request, release, form.cleaned_data["note"])
            if not trouble:
                return redirect(PAGE, release.pk)
            release = self._release(request, object_id)
        context = {**_shown(release), "form": form, "trouble": trouble}
        response = self._page(request, "release", f"Release of {release.version}", **context)
        response.status_code = 409 if trouble else 422 if form.errors else 200
        return response

    def _set_bounds(self, request: Any, release: Release) -> HttpResponse:
        bounds = BoundsForm(request.POST)
        trouble = "Give each bound as a number."
        if bounds.is_valid():
            try:
                guards.set_bounds(release, bounds.bounds(), by=request.user)
            except (NotPossible, Denied) as error:
                trouble = str(error)
            else:
                self.message_user(request, "The bounds of the release hold from now on.")
                return redirect(PAGE, release.pk)
        shown = _shown(release)
        shown["bounds"] = shown["bounds"] and bounds
        context = {**shown, "form": NoteForm(), "trouble": trouble}
        response = self._page(request, "release", f"Release of {release.version}", **context)
        response.status_code = 409
        return response

    def _act(self, request: Any, release: Release, note: str) -> str:
        """Do what was asked for; return why it can't be done, or nothing."""
        verb, says = ACTS.get(request.POST.get("act", ""), (None, ""))
        if verb is None:
            return "Choose what to do with the release."
        release.step = _step_seen(request)
        try:
            after = verb(release, note=note, by=request.user)
        except (NotPossible, Denied) as error:
            return str(error)
        told = {"number": after.version.number, "before": after.replaces.number}
        self.message_user(request, says.format(share=percent(after.share), **told))
        return ""

    def _release(self, request: HttpRequest, object_id: str) -> Release:
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            pk = UUID(str(object_id))
        except ValueError as error:
            raise Http404("There is no such release.") from error
        releases: QuerySet[Release] = Release.objects.select_related(
            "template", "version__template", "replaces__template", "began_by"
        )
        found = releases.filter(pk=pk).first()
        if found is None:
            raise Http404("There is no such release.")
        return found

    def _page(self, request: HttpRequest, name: str, title: str, **more: Any) -> TemplateResponse:
        may_publish = allowed(request.user, Permission.PUBLISH_PROMPTS)
        version = more["version"]
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "may_publish": may_publish,
            "may_view_audit": allowed(request.user, Permission.VIEW_AUDIT),
            "own": not version.permits(request.user, Permission.PUBLISH_PROMPTS),
            **more,
        }
        return TemplateResponse(request, f"admin/prompts/release/{name}.html", context)


def _shown(release: Release) -> dict[str, Any]:
    """Return what the page of a release shows. Nine queries at most."""
    can_be_bound = release.is_under_way and not guards.is_begun(release)
    progress = rollout.progress_of(release) if release.is_under_way else None
    standing = guards.standing(release)
    return {
        "release": release,
        "version": release.version,
        "template": release.template,
        "progress": progress,
        "next_share": _next_share(release, progress),
        "steps": rollout.steps_of(release),
        "early_role": ROLES[release.early_role].label if release.early_role in ROLES else "",
        "early_people": User.objects.filter(pk__in=release.early_people).order_by("name", "email"),
        "guards": standing,
        "is_compared": any(line.canary for line in standing),
        "compared": arm_comparison.compared(release),
        "bounds": BoundsForm(initial=asdict(guards.bounds_of(release))) if can_be_bound else None,
        "decisions": release.decisions.select_related("by"),
    }


def _step_seen(request: Any) -> int:
    """Return the step that the page showed on which somebody pressed; -1 for none."""
    step = request.POST.get("step", "")
    return int(step) if step.isdecimal() and len(step) < 3 else -1


def _next_share(release: Release, progress: Progress | None) -> str:
    if progress is None or progress.is_last:
        return ""
    return rollout.steps_of(release)[release.step + 1].percent
