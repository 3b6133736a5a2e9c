"""Who calls: the account behind a bearer token (RFC 6750), and what the token opens.

The token that is found is the request's `auth`, by which entries of the request know who acts. One
that opens nothing is recorded, at most once a minute for each token or network and reason.
"""

from django.http import HttpRequest
from ninja.security import HttpBearer

from accounts.access import require
from accounts.models import ApiToken
from accounts.roles import Permission
from accounts.tokens import token_of, why_refused
from audit.trail import ANONYMOUS, record_sparingly
from chatbot.database import db
from conversations.doors.problems import Problem


class Bearer(HttpBearer):
    """Admits requests whose token opens `scope`; a session cookie counts for nothing."""

    def __init__(self, scope: str) -> None:
        super().__init__()
        self.scope = ApiToken.Scope(scope)

    async def authenticate(self, request: HttpRequest, token: str) -> ApiToken:
        """Return the token. Raises Problem and Denied."""
        return await caller(request, token.strip(), self.scope)


async def caller(request: HttpRequest, secret: str, scope: ApiToken.Scope) -> ApiToken:
    """Return the token with this secret, its account loaded with roles, as the request's `auth`.

    Raises Problem for no usable token or a scope that it lacks, Denied for roles that do not allow
    conversations.
    """
    return await db(_admitted)(request, secret, scope)


def _admitted(request: HttpRequest, secret: str, scope: ApiToken.Scope) -> ApiToken:
    token = token_of(secret)
    if token is None:
        if secret:
            standing, reason = why_refused(secret)
            record_sparingly(
                ANONYMOUS,
                "token.refused",
                standing,
                outcome="denied",
                reason=reason,
                each=str(standing.pk) if standing else "",
                scope=scope.value,
            )
        raise Problem("unauthorised")
    request.auth = token  # type: ignore[attr-defined]  # as Django Ninja does when we return
    require(token.user, Permission.CHAT)
    if scope.value not in token.scopes:
        record_sparingly(
            token.user,
            "token.refused",
            token,
            outcome="denied",
            reason="scope",
            each=f"{token.pk} {scope.value}",
            scope=scope.value,
        )
        raise Problem("forbidden_scope", scope=scope.value)
    return token


def secret_in(request: HttpRequest) -> str:
    """Return what the Authorization header holds as bearer token, or an empty string."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""
