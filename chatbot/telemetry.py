"""Logs, ids and figures, for every part of the house. Imports no app.

Logs are JSON lines on stderr. An id of the request and of the turn stands in each line that was
written on their behalf. What people say is never passed to a logger: events carry names, ids,
counts and durations.
"""

import logging
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.multiprocess import mark_process_dead
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars

ID_NAMES = ("request_id", "trace_id", "turn_id")

# --- figures ---------------------------------------------------------------------------------

turns_ended = Counter("parley_turns_total", "Turns that ended, by outcome", ["outcome"])
turns_refused = Counter("parley_turns_refused_total", "Turns that did not begin, by why", ["code"])
unreadable_texts = Counter(
    "parley_unreadable_texts_total", "Stored texts that could not be opened when somebody looked"
)
session_store = Counter(
    "parley_session_store_total",
    "What became of conversations' working contexts in Redis: used, missing, stale, unreadable,"
    " away, too_long, not_kept",
    ["outcome"],
)
first_token = Histogram(
    "parley_first_token_seconds",
    "From having the question to the provider's first token",
    buckets=(0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30),
)
turn_duration = Histogram(
    "parley_turn_seconds",
    "From having the question to the end of the reply",
    buckets=(0.25, 0.5, 1, 2, 3, 5, 8, 13, 21, 34, 55, 120, 300),
)
provider_faults = Counter(
    "parley_provider_faults_total", "Requests to a model that failed", ["model", "code"]
)
fallbacks = Counter(
    "parley_fallbacks_total", "Replies that another model than the chosen one began", ["model"]
)
ratings = Counter("parley_ratings_total", "Thumbs that people gave or turned", ["rating"])
satisfaction = Histogram(
    "parley_satisfaction_score",
    "How conversations went, from 1 to 5, as people said",
    buckets=(1, 2, 3, 4, 5),
)
active_replies = Gauge(
    "parley_active_replies", "Replies being written now", multiprocess_mode="livesum"
)
release_rollbacks = Counter(
    "parley_release_rollbacks_total",
    "Releases of prompts that a guard rolled back",
    ["template", "metric"],
)
prompt_declines = Counter(
    "parley_prompt_declines_total",
    "Live prompts that fell below their baseline",
    ["template", "source"],
)
scheduled_evaluations = Counter(
    "parley_scheduled_evaluations_total",
    "Scheduled evaluations of live prompts, by what followed",
    ["template", "result"],
)
open_sockets = Gauge("parley_open_sockets", "Open websockets", multiprocess_mode="livesum")
# Asked of the database at each look at the figures, by whichever process is looked at.
audit_copy_behind_entries = Gauge(
    "parley_audit_copy_behind_entries",
    "Sealed entries that a destination of copies lacks",
    ["purpose", "destination"],
    multiprocess_mode="livemostrecent",
)
audit_copy_behind_seconds = Gauge(
    "parley_audit_copy_behind_seconds",
    "For how long a destination has lacked the first of them",
    ["purpose", "destination"],
    multiprocess_mode="livemostrecent",
)
audit_delivery_faults = Counter(
    "parley_audit_delivery_faults_total",
    "Copies of the audit log that a destination did not take",
    ["purpose", "destination"],
)
holds_standing = Gauge(
    "parley_holds_standing",
    "Legal holds that keep something, lifted ones in their delay included",
    multiprocess_mode="livemostrecent",
)
holds_to_review = Gauge(
    "parley_holds_to_review",
    "Legal holds whose day of review is over and that nobody has lifted",
    multiprocess_mode="livemostrecent",
)
# The worker measures these, each time it has sealed.
audit_unsealed = Gauge(
    "parley_audit_unsealed_entries",
    "Audit entries that wait to be sealed, counted up to 10,000",
    multiprocess_mode="livemostrecent",
)
audit_oldest_unsealed = Gauge(
    "parley_audit_oldest_unsealed_seconds",
    "For how long the oldest of them has waited",
    multiprocess_mode="livemostrecent",
)
audit_sealed = Counter("parley_audit_sealed_total", "Audit entries that were sealed")
audit_refused = Counter(
    "parley_audit_sealing_refused_total", "Runs that refused to seal, by why", ["code"]
)

retention_purged = Counter(
    "parley_retention_purged_total", "Rows that purges deleted, and keys they destroyed", ["kind"]
)
# Asked of the database at each look at the figures, by whichever process is looked at.
retention_oldest_due = Gauge(
    "parley_retention_oldest_due_seconds",
    "For how long the oldest message that may be deleted has been due",
    multiprocess_mode="livemostrecent",
)
retention_asking = Gauge(
    "parley_retention_purge_asking",
    "1 while a purge waits to be confirmed",
    multiprocess_mode="livemostrecent",
)


