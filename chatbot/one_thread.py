"""Keeps a request's way through the middleware on one thread."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_only_middleware

Handler = Callable[[HttpRequest], HttpResponseBase]


@sync_only_middleware
def in_one_thread(get_response: Handler) -> Handler:
    """Middleware, the innermost: makes all others run synchronously, one after another.

    Between asynchronous views Django would hand every single step of the classic middleware to a
    thread and back: some seventy switches a request, more than all their work.
    """
    return get_response
