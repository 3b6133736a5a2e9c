"""The page "Your data" and the commands on it: a file of everything, delete, undo, erase.

All are forms, so they work without JavaScript. No role is asked for: whoever may no longer chat has
these rights all the same.
"""

import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC
from typing import Any, cast

from allauth.account.forms import ReauthenticateForm
from allauth.decorators import rate_limit
from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_GET,
    require_http_methods,
    require_POST,
    require_safe,
)

from accounts.administration import LastAdministratorError
from accounts.http import Request
from accounts.models import User
from chatbot.database import db
from conversations.models import Conversation, Message, PersonExport
from conversations.reply.runner import runner
from conversations.rights import deleting as rights
from conversations.rights import erasure, person_export
from conversations.rights.person_export import ExportRefused
from conversations.sealed_file import SealedFile


@never_cache
@require_safe
@login_required
def your_data(request: Request) -> HttpResponse:
    """Say what people may do with what is held about them."""
    conversations = Conversation.objects.visible_to(request.user)
    context = {
        "export": _newest_export(request.user),
        "deletions": rights.deletions(request.user),
        "count": conversations.count(),
        "undo_minutes": settings.DELETION_UNDO_MINUTES,
    }
    return render(request, "rights/your_data.html", context)


# --- the file of everything -------------------------------------------------------------------


@require_POST
@login_required
def request_export(request: Request) -> HttpResponse:
    """Ask for the file of everything that is held about oneself."""
    try:
        person_export.request_export(by=request.user)
    except ExportRefused as refused:
        messages.error(request, str(refused))
    return redirect("your_data")


@never_cache
@require_safe
@login_required
def export_job(request: Request) -> HttpResponse:
    """Show how far one's newest export is, as a piece of the page."""
    return render(request, "rights/_export.html", {"export": _newest_export(request.user)})


@never_cache
@require_GET
@login_required
def download_export(request: Request, export_id: uuid.UUID) -> HttpResponseBase:
    """Hand out one's own file, opened piece by piece."""
    export = get_object_or_404(PersonExport, pk=export_id, person=request.user)
    try:
        file = person_export.opened(export, by=request.user)
    except ExportRefused as refused:
        messages.error(request, str(refused))
        return redirect("your_data")
    name = f"parley-{timezone.now().astimezone(UTC):%Y-%m-%d}.zip"
    return StreamingHttpResponse(
        _pieces(file),
        content_type="application/zip",
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Content-Length": str(export.size),
        },
    )


async def _pieces(file: SealedFile) -> AsyncIterator[bytes]:
    """Read and open beside the event loop, which goes on with others meanwhile."""
    pieces = file.pieces()
    while (piece := await db(next)(pieces, None)) is not None:
        yield piece


def _newest_export(user: User) -> PersonExport | None:
    """Return the export that the page speaks of; none when the last one is over."""
    newest = user.exports.order_by("-requested_at").first()
    return newest if newest and newest.state != PersonExport.State.EXPIRED else None


# --- deleting ---------------------------------------------------------------------------------


@require_POST
@login_required
async def delete(request: HttpRequest, conversation_id: uuid.UUID) -> HttpResponse:
    """Delete one's own conversation, and say so where it can be undone."""
    try:
        replies = await db(rights.delete)(conversation_id, by=await _person(request))
    except Conversation.DoesNotExist:
        return redirect("new_conversation")  # another tab was quicker
    await _stopped(replies)
    return redirect(f"{reverse('new_conversation')}?deleted={conversation_id}")


@require_POST
@login_required
async def delete_all(request: HttpRequest) -> HttpResponse:
    """Delete all of one's conversations."""
    await _stopped(await db(rights.delete_all)(by=await _person(request)))
    return redirect("your_data")


async def _person(request: HttpRequest) -> User:
    return cast("User", await request.auser())


async def _stopped(replies: Sequence[Message]) -> None:
    for reply in replies:
        await runner().stop(reply)


@require_POST
@login_required
def undo(request: Request, conversation_id: uuid.UUID) -> HttpResponse:
    """Take back a deletion, and go to what is there again."""
    count = rights.undo(conversation_id, by=request.user)
    if not count:
        messages.error(request, "It is too late: what you deleted is destroyed.")
        return redirect("your_data")
    if count == 1:
        return redirect("conversation", conversation_id)
    messages.success(request, f"{count} conversations are back.")
    return redirect("your_data")


# --- erasing ----------------------------------------------------------------------------------


class EraseForm(ReauthenticateForm):  # type: ignore[misc] # django-allauth has no types
    """The password once more, and a check that it is meant."""

    sure = forms.BooleanField(
        error_messages={"required": "Check this if you want to erase your account."}
    )


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
@rate_limit(action="reauthenticate")  # type: ignore[untyped-decorator]
def erase(request: Request) -> HttpResponse:
    """Say what erasing means, and erase the account."""
    sent = request.POST if request.method == "POST" else None
    form: Any = EraseForm(sent, user=request.user)
    if form.is_valid():
        try:
            return _erased(request)
        except LastAdministratorError as error:
            form.add_error(None, str(error))
    context = {"form": form, "count": Conversation.objects.visible_to(request.user).count()}
    return render(request, "rights/erase.html", context, status=200 if sent is None else 400)


def _erased(request: Request) -> HttpResponse:
    """Erase, and answer somebody whom nobody knows any more. Raises LastAdministratorError."""
    erasure.erase(request.user, by=request.user)
    # Not signed out by the usual way, which would record once more who it was.
    request.session.flush()
    request.user = AnonymousUser()  # type: ignore[assignment]
    return render(request, "rights/erased.html")
