"""`python -m benchmarks.retention`: a purge of a million messages, and turns meanwhile.

python -m benchmarks.retention                    a million messages, about five minutes
python -m benchmarks.retention --messages 50000   fewer
python -m benchmarks.retention --write            into docs/retention.md as well

The same rows are deleted twice: by plain statements, as the fastest that can be asked for, and by
`manage.py purge` in a process of its own, while people ask as they did when nothing else ran.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import psycopg
import uvloop

from benchmarks.accounting import percentile
from benchmarks.installation import Installation, installation
from benchmarks.people import make_people, make_tokens, use_installation
from benchmarks.processes import machine
from benchmarks.provider_simulator import sim
from benchmarks.report import Table, number, write
from benchmarks.streams import say
from chatbot.local.environment import ROOT

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/retention.md"
MESSAGES, MESSAGES_EACH = 1_000_000, 20
USERS, PAUSE_SECONDS = 8, 0.5
IDLE_SECONDS = 30.0
_QUESTION = "Which part is it?\n" + sim(
    text=None, tokens=20, first_token_seconds=0.05, tokens_per_second=0
)

# Conversations of two months ago, a minute between messages; replies have cost something, and one
# in fifty is rated. 512 bytes each, which do not compress. Ids are ordered by time, as ours are.
_FILL = """
CREATE FUNCTION pg_temp.at(c bigint, m bigint) RETURNS timestamptz LANGUAGE sql AS
    $$ SELECT now() - interval '60 days' + interval '1 s' * (c %% 86400) + interval '1 min' * m $$;
CREATE FUNCTION pg_temp.named(text, timestamptz) RETURNS uuid LANGUAGE sql AS
    $$ SELECT (lpad(to_hex((extract(epoch FROM $2) * 1000)::bigint), 12, '0') || '7'
        || substr(md5($1), 14))::uuid $$;
INSERT INTO conversations_conversation (id, owner_id, title_sealed, lifecycle, fence, created_at,
    last_message_at, last_seen, retention_class, key_day)
SELECT pg_temp.named(%(run)s || c, at), %(owner)s, '', 'active', 0, at, at, at, 1, at::date
FROM (SELECT c, pg_temp.at(c, 0) AS at FROM generate_series(1, %(count)s / %(each)s) AS c) AS talks;
INSERT INTO conversations_message (id, conversation_id, parent_id, role, state, content_sealed,
    thinking_sealed, created_at, model, arm, finish_reason, fault, usage_estimated, fence, cursor)
SELECT pg_temp.named(%(run)s || c || '/' || m, pg_temp.at(c, m)),
    pg_temp.named(%(run)s || c, pg_temp.at(c, 0)), CASE WHEN m > 1 THEN
        pg_temp.named(%(run)s || c || '/' || m - 1, pg_temp.at(c, m - 1)) END,
    CASE m %% 2 WHEN 1 THEN 'user' ELSE 'assistant' END,
    CASE m %% 2 WHEN 1 THEN 'said' ELSE 'completed' END,
    sha512((c || '/' || m)::bytea) || sha512((m || '/' || c)::bytea) || sha512(c::text::bytea)
        || sha512(m::text::bytea) || sha512((c + m)::text::bytea) || sha512((c * m)::text::bytea)
        || sha512((c - m)::text::bytea) || sha512((c * 7 + m)::text::bytea),
    '', pg_temp.at(c, m),
    'simulated', 'production', 'stop', '', false, m / 2, 1
FROM generate_series(1, %(count)s / %(each)s) AS c, generate_series(1, %(each)s) AS m;
UPDATE conversations_conversation AS talk SET leaf_id = said.id
FROM conversations_message AS said WHERE said.conversation_id = talk.id
    AND talk.created_at < now() - interval '31 days' AND said.fence = %(each)s / 2;
INSERT INTO conversations_budgetwindow
    (scope, subject, starts_at, ends_at, spent_usd, reserved_usd)
