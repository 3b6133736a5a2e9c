"""`python -m benchmarks.audit`: the log at a million entries: sealed, proven, read, exported.

python -m benchmarks.audit                a million entries, about four minutes
python -m benchmarks.audit --quick        fifty thousand
"""

import argparse
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import psutil
import psycopg

from benchmarks.accounting import median, percentile
from benchmarks.apps import apps_on_servers
from benchmarks.report import Table, number
from chatbot.local.environment import ROOT

ENTRIES, FEW_ENTRIES = 1_000_000, 50_000
TIMES = 30
LIST = "/admin/audit/entry/"
PAGE_ROWS, PAGES_DEEP = 50, 100
OFFICER = "officer@parley.example"

# A log of 400 days: people who ask, some far more than others, jobs, failures and refusals.
_ENTRIES = """
INSERT INTO audit_entry (event, occurred_at, recorded_at, actor_kind, actor_id, actor_roles,
    impersonator_id, target_kind, target_id, outcome, reason, request_id, trace_id, turn_id,
    payload, personal_digest)
SELECT event, at, at, CASE event WHEN 'policy.hit' THEN 'system' ELSE 'user' END,
    CASE event WHEN 'policy.hit' THEN 'screening' ELSE md5('person' || person)::uuid::text END,
    CASE WHEN event = 'policy.hit' THEN '' WHEN person > 490 THEN 'compliance_officer,member'
        ELSE 'member' END,
    '', 'conversations.conversation', md5('conversation' || talk)::uuid::text,
    CASE event WHEN 'auth.login_failed' THEN 'failed' WHEN 'access.denied' THEN 'denied'
        ELSE 'succeeded' END,
    '', md5('request' || i / 2), md5('trace' || i / 2),
    CASE WHEN event LIKE 'turn.%%' THEN md5('turn' || i / 2)::uuid::text ELSE '' END,
    '{"model": "gpt-4o-mini", "tokens_in": 812, "tokens_out": 301}', sha256(int8send(i))
FROM (
    SELECT i, now() - interval '400 days' * (%(count)s - i) / %(count)s AS at,
        floor(500 * who * who)::int AS person, floor(50000 * what)::int AS talk,
        CASE WHEN kind < 0.35 THEN 'turn.started' WHEN kind < 0.70 THEN 'turn.ended'
            WHEN kind < 0.80 THEN 'auth.login_succeeded' WHEN kind < 0.93
            THEN 'conversation.created' WHEN kind < 0.96 THEN 'feedback.given'
            WHEN kind < 0.98 THEN 'auth.login_failed' WHEN kind < 0.99 THEN 'access.denied'
            WHEN kind < 0.9999 THEN 'policy.hit' ELSE 'role.granted' END AS event
    FROM (SELECT i, random() AS kind, random() AS who, random() AS what
        FROM generate_series(1, %(count)s) AS i) AS drawn
) AS told
"""
_PERSONAL = """
INSERT INTO audit_personaldetails (entry_id, salt, actor_label, target_label, network, user_agent)
SELECT id, decode(md5(id::text), 'hex'), left(actor_id, 8) || '@parley.example', '',
    '203.0.113.0/24', 'Firefox on Linux'
FROM audit_entry ON CONFLICT DO NOTHING
"""


def measure(quick: bool) -> list[Table]:
    """Return the tables; a process can do it once, because it reads Django's settings."""
    with log_of(FEW_ENTRIES if quick else ENTRIES) as count:
        return [recording(), sealing(count), proving(count), reading(count), exporting(count)]


@contextmanager
def log_of(count: int) -> Iterator[int]:
    """Set up Django on servers of its own, whose log has so many entries."""
    with apps_on_servers("collectstatic") as address:
        _fill(address, count)
        yield count


def _fill(address: str, count: int) -> None:
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("SELECT setseed(0.5)")
        connection.execute(_ENTRIES, {"count": count})
        connection.execute(_PERSONAL)
        connection.execute("VACUUM ANALYZE")


