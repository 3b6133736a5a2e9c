"""What goes wrong at the doors for programs, as problem details (RFC 9457).

Each kind has a stable code; `type` is the path of its page. A kind is never reused for something
else: programs decide by it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from chatbot.telemetry import current_ids
from conversations.models import Message
from conversations.turn import Refusal
from conversations.turn.faults import FAULTS, sentence_of
from conversations.turn.limits import Quota, TooMany, rate_limit_fields

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem. `advice` says to the caller's programmer what helps."""

    code: str
    status: int
    title: str
    advice: str

    @property
    def path(self) -> str:
        """The problem's type: the address of its page."""
        return f"/problems/{self.code}/"


_LATER = "Nothing was stored. Repeat the request, with the same Idempotency-Key, after Retry-After."
_REPLY_LATER = (
    "The question is stored. Ask again after Retry-After, or after a pause that doubles with every"
    " attempt."
)

_OWN = (
    Kind(
        "malformed",
        400,
        "The request is not valid JSON.",
        "Send one JSON object in UTF-8, with `Content-Type: application/json`.",
    ),
    Kind(
        "invalid",
        422,
        "The request does not fit the schema.",
        "`errors` names each place and what is wrong there. The OpenAPI document has the schema.",
    ),
    Kind(
        "empty",
        422,
        "There is no message in the request.",
        "Send a `user_message` with at least one visible character.",
    ),
    Kind(
        "too_long",
        413,
        "The request is too long.",
        "A message may have 64 KB in UTF-8, a request 2.5 MB. Shorten it or send it in parts.",
    ),
    Kind(
        "unauthorised",
        401,
        "There is no valid token in the request.",
        "Send `Authorization: Bearer parley_…`. The token may be mistyped, expired or revoked, or"
        " its account switched off; a cookie does not count here.",
    ),
    Kind(
        "forbidden_scope",
        403,
        "The token does not open this.",
        "Make a token with the scope that `scope` names, on the page of your account.",
    ),
    Kind(
        "forbidden",
        403,
        "Your roles do not allow this.",
        "An administrator can give the account a role that does.",
    ),
    Kind(
        "not_found",
        404,
        "Nothing stands here.",
        "The address is wrong, or what it names was deleted, or belongs to somebody else.",
    ),
    Kind(
        "method_not_allowed",
        405,
        "This address knows no such method.",
        "The header Allow lists the methods that it knows.",
    ),
    Kind(
        "reply_open",
        409,
        "A reply is still being written in this session.",
        "One session has one reply at a time. Wait for its end, or stop it; other sessions are"
        " free meanwhile.",
    ),
    Kind(
        "archived",
        409,
        "The session is archived.",
        "Take it out of the archive first, or begin a new one by leaving `session_id` out.",
    ),
    Kind(
        "key_reused",
        422,
        "The idempotency key belongs to another message.",
        "Make a new key for each message, and repeat one only with the same message.",
    ),
    Kind("too_many", 429, "Too many requests.", _LATER),
    Kind(
        "budget_spent",
        429,
        "The budget is spent.",
        "Nothing was stored. `detail` says which budget, and when it renews; until then no attempt"
        " succeeds.",
    ),
    Kind(
        "price_unknown",
        503,
        "The model has no price.",
        "Nothing was stored. An administrator has to set the price of the model.",
    ),
    Kind(
        "no_model",
        503,
        "No model answers you.",
        "Nothing was stored. An administrator decides which models are on offer to whom.",
    ),
    Kind(
        "no_prompt",
        503,
        "There is no published prompt to answer with.",
        "Nothing was stored. A prompt publisher has to publish one.",
    ),
    Kind(
        "policy_broken",
        503,
        "A rule of the organisation can't be applied.",
        "Nothing was stored. Until an administrator has repaired the rule, nothing may pass.",
    ),
    Kind("limits_away", 503, "The limits can't be counted at the moment.", _LATER),
    Kind(
        "policy",
        422,
        "A rule of the organisation does not let the message through.",
        "Nothing was stored. `detail` says what the rule asks for; the same message is refused"
        " again.",
    ),
    Kind(
        "personal_data",
        422,
        "The message seems to hold personal data.",
        "Nothing was stored. `detail` names the kinds that were recognised; take them out.",
    ),
    Kind(
        "refused",
        422,
        "The message was refused.",
        "`detail` says why. The same message will be refused again.",
    ),
    Kind(
        "unavailable",
        503,
        "A part of the service is away.",
        "Repeat the request, with the same Idempotency-Key, after Retry-After.",
    ),
    Kind(
        "internal",
        500,
        "Something went wrong on our side.",
        "It was logged under the id in `instance`. A retry with the same Idempotency-Key is safe.",
    ),
)

