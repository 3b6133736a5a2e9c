"""A person's own page, and how it looks to them."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Denied
from accounts.http import (
    THEME_COOKIE,
    THEME_COOKIE_SECONDS,
    THEMES,
    Request,
    page_to_return_to,
    safe_path,
)
from accounts.roles import ROLES
from accounts.signals import access_denied


@require_safe
@login_required
def account(request: Request) -> HttpResponse:
    """Show name, email, roles and the choice of a theme."""
    labels = [ROLES[slug].label for slug in ROLES if slug in request.user.roles]
    return render(request, "accounts/account.html", {"roles": labels})


@require_POST
def theme(request: HttpRequest) -> HttpResponse:
    """Keep the chosen theme in this browser for a year, and go back to where it was chosen.

    An unknown value means the system's.
    """
    chosen = request.POST.get("theme")
    back = request.POST.get("next") or page_to_return_to(request)
    response = HttpResponseRedirect(safe_path(request, back))
    response.set_cookie(
        THEME_COOKIE,
        chosen if chosen in THEMES else "system",
        max_age=THEME_COOKIE_SECONDS,
        samesite="Lax",
        secure=request.is_secure(),
        httponly=True,
    )
    return response


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer a form without a valid token: mostly a page from before signing in, or no cookies."""
    _announce_denial(request, "the form had no valid token")
    return render(request, "403_csrf.html", {"reason": reason}, status=403)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer 403, and announce what `accounts.access` did not: refusals of the administration."""
    if not isinstance(exception, Denied):
        _announce_denial(request, "not open to the roles of this account")
    return render(request, "403.html", status=403)


def _announce_denial(request: HttpRequest, reason: str) -> None:
    page = request.resolver_match.view_name if request.resolver_match else ""
    access_denied.send(
        sender=Denied, user=request.user, permission="", obj=None, reason=reason, page=page
    )