SELECT 'day', md5(%(run)s)::uuid, now() - interval '60 days', now() - interval '59 days', 1, 0
UNION ALL SELECT 'session', id, created_at, created_at + interval '1 day', 1, 0
FROM conversations_conversation WHERE created_at < now() - interval '31 days';
INSERT INTO conversations_reservation (reply_id, day_id, month_id, session_id, amount_usd, model,
    input_price, cached_input_price, output_price, tokens_in_estimate, tokens_written_before,
    reserved_at, settled_at)
SELECT said.id, day.id, day.id, session.id, 0.01, 'simulated', 1, 1, 1, 10, 0, now(), now()
FROM conversations_message AS said
JOIN conversations_budgetwindow AS session
    ON session.scope = 'session' AND session.subject = said.conversation_id
JOIN conversations_budgetwindow AS day ON day.subject = md5(%(run)s)::uuid
WHERE said.role = 'assistant' AND said.created_at < now() - interval '31 days';
INSERT INTO conversations_feedback (id, reply_id, rating, comment_sealed, created_at, changed_at)
SELECT said.id, said.id, 'up', '', now(), now() FROM conversations_message AS said
WHERE said.role = 'assistant' AND said.created_at < now() - interval '31 days' AND random() < 0.02
"""
_PLAIN = """
BEGIN;
CREATE TEMPORARY TABLE due ON COMMIT DROP AS
    SELECT id FROM conversations_message WHERE created_at < now() - interval '31 days';
UPDATE conversations_conversation SET leaf_id = NULL WHERE leaf_id IN (SELECT id FROM due);
DELETE FROM conversations_feedback WHERE reply_id IN (SELECT id FROM due);
DELETE FROM conversations_reservation WHERE reply_id IN (SELECT id FROM due);
DELETE FROM conversations_message WHERE id IN (SELECT id FROM due);
DELETE FROM conversations_budgetwindow WHERE scope = 'session' AND subject IN
    (SELECT id FROM conversations_conversation WHERE created_at < now() - interval '31 days');
