"""That somebody read in the administration: which page, by which filter, by a search or not.

Every page of the admin site passes here (`chatbot.apps.ParleyAdminSite`), but for those of the log
itself, which record it themselves (`audit.admin`). An entry names filters and what was chosen in
them; what was typed into a search goes to the erasable details beside it.
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from django.http import HttpRequest, HttpResponseBase

from audit.content import WITHHELD
from audit.trail import Target, record

# What reading a model's pages is called. Records that are settings of the house are not here.
READ_AS = {
    "accounts.user": "account.viewed",
    "accounts.apitoken": "account.viewed",
    "conversations.conversation": "conversation.viewed",
    "conversations.hold": "hold.viewed",
    "conversations.erasure": "account.viewed",
    "conversations.budgetwindow": "account.viewed",
    "prompts.prompttemplate": "prompt.viewed",
    "prompts.promptversion": "prompt.viewed",
}
PAGES = {"changelist": "list", "change": "record", "history": "history"}

_CHOICE = re.compile(r"[\w.: +-]{0,64}")
_NOT_FILTERS = frozenset({"q", "o", "p", "e", "all"})

View = TypeVar("View", bound=Callable[..., HttpResponseBase])


def noted(view: View) -> View:
    """Let a view of the admin site leave an entry when it has shown something."""

    @wraps(view)
    def seen(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        if request.method in {"GET", "HEAD"} and response.status_code == 200:
            _note(request, response)
        return response

    return cast("View", seen)


def _note(request: HttpRequest, response: HttpResponseBase) -> None:
    match = request.resolver_match
    app, _, rest = (match.url_name or "" if match else "").partition("_")
    model, _, page = rest.rpartition("_")
    event = READ_AS.get(f"{app}.{model}")
    if event is None or page not in PAGES or match is None:
        return
    target: Target = (f"{app}.{model}", str(match.kwargs.get("object_id", "")))
    searched = request.GET.get("q", "").strip()
    record(
        None,
        event,
        target,
        target_label=searched,
        page=PAGES[page],
        filter=_filter(request, response),
        searched=bool(searched),
    )


def _filter(request: HttpRequest, response: HttpResponseBase) -> dict[str, str]:
    """Return what was chosen in the list's filters; of other parameters the names alone."""
    offered = _offered(response)
    return {
        name[:64]: str(value) if name in offered and _CHOICE.fullmatch(str(value)) else WITHHELD
        for name, value in request.GET.items()
        if name not in _NOT_FILTERS
    }


def _offered(response: HttpResponseBase) -> set[str]:
    """Return the parameters of the filters beside the list."""
    changelist = (getattr(response, "context_data", None) or {}).get("cl")
    filters = getattr(changelist, "filter_specs", ())
    return {str(name) for one in filters for name in one.expected_parameters() if name}
