"""Retention of the log itself: the oldest entries go, as a sealed beginning and by one way only.

    remove_old(now)      remove what is older than AUDIT_RETENTION_DAYS
    removed_below()      the first leaf whose entry was not removed so

A function of the tables' owner removes them (migration 0007_removal); the application may call it
and has no other way. It takes only what a checkpoint covers and what is older than the floor, which
stands in a table that `manage.py migrate` alone writes (`set_floor`), as the owner. Leaves, nodes
and checkpoints stay: proofs that were handed out before hold for ever.
"""

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections, transaction
from django.db.models import Max

from accounts.access import System
from audit.models import UNFINISHED, Export, Removal
from audit.trail import record

BY = System("retention of the log")
FLOOR_DAYS = 180
BATCH = 20_000
# The function of the migration takes the same lock.
LOCK = 7169395


def removed_below() -> int:
    """Return the index of the first leaf whose entry was not removed for its age."""
    found = Removal.objects.aggregate(below=Max("below_index"))["below"]
    return found or 0


def remove_old(now: datetime, batch: int = BATCH) -> int:
    """Remove the entries before `now` less AUDIT_RETENTION_DAYS; return how many leaves' worth.

    While an export is unfinished nothing is removed, lest it miss what it has begun with.
    """
    older_than = now - timedelta(days=settings.AUDIT_RETENTION_DAYS)
    removed = 0
    while taken := _remove_batch(older_than, batch):
        removed += taken
    return removed


def _remove_batch(older_than: datetime, batch: int) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        wait_for_removals()
        if Export.objects.filter(state__in=UNFINISHED).exists():
            return 0
        cursor.execute(
            "SELECT removed_from, removed_below, gone_before"
            " FROM audit_remove_prefix(%s, %s, %s, %s)",
            [older_than, batch, f"older than {settings.AUDIT_RETENTION_DAYS} days", BY.name],
        )
        found = cursor.fetchone()
        if found is None:
            return 0
        start, below, missing = found
        record(
            BY,
            "log.prefix_removed",
            ("audit.removal", str(below)),
            first=start,
            below=below,
            older_than=older_than.isoformat(),
            missing=missing,
        )
        return int(below - start)


def wait_for_removals() -> None:
    """Let no removal run beside the rest of this transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])


def check_retention() -> None:
    """Raise ImproperlyConfigured where the log would be kept shorter than was confirmed."""
    days = settings.AUDIT_RETENTION_DAYS
    if days < 1 or (days < FLOOR_DAYS and not settings.AUDIT_RETENTION_SHORTER_THAN_180_DAYS):
        raise ImproperlyConfigured(
            f"AUDIT_RETENTION_DAYS is {days}: the audit log is kept for at least {FLOOR_DAYS} days."
            " If you really want less, and may, set AUDIT_RETENTION_SHORTER_THAN_180_DAYS=yes and"
            " run `manage.py migrate`."
        )


def set_floor(using: str, **_signal: Any) -> None:
    """Write the floor into the database; runs after each migrate, as the tables' owner."""
    days = min(FLOOR_DAYS, settings.AUDIT_RETENTION_DAYS)
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT to_regclass('audit_floor')")
        if cursor.fetchone() != (None,):
            cursor.execute("UPDATE audit_floor SET days = %s WHERE days <> %s", [days, days])