def recording() -> Table:
    """Measure what auditing adds to a turn: two entries and two digests, in its transactions."""
    from django.db import connection, transaction  # noqa: PLC0415 - after Django's setup

    from audit.trail import System, record  # noqa: PLC0415
    from conversations.encryption import SealKey, content_digest  # noqa: PLC0415
    from conversations.keyring import KeyDay  # noqa: PLC0415

    by, talk = System("benchmark"), uuid.uuid4()
    key = SealKey(talk, KeyDay(1, datetime.now(UTC).date()))
    said = "What did the committee decide about the refund of travel costs? " * 60

    def audited() -> None:
        with transaction.atomic():
            for event in ("turn.started", "turn.ended"):
                digest = content_digest(said, key)
                target = ("conversations.conversation", str(talk))
                record(by, event, target, turn=str(talk), reply=str(talk), digest=digest)

    def asked() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            for _ in range(2):
                cursor.execute("SELECT 1")

    table = Table(
        "What auditing adds to a turn",
        ("what", "p50 ms", "p95 ms", "of it CPU of the web process"),
        note="Each in a transaction that commits; a turn has transactions anyway.",
    )
    for name, act in {"two entries with digests of 4 KB": audited, "two SELECT 1": asked}.items():
        taken, used = _times(act, 300)
        figures = median(taken), percentile(taken, 0.95), median(used)
        table.rows.append([name, *map(number, figures)])
    return table


def sealing(count: int) -> Table:
    """Measure sealing all entries on one core, which sealer and PostgreSQL share."""
    from audit import sealing as sealer  # noqa: PLC0415 - after Django's setup

    table = Table(
        f"Sealing {count:,} entries on one core",
        ("what", "entries/s", "seconds", "CPU seconds of the sealer"),
        note="Read, hashed, leaves and nodes stored, a checkpoint signed after each batch.",
    )
    with _on_one_core():
        copied = _copied(_ALL_ENTRIES)
        began, worked = time.perf_counter(), time.process_time()
        while isinstance(result := sealer.seal(), sealer.Sealed) and result.more:
            pass
        taken, worked = time.perf_counter() - began, time.process_time() - worked
    assert isinstance(result, sealer.Sealed), result
    rate = number(count / taken, 0)
    table.rows.append(["sealing", rate, number(taken), number(worked)])
    table.rows.append(
        ["COPY of the same rows, to nowhere", number(count / copied, 0), number(copied), ""]
    )
    return table


_ALL_ENTRIES = "COPY audit_entry TO STDOUT (FORMAT csv)"


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Keep this process and the servers that it started on the same core."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    before = family[0].cpu_affinity()
    for process in family:
        process.cpu_affinity(before[:1])
    try:
        yield
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.cpu_affinity(before)


def proving(count: int) -> Table:
    """Measure proofs from the stored tree, by entries drawn evenly from the whole log."""
    from django.db import connection  # noqa: PLC0415 - after Django's setup
    from django.utils import timezone  # noqa: PLC0415

    from audit.attestation import Attested, attest  # noqa: PLC0415
    from audit.leaves import StoredHashes  # noqa: PLC0415
    from audit.merkle import consistency_path, inclusion_path  # noqa: PLC0415
    from audit.models import Leaf  # noqa: PLC0415

    drawn = random.Random(7)
    size = Leaf.objects.latest("index").index + 1

    def included() -> None:
        with connection.cursor() as cursor:
            inclusion_path(StoredHashes(cursor), drawn.randrange(size), size)

    def consistent() -> None:
        with connection.cursor() as cursor:
            consistency_path(StoredHashes(cursor), drawn.randrange(1, size), size)

    def attested() -> None:
        entry = Leaf.objects.get(index=drawn.randrange(size)).entry_id
        assert isinstance(attest(entry, timezone.now()), Attested)

    table = Table(
        f"Proofs in a log of {count:,} entries",
        ("what", "p50 ms", "p95 ms", "of it CPU of the web process"),
    )
    acts = {
        "inclusion proof": included,
        "consistency proof": consistent,
        "an entry proven and checked, as on its page": attested,
    }
    for name, act in acts.items():
        taken, used = _times(act, 200)
        figures = median(taken), percentile(taken, 0.95), median(used)
        table.rows.append([name, *map(number, figures)])
    return table


