"""The editors' workplace: templates, their versions, drafts, releases."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Prefetch, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.html import format_html

from accounts.access import allowed
from accounts.admin import DiscreetAdmin
from accounts.roles import ROLES, Permission
from prompts import publishing
from prompts.admin.forms import DraftForm, NoteForm, TemplateForm
from prompts.calling import Tried
from prompts.comparison import Comparison, compare
from prompts.evaluation import gate
from prompts.evaluation.runs import may_evaluate
from prompts.figures import reports
from prompts.figures.reports import Sums
from prompts.models import PromptTemplate, PromptVersion, Release
from prompts.publishing import Conflict, NotPossible, Terms
from prompts.release import rollout
from prompts.rendering import Refused
from prompts.serving import GENERAL_ASSISTANT

PAGE = "admin:prompts_prompttemplate_change"
VERSION_PAGE = "admin:prompts_promptversion_change"
WEEK = 7
FIRST_WORDS = "You are a helpful assistant. Say here how it answers, and what it never does."


@dataclass(frozen=True, slots=True)
class Column:
    """A reply in the playground under its heading, or why there is none."""

    heading: str
    tried: Tried | None = None
    refused: str = ""


class TemplateList(ChangeList):
    """The list of templates, each with the figures of its last WEEK. One query for all."""

    def get_results(self, request: HttpRequest) -> None:
        """Find the templates, and their figures."""
        super().get_results(request)
        shown: Iterable[Any] = self.result_list
        by_template = reports.sums(
            by=["version__template"],
            histograms=["first_token"],
            version__template__in=[template.pk for template in shown],
            day__gte=reports.first_day(WEEK),
        )
        for template in shown:
            template.week = by_template.get((template.pk,))


def _week(template: PromptTemplate) -> Sums | None:
    found: Sums | None = template.week  # type: ignore[attr-defined]
    return found


def _of_week(template: PromptTemplate, metric: str, name: str) -> str:
    return _named(reports.METRICS[metric].shown(_week(template)), name)


def _named(words: str, name: str) -> str:
    """Return a figure with its name, for narrow screens that show no heads of columns."""
    return format_html('{}<span class="for-blocks"> {}</span>', words, name)


def _in_words(week: Sums | None) -> str:
    if week is None:
        return reports.UNKNOWN
    turns, errors = reports.METRICS["turns"], reports.METRICS["errors"]
    return f"{turns.shown(week)} turns, {errors.shown(week)} errors"


@admin.register(PromptTemplate)
class PromptTemplateAdmin(DiscreetAdmin):
    """Templates: read by those who may see prompts, written by editors, released by publishers."""

    form = TemplateForm
    list_display = (
        *("name", "live", "releasing", "turns", "errors", "first_token", "cost", "thumbs"),
        *("state", "drafts", "for_whom"),
    )
    list_select_related = ("live_version",)
    search_fields = ("name", "slug", "purpose")
    ordering = ("name",)
    actions = None
    show_full_result_count = False

    # --- who may do what -----------------------------------------------------------------------

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Say whether this person may edit prompts."""
        return allowed(request.user, Permission.EDIT_PROMPTS)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Do as `has_add_permission`: publishers change nothing."""
        return allowed(request.user, Permission.EDIT_PROMPTS)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say whether this person may see prompts."""
        return allowed(request.user, Permission.VIEW_PROMPTS)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no: replies name their version. Pause it instead."""
        return False

    # --- the list --------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[PromptTemplate]:
        """Count the drafts with the templates."""
        drafts = Count("versions", filter=Q(versions__published_at=None))
        templates: QuerySet[PromptTemplate] = super().get_queryset(request)
        under_way = Release.objects.filter(state__in=Release.UNDER_WAY).select_related("version")
        released = Prefetch("releases", under_way, to_attr="under_way")
        return templates.annotate(draft_count=drafts).prefetch_related(released)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return a list that knows the figures of its templates."""
        return TemplateList

    @admin.display(description="live version", empty_value="none")
    def live(self, template: PromptTemplate) -> str | None:
        """Return the number of the live version, and since when it is published."""
        version = template.live_version
        if version is None or version.published_at is None:
            return None
        return f"v{version.number}, {version.published_at:%-d %b %Y}"

    @admin.display(description="release", empty_value="none")
    def releasing(self, template: PromptTemplate) -> str | None:
        """Return the version that is on its way, and how far it is."""
        found: list[Release] = template.under_way  # type: ignore[attr-defined]
        return next((f"v{one.version.number}: {one.where}" for one in found), None)

    @admin.display(description="turns, 7 days")
    def turns(self, template: PromptTemplate) -> str:
        """Return how many turns its versions served in the last seven days."""
        return _of_week(template, "turns", "turns")

    @admin.display(description="errors")
    def errors(self, template: PromptTemplate) -> str:
        """Return the share of these turns that failed."""
        return _of_week(template, "errors", "errors")

    @admin.display(description="first token, p50")
    def first_token(self, template: PromptTemplate) -> str:
        """Return how long half of the people waited at most."""
        return _of_week(template, "first-token", "first token")

    @admin.display(description="cost")
    def cost(self, template: PromptTemplate) -> str:
        """Return what all these turns cost together."""
        found = _week(template)
        return _named(reports.dollars(found.of("cost_usd")) if found else reports.UNKNOWN, "cost")

    @admin.display(description="thumbs up")
    def thumbs(self, template: PromptTemplate) -> str:
        """Return the share of thumbs up."""
        return _of_week(template, "thumbs-up", "thumbs up")

    @admin.display(description="state")
    def state(self, template: PromptTemplate) -> str:
        """Say whether people can choose it."""
        if template.live_version_id is None:
            return "not published"
        return "paused" if template.is_paused else "on offer"

    @admin.display(description="drafts", ordering="draft_count")
    def drafts(self, template: PromptTemplate) -> str:
        """Return how many versions are still being written."""
        return _named(str(template.draft_count), "drafts")  # type: ignore[attr-defined]

    @admin.display(description="for")
    def for_whom(self, template: PromptTemplate) -> str:
        """Return the roles as people call them."""
        labels = [ROLES[slug].label for slug in template.roles if slug in ROLES]
        return ", ".join(labels) or "everybody"

    # --- addresses -------------------------------------------------------------------------------

    def get_urls(self) -> list[Any]:
        """Put the pages of templates and versions before Django's own."""

        def page(route: str, view: Callable[..., HttpResponse], name: str) -> Any:
            return path(route, self.admin_site.admin_view(view), name=f"prompts_{name}")

        one, version = "<uuid:object_id>", "versions/<uuid:object_id>"
        return [
            page(f"{one}/settings/", self.settings_view, "prompttemplate_settings"),
            page(f"{one}/pause/", self.pause_view, "prompttemplate_pause"),
            page(f"{one}/draft/", self.draft_view, "prompttemplate_draft"),
            page(f"{version}/", self.version_view, "promptversion_change"),
            page(f"{version}/publish/", self.publish_view, "promptversion_publish"),
            page(f"{version}/restore/", self.restore_view, "promptversion_restore"),
            *super().get_urls(),
        ]

    # --- a template ------------------------------------------------------------------------------

    def get_prepopulated_fields(self, request: HttpRequest, obj: Any = None) -> dict[str, Any]:
        """Let the slug of a new template follow its name."""
        return {} if obj else {"slug": ("name",)}

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Keep the slug of a template: programs and the log name it."""
        return ("slug",) if obj else ()

    def settings_view(self, request: HttpRequest, object_id: UUID) -> HttpResponse:
        """Show or change names, purpose, owner and roles."""
        return self.changeform_view(request, str(object_id))

    def save_model(self, request: Any, obj: PromptTemplate, form: Any, change: bool) -> None:
        """Save it by the verb, which checks."""
        if not change and obj.owner is None:
            obj.owner = request.user
        publishing.save_template(obj, by=request.user)

    def response_post_save_add(self, request: HttpRequest, obj: PromptTemplate) -> HttpResponse:  # type: ignore[override]
        """Go on to the template's page."""
        return redirect(PAGE, obj.pk)

    def response_post_save_change(self, request: HttpRequest, obj: PromptTemplate) -> HttpResponse:  # type: ignore[override]
        """Go back to the template's page."""
        return redirect(PAGE, obj.pk)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a template with its versions, and any two of them side by side."""
        template = self._template(request, object_id)
        versions = list(
            template.versions.select_related("author", "published_by").prefetch_related("releases")
        )
        release = rollout.under_way(template)
        week = reports.sums(
            by=["version_id"],
            histograms=[],
            version__template=template,
            day__gte=reports.first_day(WEEK),
        )
        evaluated = gate.shown_runs(template)
        for version in versions:
            version.template = template
            version.week_in_words = _in_words(week.get((version.pk,)))  # type: ignore[attr-defined]
            version.evaluation = evaluated.get(version.content_hash)  # type: ignore[attr-defined]
        left, right = _chosen(request, versions, template)
        context = {
            "template": template,
            "versions": versions,
            "release": release,
            "steps": rollout.steps_of(release) if release else [],
            "left": left,
            "right": right,
            "comparison": _compared(left, right),
            "basis": template.live_version or (versions[0] if versions else None),
            "may_pause": template.slug != GENERAL_ASSISTANT and template.live_version_id,
            "may_view_audit": allowed(request.user, Permission.VIEW_AUDIT),
            "required_percent": gate.percent_of(template.required_score),
        }
        return self._page(request, "template", template.name, **context)

    def draft_view(self, request: Any, object_id: UUID) -> HttpResponse:
        """Begin a draft from a version, and open it."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        template = self._template(request, object_id)
        asked = _uuid(request.POST.get("from"))
        basis = template.versions.filter(pk=asked).first() if asked else None
        terms = Terms.of(basis) if basis else Terms(FIRST_WORDS)
        note = f"From v{basis.number}" if basis else ""
        begun = Terms(terms.content, terms.variables, terms.model, terms.parameters, note)
        draft = publishing.begin_draft(template, begun, by=request.user)
        return redirect(VERSION_PAGE, draft.pk)

    def pause_view(self, request: Any, object_id: UUID) -> HttpResponse:
        """Take a template off offer, or put it back, with a note."""
        template = self._template(request, object_id)

        def act(note: str) -> None:
            publishing.set_paused(template, not template.is_paused, by=request.user, note=note)

        verb = "Put back on offer" if template.is_paused else "Pause"
        return self._act(request, template, act, verb=verb, act="pause")

    # --- a version -------------------------------------------------------------------------------

    def version_view(self, request: Any, object_id: UUID) -> HttpResponse:
        """Show a version; let an editor go on with a draft."""
        version = self._version(request, object_id)
        if request.method == "POST":
            return self._save_draft(request, version)
        return self.version_page(request, version, DraftForm.of(version))

    def version_page(
        self,
        request: HttpRequest,
        version: PromptVersion,
        form: DraftForm,
        *,
        status: int = 200,
        **more: Any,
    ) -> HttpResponse:
        """Return the page of a version. `more`: `conflict`, `stored`, `columns`, `question`."""
        user = request.user
        is_open = version.is_draft and allowed(user, Permission.EDIT_PROMPTS)
        context = {
            "version": version,
            "template": version.template,
            "form": form,
            "is_open": is_open,
            "may_try": may_try(user),
            "may_evaluate": may_evaluate(user),
            **_gate_of(version.template, version),
            "told": _told(version),
            "own": user.pk in version.contributors,
            "settings": compare(Terms(""), Terms.of(version)).settings,
            **more,
        }
        title = f"{version.template.name} v{version.number}"
        response = self._page(request, "version", title, **context)
        response.status_code = status
        return response

    def _save_draft(self, request: Any, version: PromptVersion) -> HttpResponse:
        form = DraftForm(request.POST)
        terms = form.terms()
        if terms is None:
            return self.version_page(request, version, form, status=422)
        try:
            revision = form.cleaned_data["revision"]
            publishing.save_draft(version, terms, revision=revision, by=request.user)
        except Conflict as conflict:
            return self._conflict(request, form, terms, conflict.stored)
        except NotPossible as error:
            return self._published_meanwhile(request, version, terms, str(error))
        self.message_user(request, "The draft is saved.")
        return redirect(VERSION_PAGE, version.pk)

    def _conflict(
        self, request: HttpRequest, form: DraftForm, terms: Terms, stored: PromptVersion
    ) -> HttpResponse:
        form.goes_on_from(stored.revision)
        conflict = compare(Terms.of(stored), terms)
        return self.version_page(request, stored, form, status=409, conflict=conflict)

    def _published_meanwhile(
        self, request: Any, version: PromptVersion, terms: Terms, why: str
    ) -> HttpResponse:
        """Keep what was written, as a draft of its own: the version it was meant for is closed."""
        draft = publishing.begin_draft(version.template, terms, by=request.user)
        text = f"{why} Your text is kept as the draft v{draft.number}."
        self.message_user(request, text, messages.WARNING)
        return redirect(VERSION_PAGE, draft.pk)

    # --- releases --------------------------------------------------------------------------------

    def publish_view(self, request: Any, object_id: UUID) -> HttpResponse:
        """Show what would change for people, and publish it with a note."""
        version = self._version(request, object_id)

        def act(note: str) -> None:
            read = request.POST.get("content_hash", "")
            later = request.POST.get("reach") == "steps"
            publishing.publish(
                version, content_hash=read, note=note, by=request.user, for_release=later
            )

        return self._act(
            request, version.template, act, verb=f"Publish v{version.number}", version=version
        )

    def restore_view(self, request: Any, object_id: UUID) -> HttpResponse:
        """Show what would change for people, and make the version live again with a note."""
        version = self._version(request, object_id)

        def act(note: str) -> None:
            emergency = request.POST.get("emergency") == "yes"
            publishing.restore(version, note=note, by=request.user, is_emergency=emergency)

        verb = f"Restore v{version.number}"
        return self._act(request, version.template, act, verb=verb, version=version, act="restore")

    def _act(  # noqa: PLR0913 - what an act needs, by name
        self,
        request: Any,
        template: PromptTemplate,
        do: Callable[[str], None],
        *,
        verb: str,
        version: PromptVersion | None = None,
        act: str = "publish",
    ) -> HttpResponse:
        """Show the page of a deliberate act, or do it and go back to the template."""
        if not allowed(request.user, Permission.PUBLISH_PROMPTS):
            raise PermissionDenied("Your roles do not allow you to publish prompts.")
        form = NoteForm(request.POST or None)
        trouble = ""
        if request.method == "POST" and form.is_valid():
            try:
                do(form.cleaned_data["note"])
            except Conflict as conflict:
                version = conflict.stored
                trouble = "The draft was changed after you opened this page. Read it again below."
            except (NotPossible, Refused) as error:
                trouble = str(error)
            else:
                self.message_user(request, f"Done: {verb}.")
                return redirect(PAGE, template.pk)
        context = {
            "template": template,
            "version": version,
            "form": form,
            "verb": verb,
            "act": act,
            "trouble": trouble,
            "own": version is not None and request.user.pk in version.contributors,
            **(_gate_of(template, version) if version and act == "publish" else {}),
            "comparison": _compared(template.live_version, version),
        }
        response = self._page(request, "act", f"{verb}: {template.name}", **context)
        response.status_code = 409 if trouble else 200
        return response

    # --- what pages have in common ---------------------------------------------------------------

    def _page(self, request: HttpRequest, name: str, title: str, **more: Any) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "may_edit": allowed(request.user, Permission.EDIT_PROMPTS),
            "may_publish": allowed(request.user, Permission.PUBLISH_PROMPTS),
            "may_gate": allowed(request.user, Permission.GATE_PROMPTS),
            **more,
        }
        return TemplateResponse(request, f"admin/prompts/prompttemplate/{name}.html", context)

    def _template(self, request: HttpRequest, object_id: object) -> PromptTemplate:
        if not self.has_view_permission(request):
            raise PermissionDenied
        templates = PromptTemplate.objects.select_related("live_version", "owner", "required_set")
        asked = _uuid(str(object_id))
        found = templates.filter(pk=asked).first() if asked else None
        if found is None:
            raise Http404("There is no such template.")
        if found.live_version:
            found.live_version.template = found
        return found

    def _version(self, request: HttpRequest, object_id: UUID) -> PromptVersion:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return version_of(object_id)


