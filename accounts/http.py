"""Requests as our views see them."""

from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest
from django.utils.http import url_has_allowed_host_and_scheme

if TYPE_CHECKING:
    from django_htmx.middleware import HtmxDetails

    from accounts.models import User

Theme = Literal["system", "light", "dark"]
THEMES: tuple[Theme, ...] = ("system", "light", "dark")
THEME_COOKIE = "theme"
THEME_COOKIE_SECONDS = 365 * 24 * 3600


class Request(HttpRequest):
    """A request of somebody who is signed in: what a view behind `requires` receives."""

    user: "User"
    htmx: "HtmxDetails"


def wants_fragment(request: HttpRequest) -> bool:
    """Say whether htmx will swap the answer into the page, so that a fragment is enough."""
    htmx: HtmxDetails = request.htmx  # type: ignore[attr-defined]
    return bool(htmx) and not (htmx.boosted or htmx.history_restore_request)


def appearance(request: HttpRequest) -> dict[str, Theme]:
    """Context processor: `theme`, as chosen in this browser."""
    chosen = request.COOKIES.get(THEME_COOKIE)
    return {"theme": next((theme for theme in THEMES if theme == chosen), "system")}


def client_address(request: HttpRequest) -> str:
    """Return the address of the client, or an empty string on a unix socket.

    `X-Forwarded-For` counts only when TRUSTED_PROXIES says how many proxies of ours stand in front:
    each appends the address it saw, so the client's is the one that the outermost of them appended.
    """
    proxies: int = settings.TRUSTED_PROXIES
    passed = [part.strip() for part in request.headers.get("X-Forwarded-For", "").split(",")]
    if proxies and len(passed) >= proxies and passed[-proxies]:
        return passed[-proxies]
    return str(request.META.get("REMOTE_ADDR") or "")


def safe_path(request: HttpRequest, url: str | None) -> str:
    """Return `url` when it leads to this site, else the front page."""
    hosts = {request.get_host()}
    if url and url_has_allowed_host_and_scheme(url, hosts, require_https=request.is_secure()):
        return url
    return "/"


def page_to_return_to(request: HttpRequest) -> str:
    """Return the path of the page that the person has before them.

    That is the one asked for, or, with a form or a fragment, the one it stands in.
    """
    standing_in = request.headers.get("HX-Current-URL") or request.headers.get("Referer")
    if request.method in {"GET", "HEAD"} and "HX-Request" not in request.headers:
        return request.get_full_path()
    parts = urlsplit(safe_path(request, standing_in))
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
