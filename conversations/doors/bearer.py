"""Who calls: the account behind a bearer token (RFC 6750), and what the token opens."""

from django.http import HttpRequest
from ninja.security import HttpBearer

from accounts.access import require
from accounts.models import ApiToken
from accounts.roles import Permission
from accounts.tokens import token_of
from chatbot.database import db
from conversations.doors.problems import Problem


class Bearer(HttpBearer):
    """Admits requests whose token opens `scope`; a session cookie counts for nothing."""

    def __init__(self, scope: str) -> None:
        super().__init__()
        self.scope = ApiToken.Scope(scope)

    async def authenticate(self, request: HttpRequest, token: str) -> ApiToken:
        """Return the token. Raises Problem and Denied."""
        return await caller(token.strip(), self.scope)


async def caller(secret: str, scope: ApiToken.Scope) -> ApiToken:
    """Return the token with this secret, its account loaded with roles.

    Raises Problem for no usable token or a scope that it lacks, Denied for roles that do not allow
    conversations.
    """
    token = await db(_admitted)(secret)
    if token is None:
        raise Problem("unauthorised")
    if scope.value not in token.scopes:
        raise Problem("forbidden_scope", scope=scope.value)
    return token


def _admitted(secret: str) -> ApiToken | None:
    token = token_of(secret)
    if token:
        require(token.user, Permission.CHAT)
    return token


def secret_in(request: HttpRequest) -> str:
    """Return what the Authorization header holds as bearer token, or an empty string."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""