def version_of(version_id: UUID) -> PromptVersion:
    """Return a version with its template and the template's live version. Raises Http404."""
    live = Prefetch("template__live_version", PromptVersion.objects.select_related("template"))
    versions = PromptVersion.objects.select_related(
        "template__required_set", "author", "published_by"
    )
    found = versions.prefetch_related(live).filter(pk=version_id).first()
    if found is None:
        raise Http404("There is no such version.")
    return found


def may_try(user: Any) -> bool:
    """Whether this person may use the playground: who writes prompts, and who releases them."""
    releases = allowed(user, Permission.EDIT_PROMPTS) or allowed(user, Permission.PUBLISH_PROMPTS)
    return releases and allowed(user, Permission.CHAT)


def _chosen(
    request: HttpRequest, versions: Sequence[PromptVersion], template: PromptTemplate
) -> tuple[PromptVersion | None, PromptVersion | None]:
    """Return the two versions to compare: those asked for, else the live one and the newest."""
    by_number = {str(version.number): version for version in versions}
    live = next((one for one in versions if one.pk == template.live_version_id), None)
    newest = next((one for one in versions if one.pk != template.live_version_id), None)
    if live and newest and newest.number < live.number:
        live, newest = newest, live
    left = by_number.get(request.GET.get("left", ""), live)
    right = by_number.get(request.GET.get("right", ""), newest)
    return left, right


def _compared(left: PromptVersion | None, right: PromptVersion | None) -> Comparison | None:
    if right is None or (left and left.pk == right.pk):
        return None
    return compare(Terms.of(left) if left else Terms(""), Terms.of(right))


def _gate_of(template: PromptTemplate, version: PromptVersion) -> dict[str, Any]:
    """Return what keeps a draft from being published, and its last evaluation. Three queries."""
    return {
        "gate": gate.missing(template, version) if version.is_draft else "",
        "evaluation": gate.shown_runs(template).get(version.content_hash),
    }


def _told(version: PromptVersion) -> str:
    """Return the text as a turn is told it now, or why that can't be."""
    try:
        return Terms.of(version).rendered()
    except Refused as refused:
        return str(refused)


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None


def page_of(request: HttpRequest, version: PromptVersion, form: DraftForm, **more: Any) -> bytes:
    """Return the page of a version, rendered, for views outside of the admin site."""
    workplace = admin.site.get_model_admin(PromptTemplate)
    assert isinstance(workplace, PromptTemplateAdmin)
    response = workplace.version_page(request, version, form, **more)
    assert isinstance(response, TemplateResponse)
    content: bytes = response.render().content
    return content