_FAULT_STATUS = {"timeout": 504, "stalled": 504, "busy": 503, "resting": 503}
_INTERRUPTIONS = {"process_died", "restarted", "lost"}


def _of_fault(code: str) -> Kind:
    """Return the kind for a code of `turn.faults`: the reply failed, its question is stored."""
    headline = FAULTS[code].headline
    if code in _INTERRUPTIONS:
        return Kind(f"interrupted_{code}", 503, headline, _REPLY_LATER)
    status = _FAULT_STATUS.get(code, 502)
    return Kind(f"provider_{code}", status, headline, _REPLY_LATER)


# A filter or a rule ends a reply without a fault of anybody: it is `refused`, and no problem.
_NO_PROBLEM = {"internal", "content_filter", "policy"}
_FAULTS = {code: _of_fault(code) for code in FAULTS.keys() - _NO_PROBLEM}
KINDS = {kind.code: kind for kind in (*_OWN, *_FAULTS.values())}
RETRY_SECONDS = {
    "unavailable": 5.0,
    "limits_away": 5.0,
    "provider_busy": 30.0,
    "provider_resting": 15.0,
    "reply_open": 2.0,
}


class Problem(Exception):
    """A request ends here, with a problem document. `more` are members beyond the standard's."""

    def __init__(
        self, code: str, detail: str = "", *, retry_after: float | None = None, **more: Any
    ) -> None:
        super().__init__(code)
        self.kind = KINDS[code]
        self.detail = detail or self.kind.advice
        self.retry_after = RETRY_SECONDS.get(code) if retry_after is None else retry_after
        self.more = more
        self.quotas: Sequence[Quota] = ()

    @classmethod
    def of_refusal(cls, refusal: Refusal) -> "Problem":
        """Return the problem for a turn that could not begin."""
        code = refusal.code if refusal.code in KINDS else "refused"
        detail = f"{refusal.headline} {refusal.sentence}"
        problem = cls(code, detail, retry_after=refusal.retry_after)
        problem.quotas = refusal.quotas if isinstance(refusal, TooMany) else []
        return problem

    @classmethod
    def of_reply(cls, reply: Message, /, **more: Any) -> "Problem":
        """Return the problem for a reply that failed or was interrupted."""
        kind = _FAULTS.get(reply.fault) or KINDS["internal"]
        sentence = sentence_of(reply) or FAULTS["internal"]
        return cls(kind.code, f"{sentence.headline} {sentence.rest_for(reply)}", **more)

    def document(self) -> dict[str, Any]:
        """Return the members of the problem document."""
        members = {
            "type": self.kind.path,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
        }
        if request_id := current_ids().get("request_id"):
            members["instance"] = f"urn:uuid:{request_id}"
        return members | self.more

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to the problem."""
        headers = {"Cache-Control": "no-store", **rate_limit_fields(self.quotas)}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.kind.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="Parley"'
        return headers

    def response(self) -> HttpResponse:
        """Return the answer to the request."""
        return JsonResponse(
            self.document(),
            status=self.kind.status,
            content_type=MEDIA_TYPE,
            headers=self.headers(),
        )


# --- pages -----------------------------------------------------------------------------------


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """List all kinds."""
    kinds = sorted(KINDS.values(), key=lambda kind: (kind.status, kind.code))
    return render(request, "conversations/problems.html", {"kinds": kinds})


@require_safe
def page(request: HttpRequest, code: str) -> HttpResponse:
    """Explain one kind: what happened, and what helps."""
    kind = KINDS.get(code)
    if kind is None:
        raise Http404
    return render(request, "conversations/problem.html", {"kind": kind})
