"""The playground: a wording that is not saved, answered beside the live version.

A form of the version's page is sent here. With JavaScript the replies arrive word by word
(`static/js/playground.js`, server-sent events); without it the page comes back when they ended.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing

import orjson
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string
from django.views.decorators.http import require_POST, require_safe

from accounts.access import requires
from accounts.http import wants_fragment
from accounts.models import User
from audit.trail import arecord
from chatbot.database import db
from prompts.admin.forms import DraftForm
from prompts.admin.templates import Column, may_try, page_of, version_of
from prompts.calling import NotTried, Tried, UnknownTrial, guarded
from prompts.models import PromptVersion, hash_of
from prompts.publishing import Terms
from prompts.rendering import Refused, stored_form
from prompts.serving import Wording, rendered

PATIENCE_SECONDS = 120.0
_TRIALS = "admin/prompts/prompttemplate/_trials.html"
_COLUMN = "admin/prompts/prompttemplate/_trial.html"


@require_POST
@requires("prompts.view")
async def try_out(request: HttpRequest, version_id: uuid.UUID) -> HttpResponse:
    """Have a question answered under the text of the form, and under the live version."""
    user = _player(request)
    version = await db(version_of)(version_id)
    form, terms = await db(_terms)(request, version, user)
    question = request.POST.get("question", "")
    columns: list[Column] = []
    if terms:
        columns = await _begun(version, terms, question, user)
    if wants_fragment(request):
        context = {"columns": columns, "form": form}
        return await db(render)(request, _TRIALS, context, status=200 if terms else 422)
    columns = [await _ended(column, user) for column in columns]
    page = await db(page_of)(request, version, form, columns=columns, question=question)
    return HttpResponse(page, status=200 if terms else 422)


def _player(request: HttpRequest) -> User:
    """Return who may try wordings. Raises PermissionDenied."""
    user = request.user
    assert isinstance(user, User), "`requires` has made sure of it"
    if not may_try(user):
        raise PermissionDenied("Trying prompts is for those who write or release them.")
    return user


def _terms(
    request: HttpRequest, version: PromptVersion, user: User
) -> tuple[DraftForm, Terms | None]:
    """Return the form, and what is to be tried: of a version that is closed, what it says."""
    if "content" not in request.POST:
        return DraftForm.of(version), Terms.of(version)
    form = DraftForm(request.POST)
    return form, form.terms()


async def _begun(version: PromptVersion, terms: Terms, question: str, user: User) -> list[Column]:
    """Start both replies."""
    text = await db(terms.rendered)()
    is_stored = Terms.of(version) == terms and not version.is_draft
    wording = Wording(text, version if is_stored else None, terms.model, terms.parameters)
    heading = f"v{version.number}" if is_stored else f"v{version.number}, as it stands here"
    columns = [await _column(heading, wording, version, terms, question, user)]
    live = version.template.live_version
    if live and live.pk != version.pk:
        try:
            told = Wording(rendered(live), live, live.model, live.parameters)
        except Refused as refused:
            return [*columns, Column(f"v{live.number}, live", refused=str(refused))]
        heading = f"v{live.number}, live"
        columns.append(await _column(heading, told, live, Terms.of(live), question, user))
    return columns


async def _column(  # noqa: PLR0913, PLR0917 - what a column tells
    heading: str,
    wording: Wording,
    version: PromptVersion,
    terms: Terms,
    question: str,
    user: User,
) -> Column:
    try:
        trial_id = await guarded().begin(wording, question, by=user)
    except NotTried as refusal:
        return Column(heading, refused=f"{refusal.headline} {refusal.sentence}")
    said = hash_of(terms.content, stored_form(terms.variables), terms.model, dict(terms.parameters))
    await arecord(
        user,
        "prompt.tried",
        ("prompts.prompttemplate", str(version.template_id)),
        version=str(version.pk),
        content_hash=said,
        reply=str(trial_id),
    )
    return Column(heading, Tried(trial_id, "", is_open=True))


async def _ended(column: Column, user: User) -> Column:
    if column.tried is None:
        return column
    calls = guarded()
    tried = await calls.ended(column.tried.id, by=user, within_seconds=PATIENCE_SECONDS)
    return Column(column.heading, tried)


@require_safe
@requires("prompts.view")
async def stream(request: HttpRequest, trial_id: uuid.UUID) -> HttpResponseBase:
    """Tell one reply as server-sent events (WHATWG HTML, section 9.2).

    `begin` (what was told before is told again), `text` with a piece, and `end` with the column's
    HTML; data is JSON.
    """
    user = _player(request)
    told = guarded().follow(trial_id, by=user)
    try:
        first = await anext(told)
    except UnknownTrial as error:
        raise Http404 from error
    heading = request.GET.get("heading", "")[:80]

    async def events() -> AsyncIterator[bytes]:
        async with aclosing(told):
            yield _event("begin", "")
            one: str | Tried | None = first
            while one is not None:
                yield await _told(one, heading)
                one = await anext(told, None)

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(events(), content_type="text/event-stream", headers=headers)


async def _told(one: str | Tried, heading: str) -> bytes:
    if isinstance(one, str):
        return _event("text", one)
    context = {"column": Column(heading, one)}
    return _event("end", await asyncio.to_thread(render_to_string, _COLUMN, context))


def _event(name: str, data: str) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))
