"""What a compliance officer reads under a break-glass grant: pages without a socket or a command.

They are the owner's templates without composer, list and acts. A banner on each says under which
matter and for how long. Nothing of them is kept by the browser, so that "back" shows nothing later.
"""

import math
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_GET,
    require_http_methods,
    require_POST,
    require_safe,
)

from accounts.access import requires
from accounts.http import Request
from accounts.roles import Permission
from chatbot.database import db
from conversations.break_glass import counsel_export
from conversations.break_glass import grants as break_glass
from conversations.models import BreakGlassGrant, Conversation, CounselExport
from conversations.sealed_file import SealedFile

View = Callable[..., HttpResponseBase]


def _under_grant(view: View) -> View:
    """Call `view(request, grant, …)` while the grant holds; else show why it does not, as 403."""

    @wraps(view)
    def guarded(request: Request, grant_id: uuid.UUID, **given: Any) -> HttpResponseBase:
        try:
            grant = break_glass.opened(grant_id, by=request.user)
            return view(request, grant, **given)
        except (BreakGlassGrant.DoesNotExist, Conversation.DoesNotExist) as error:
            raise Http404 from error
        except break_glass.NotReadable as why:
            context = {"sentence": str(why)}
            return render(request, "conversations/break_glass_closed.html", context, status=403)

    return guarded


@require_safe
@never_cache
@requires(Permission.BREAK_GLASS)
@_under_grant
def listing(request: Request, grant: BreakGlassGrant) -> HttpResponse:
    """Which conversations the grant opens, newest first."""
    found = break_glass.listed(grant, by=request.user)
    context = {
        **_banner(grant),
        "whose": break_glass.name_and_email(grant.person)[0] if grant.person else "",
        "found": found,
        "most": break_glass.LISTED,
        "has_holds": counsel_export.holds_over(grant).exists(),
    }
    return render(request, "conversations/break_glass_list.html", context)


@require_safe
@never_cache
@requires(Permission.BREAK_GLASS)
@_under_grant
def conversation(
    request: Request, grant: BreakGlassGrant, conversation_id: uuid.UUID
) -> HttpResponse:
    """One conversation, to be read."""
    before = _uuid(request.GET.get("before", ""))
    page = break_glass.read(grant, conversation_id, by=request.user, before=before)
    asker, email = break_glass.name_and_email(page.conversation.owner)
    about = {"page": page, "read_only": True, "asker": asker, "email": email}
    context = {**_banner(grant), **about}
    return render(request, "conversations/break_glass_conversation.html", context)


# --- what a hold keeps, for counsel -----------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.BREAK_GLASS)
@_under_grant
def export(request: Request, grant: BreakGlassGrant) -> HttpResponseBase:
    """The holds that keep something of the scope; a POST asks for the file of one."""
    if request.method == "POST":
        hold_id = _uuid(request.POST.get("hold", ""))
        try:
            counsel_export.request_export(grant, hold_id or uuid.UUID(int=0), by=request.user)
        except counsel_export.ExportRefused as refused:
            messages.error(request, str(refused))
        return redirect("counsel_export", grant.pk)
    context = {
        **_banner(grant),
        "holds": counsel_export.holds_over(grant),
        "exports": _exports_of(grant),
    }
    return render(request, "conversations/counsel_export.html", context)


@require_safe
@never_cache
@requires(Permission.BREAK_GLASS)
@_under_grant
def export_jobs(request: Request, grant: BreakGlassGrant) -> HttpResponseBase:
    """Show how far the exports are, as a piece of the page."""
    context = {"grant": grant, "exports": _exports_of(grant)}
    return render(request, "conversations/_counsel_exports.html", context)


@require_GET
@never_cache
@requires(Permission.BREAK_GLASS)
@_under_grant
def download(request: Request, grant: BreakGlassGrant, export_id: uuid.UUID) -> HttpResponseBase:
    """Hand out the file of an export, opened piece by piece."""
    try:
        made, file = counsel_export.opened(grant, export_id, by=request.user)
    except counsel_export.ExportRefused as refused:
        messages.error(request, str(refused))
        return redirect("counsel_export", grant.pk)
    return StreamingHttpResponse(
        _pieces(file),
        content_type="application/zip",
        headers={
            "Content-Disposition": f'attachment; filename="held-content-{made.pk}.zip"',
            "Content-Length": str(made.size),
        },
    )


async def _pieces(file: SealedFile) -> AsyncIterator[bytes]:
    """Read and open beside the event loop, which goes on with others meanwhile."""
    pieces = file.pieces()
    while (piece := await db(next)(pieces, None)) is not None:
        yield piece


def _exports_of(grant: BreakGlassGrant) -> list[CounselExport]:
    return list(grant.exports.select_related("hold"))


# --- what all of them share -------------------------------------------------------------------


@require_POST
@requires(Permission.BREAK_GLASS)
def end(request: Request, grant_id: uuid.UUID) -> HttpResponse:
    """End the access and go to what is recorded about it."""
    try:
        break_glass.end(grant_id, by=request.user)
    except BreakGlassGrant.DoesNotExist as error:
        raise Http404 from error
    return redirect("admin:conversations_breakglassgrant_change", grant_id)


def _banner(grant: BreakGlassGrant) -> dict[str, Any]:
    """Return what the banner tells."""
    assert grant.ends_at is not None, "an active grant has an end"
    return {"grant": grant, "left": time_left(grant.ends_at - datetime.now(UTC))}


def time_left(left: timedelta) -> str:
    """Return a span as people say it, rounded up to a minute."""
    minutes = max(1, math.ceil(left.total_seconds() / 60))
    if minutes < 120:
        return f"{minutes} minute{'' if minutes == 1 else 's'}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