def reading(count: int) -> Table:
    """Measure pages of the admin, whole responses as a reader gets them."""
    from audit.models import Entry  # noqa: PLC0415 - after Django's setup

    get = _as_officer()
    newest = Entry.objects.latest("id")
    deep = newest.pk - PAGE_ROWS * PAGES_DEEP
    actor = Entry.objects.filter(actor_kind="user").latest("id").actor_id
    pages = {
        "first page": LIST,
        f"{PAGES_DEEP} pages deep": f"{LIST}?below={deep}",
        "one event": f"{LIST}?event=role.granted",
        "a group of events": f"{LIST}?group=Sign-in",
        "refused, past 7 days": f"{LIST}?outcome=denied&period=week",
        "one person, one event": f"{LIST}?actor={actor}&event=access.denied",
        "by role": f"{LIST}?role=compliance_officer",
        "search by an id": f"{LIST}?q={actor}",
        "a person's timeline": f"{LIST}timeline/account/{actor}/",
        "one entry": f"{LIST}{newest.pk}/change/",
    }
    table = Table(
        f"Reading a log of {count:,} entries, in Django admin",
        ("page", "p50 ms", "p95 ms", "of it CPU of the web process"),
        note="Whole responses, rendered; each records that it was read.",
    )
    for name, address in pages.items():
        taken, used = _times(lambda address=address: get(address))
        figures = median(taken), percentile(taken, 0.95), median(used)
        table.rows.append([name, *map(number, figures)])
    return table


# In a process of its own, so that its peak of memory is that of the export.
_EXPORT = """
import resource, sys, time, django
django.setup()
from audit.export import write
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began, worked = time.perf_counter(), time.process_time()
write(int(sys.argv[1]))
print(time.perf_counter() - began, time.process_time() - worked)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, base / 1024)
"""
_SAME_ROWS = """
COPY (SELECT leaf.index, leaf.hash, entry.*, personal.* FROM audit_leaf AS leaf
    JOIN audit_entry AS entry ON entry.id = leaf.entry_id
    LEFT JOIN audit_personaldetails AS personal ON personal.entry_id = entry.id
    ORDER BY leaf.index) TO STDOUT (FORMAT csv)
"""


def exporting(count: int) -> Table:
    """Measure an export of the whole log, beside PostgreSQL's own COPY of the same rows."""
    from audit import export, sealing  # noqa: PLC0415 - after Django's setup
    from audit.selection import Selection  # noqa: PLC0415

    sealing.seal()  # what was recorded since
    copied = _copied(_SAME_ROWS)
    asked = export.request_export(Selection(), by=_officer())
    run = [sys.executable, "-c", _EXPORT, str(asked.pk)]
    said = subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    taken, worked, peak, base = map(float, said.split())
    asked.refresh_from_db()
    assert asked.state == "ready", asked.reason
    return Table(
        f"Exporting a log of {count:,} entries",
        ("what", "rows/s", "seconds", "CPU seconds", "peak MB"),
        [
            [
                *("export: JSON Lines, CSV, proofs, one ZIP", number(asked.written / taken, 0)),
                *(number(taken), number(worked), number(peak, 0)),
            ],
            [
                "COPY of the same rows, to nowhere",
                number(count / copied, 0),
                number(copied),
                "",
                "",
            ],
        ],
        note=f"One worker, and PostgreSQL beside it. The process had {number(base, 0)} MB before it"
        f" began; the ZIP has {number((asked.size or 0) / 1e6, 0)} MB.",
    )


def _copied(statement: str) -> float:
    """Return how many seconds PostgreSQL needs to hand out rows, uncompressed, as CSV."""
    from django.db import connection  # noqa: PLC0415

    began = time.perf_counter()
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for _ in copy:
            pass
    return time.perf_counter() - began


def _officer() -> Any:
    from accounts.models import User  # noqa: PLC0415

    return User.objects.get(email=OFFICER)


def _as_officer() -> Callable[[str], Any]:
    from django.test import Client  # noqa: PLC0415

    from accounts.access import System  # noqa: PLC0415
    from accounts.administration import create_account  # noqa: PLC0415

    by = System("benchmark")
    officer = create_account(OFFICER, roles=["compliance_officer"], by=by)
    client = Client(headers={"host": "localhost"})
    client.force_login(officer)

    def get(address: str) -> None:
        response = client.get(address)
        assert response.status_code == 200, f"{address}: {response.status_code}"

    return get


def _times(act: Callable[[], None], times: int = TIMES) -> tuple[list[float], list[float]]:
    """Return how long it takes, and how long this process computes, in ms, with warm caches."""
    act()
    taken, used = [], []
    for _ in range(times):
        began, computed = time.perf_counter(), time.process_time()
        act()
        taken.append((time.perf_counter() - began) * 1000)
        used.append((time.process_time() - computed) * 1000)
    return taken, used


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="fewer entries")
    print("".join(table.as_text() for table in measure(parser.parse_args().quick)))


if __name__ == "__main__":
    main()