def forget_ended_processes() -> None:
    """Drop the live gauges of processes of this machine that have ended, however they did."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return
    for file in Path(folder).glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not _is_alive(pid):
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# --- logs ------------------------------------------------------------------------------------

# Ours, or of a closed set of words; none can hold what somebody wrote.
_CLEAN_FIELDS = frozenset({"timestamp", "level", "logger", "logger_name", *ID_NAMES})
_cleaners: list[Callable[[str], str]] = []


def clean_logs_with(mask: Callable[[str], str]) -> None:
    """Pass every text of every later log line and traceback through `mask`, and nothing else.

    `mask` takes any text and must not raise; what it finds in it is its own affair.
    """
    _cleaners[:] = [mask]


def _cleaned(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Processor: what libraries put into messages and exceptions may be personal."""
    for mask in _cleaners:
        for name, value in event.items():
            if name not in _CLEAN_FIELDS and not name.startswith("_"):
                event[name] = _masked(value, mask)
    return event


def _masked(value: Any, mask: Callable[[str], str]) -> Any:
    """Return the value with its texts masked; containers become plain lists and dicts.

    Objects of other kinds are masked as the text that they would be written as.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {mask(str(name)): _masked(inner, mask) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(inner, mask) for inner in value]
    return mask(value if isinstance(value, str) else str(value))


_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.StackInfoRenderer(),
    # Without the values of local variables: among them is what people say.
    structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    ),
    _cleaned,
]


def _without_query(record: logging.LogRecord) -> bool:
    """Filter: keep the query of an address, which may hold somebody's words, out of the line."""
    if isinstance(record.args, tuple) and len(record.args) == 5:
        client, method, path, *rest = record.args
        record.args = (client, method, str(path).partition("?")[0], *rest)
    return True


def configure_logging(level: str, stream: TextIO = sys.stderr) -> None:
    """Send structlog and the standard library's loggers to `stream` as JSON lines."""
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Not uvicorn.access: to give it a way to a handler would undo `--no-access-log`.
    for name in ("uvicorn", "uvicorn.error", "django", "django.server"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").addFilter(_without_query)
    # They write a line for each request of ours, with its address or its signature.
    for name in ("httpx2", "httpcore2", "openai", "botocore", "urllib3", "markdown_it"):
        logging.getLogger(name).setLevel(logging.WARNING)


# --- ids -------------------------------------------------------------------------------------


def bind(**ids: str) -> None:
    """Let every log line and audit entry of this task or request carry these ids."""
    bind_contextvars(**ids)


def current_ids() -> dict[str, str]:
    """Return the ids bound here, a subset of request_id, trace_id and turn_id."""
    bound = get_contextvars()
    return {name: bound[name] for name in ID_NAMES if name in bound}


@contextmanager
def only_ids(ids: Mapping[str, str]) -> Iterator[None]:
    """Let log lines and audit entries inside carry these ids, and none of what was bound before."""
    before = get_contextvars()
    clear_contextvars()
    bind_contextvars(**ids)
    try:
        yield
    finally:
        clear_contextvars()
        bind_contextvars(**before)


def _trace_id(request: HttpRequest) -> str:
    """Take the trace id out of a W3C `traceparent` header, or return an empty string."""
    parts = request.headers.get("traceparent", "").split("-")
    is_one = len(parts) >= 4 and len(parts[1]) == 32 and parts[1].isalnum()
    return parts[1] if is_one else ""


def request_ids(
    get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]
    | Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], Any]:
    """Middleware: give each request an id of ours, and answer with it in `X-Request-ID`."""

    def begin(request: HttpRequest) -> str:
        request_id = uuid.uuid4().hex
        clear_contextvars()
        bind(request_id=request_id)
        if trace_id := _trace_id(request):
            bind(trace_id=trace_id)
        return request_id

    if iscoroutinefunction(get_response):

        async def asynchronous(request: HttpRequest) -> HttpResponseBase:
            request_id = begin(request)
            response: HttpResponseBase = await get_response(request)
            response.headers["X-Request-ID"] = request_id
            return response

        return markcoroutinefunction(asynchronous)

    def synchronous(request: HttpRequest) -> HttpResponseBase:
        request_id = begin(request)
        response: HttpResponseBase = get_response(request)  # type: ignore[assignment]
        response.headers["X-Request-ID"] = request_id
        return response

    return synchronous


request_ids.sync_capable = True  # type: ignore[attr-defined]
request_ids.async_capable = True  # type: ignore[attr-defined]