DELETE FROM conversations_conversation WHERE created_at < now() - interval '31 days';
COMMIT
"""


class RetentionBench:
    """People who ask, one question after the other, and what is deleted beside them."""

    def __init__(self, running: Installation, secrets: Sequence[str], owner: uuid.UUID) -> None:
        self._running, self._secrets, self._owner = running, secrets, owner
        self._sessions: dict[int, str] = {}

    def measure(self, messages: int) -> list[Table]:
        """Delete plainly, then purge; ask before and meanwhile."""
        plain = self._deleted_plainly(messages)
        self._fill(messages)
        idle, meanwhile = uvloop.run(self._beside())
        purge = self._seconds_of_purge()
        return [self._speed(messages, plain, purge), self._turns(idle, meanwhile)]

    def _speed(self, messages: int, plain: float, purge: float) -> Table:
        note = (
            f"{machine()}. The same rows each time: messages of 512 bytes, {MESSAGES_EACH} in a"
            " conversation, with what hangs on them. The plain statements run in one transaction"
            " and beside nothing; the purge runs in chunks, checks holds, keeps its evidence, and"
            " has people who ask beside it."
        )
        rows = [
            [name, number(seconds), number(messages / seconds, 0), number(plain / seconds, 2)]
            for name, seconds in (("plain DELETE", plain), ("purge", purge))
        ]
        title = f"Deleting {messages:,} messages"
        return Table(title, ["", "seconds", "messages/s", "of plain"], rows, note)

    def _turns(self, idle: list[float], meanwhile: list[float]) -> Table:
        rows = [
            [name, *(number(percentile(trips, share) * 1000, 0) for share in (0.5, 0.95)), many]
            for name, trips in (("idle", idle), ("during the purge", meanwhile))
            for many in [str(len(trips))]
        ]
        ratio = percentile(meanwhile, 0.95) / percentile(idle, 0.95)
        note = (
            f"{USERS} people, a pause of {PAUSE_SECONDS} s between questions; milliseconds until"
            f" the whole answer of `/chat`. p95 during the purge is {ratio:.2f} × that of idle."
        )
        return Table("Turns beside a purge", ["", "p50", "p95", "turns"], rows, note)

    def _fill(self, messages: int) -> None:
        say(f"writing {messages:,} messages")
        given = {
            "run": uuid.uuid4().hex,
            "owner": self._owner,
            "count": messages,
            "each": MESSAGES_EACH,
        }
        with psycopg.connect(
            self._running.servers.database_owner_url or "", autocommit=True
        ) as connection:
            psycopg.ClientCursor(connection).execute(_FILL, given)
            connection.execute("VACUUM ANALYZE")

    def _deleted_plainly(self, messages: int) -> float:
        self._fill(messages)
        say("plain DELETE")
        with psycopg.connect(
            self._running.servers.database_owner_url or "", autocommit=True
        ) as connection:
            began = time.monotonic()
            connection.execute(_PLAIN)
            return time.monotonic() - began

    async def _beside(self) -> tuple[list[float], list[float]]:
        """Return round trips while idle, and while a purge runs."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as self._http:
            say("turns, nothing else")
            await self._trips(asyncio.sleep(5))
            idle = await self._trips(asyncio.sleep(IDLE_SECONDS))
            say("turns beside the purge")
            meanwhile = await self._trips(asyncio.to_thread(self._purge))
        return idle, meanwhile

    def _purge(self) -> None:
        env = {**self._running.env, "RETENTION_MAX_SHARE": "1"}
        command = [sys.executable, "manage.py", "purge"]
        subprocess.run(command, cwd=ROOT, env=env, check=True)

    def _seconds_of_purge(self) -> float:
        from conversations.models import Message, PurgeRun  # noqa: PLC0415 - after Django's setup

        old = datetime.now(UTC) - timedelta(days=31)
        assert not Message.objects.filter(created_at__lt=old).exists()
        return float(PurgeRun.objects.latest("pk").seconds)

    async def _trips(self, until: object) -> list[float]:
        """Let everybody ask until something else has ended; return the seconds of each turn."""
        trips: list[float] = []
        people = [asyncio.create_task(self._asks(user, trips)) for user in range(USERS)]
        await until  # type: ignore[misc]
        for person in people:
            person.cancel()
        for person in people:
            with suppress(asyncio.CancelledError):
                await person
        return trips

    async def _asks(self, user: int, trips: list[float]) -> None:
        while True:
            await asyncio.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))
            began = time.monotonic()
            await self._ask(user)
            trips.append(time.monotonic() - began)

    async def _ask(self, user: int) -> None:
        body = {"user_message": _QUESTION}
        if session := self._sessions.get(user):
            body["session_id"] = session
        headers = {"Authorization": f"Bearer {self._secrets[user]}"}
        url = f"{self._running.url}/chat"
        async with self._http.post(url, json=body, headers=headers) as response:
            answer = await response.json()
            if response.status == 409:  # the last question was cut off, and is being answered
                return
            if response.status != 200:
                raise RuntimeError(f"/chat answered {response.status}: {answer}")
            self._sessions[user] = answer["session_id"]


def main() -> int:
    """Measure on an installation of its own, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retention", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--write", action="store_true", help="put it into docs/retention.md")
    chosen = parser.parse_args()
    with installation("A simulated reply.") as running:
        use_installation(running.env)
        people = make_people(USERS)
        bench = RetentionBench(running, make_tokens(people), people[0].user_id)
        tables = bench.measure(chosen.messages)
    for table in tables:
        print(table.as_text())
    if chosen.write:
        head = f"Measured on {datetime.now(UTC):%Y-%m-%d}."
        write(DOCUMENT, tables, head, command="python -m benchmarks.retention")
    return 0


if __name__ == "__main__":
    sys.exit(main())
