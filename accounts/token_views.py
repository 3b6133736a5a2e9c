"""A person's API tokens: made, shown once, listed, revoked."""

import uuid
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from accounts.access import requires
from accounts.http import Request
from accounts.models import ApiToken
from accounts.tokens import NewToken, TooManyTokens, make_token, revoke_token

LIFETIMES = (("30", "30 days"), ("90", "90 days"), ("365", "One year"), ("0", "No end"))


class TokenForm(forms.Form):
    """What a new token is called, what it opens, and how long."""

    name = forms.CharField(max_length=80)
    scopes = forms.MultipleChoiceField(
        choices=ApiToken.Scope.choices,
        error_messages={"required": "Choose at least one thing that it opens."},
    )
    days = forms.ChoiceField(choices=LIFETIMES, initial="90")

    @property
    def lasts(self) -> timedelta | None:
        """How long the token is to last; None for no end."""
        return timedelta(days=int(self.cleaned_data["days"])) or None


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@requires("conversations.chat")
def tokens(request: Request) -> HttpResponse:
    """List the tokens that were not revoked; make one, and show its secret this once."""
    sent = request.POST if request.method == "POST" else None
    form = TokenForm(sent, initial={"scopes": ["chat"], "days": "90"})
    made = _make(request, form) if form.is_valid() else None
    context: dict[str, Any] = {
        "form": TokenForm(initial=form.initial) if made else form,
        "made": made,
        "tokens": request.user.api_tokens.filter(revoked_at=None),
    }
    status = 400 if form.is_bound and made is None else 200
    return render(request, "accounts/tokens.html", context, status=status)


def _make(request: Request, form: TokenForm) -> NewToken | None:
    given = form.cleaned_data
    try:
        return make_token(
            request.user,
            name=given["name"],
            scopes=given["scopes"],
            lasts=form.lasts,
            by=request.user,
        )
    except TooManyTokens as error:
        form.add_error(None, str(error))
        return None


@require_POST
@requires("conversations.chat")
def revoke(request: Request, token_id: uuid.UUID) -> HttpResponse:
    """Revoke one of one's own tokens."""
    token = get_object_or_404(request.user.api_tokens, pk=token_id)
    if revoke_token(token, by=request.user):
        messages.success(request, f"The token {token.name} opens nothing any more.")
    return redirect("tokens")
