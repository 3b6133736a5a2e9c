"""One page in Chromium: what it weighs, how soon one can write, and what a reply costs it.

Times inside the page are the browser's own clock (`performance.now()`), from the key press to the
change of the document. The main thread's share is `TaskDuration` of the DevTools protocol.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from benchmarks.accounting import median, percentile
from benchmarks.installation import Installation, installation
from benchmarks.people import Person, make_conversation, make_people, use_installation
from benchmarks.provider_simulator import sim
from benchmarks.report import Table, number
from benchmarks.streams import prose, say

LONG_CONVERSATION = 200
_LONG = f"{LONG_CONVERSATION} messages"
_LENGTHS = (("empty", 0), (_LONG, LONG_CONVERSATION))
END_SECONDS = 60.0

# Runs before the page's own scripts. Notes when a question left, when the first words of the next
# reply stood in the document, long tasks, and when form and line were ready.
_PROBE = """
(() => {
  const probe = window.probe = { sentAt: 0, firstAt: 0, ended: 0, tasks: [], shifts: 0 };
  probe.readyAt = probe.lineAt = 0;
  addEventListener("keydown", (event) => {
    if (event.key === "Enter") { probe.sentAt = event.timeStamp; probe.firstAt = probe.ended = 0; }
  }, true);
  document.addEventListener("htmx:ws:after:connection", () => {
    probe.lineAt = probe.lineAt || performance.now();
  });
  const look = () => {
    const replies = document.querySelectorAll(".turn.reply");
    const last = replies[replies.length - 1];
    if (!last || !probe.sentAt) return;
    const busy = last.querySelector("[aria-busy]");
    if (busy && !probe.firstAt && last.querySelector(".prose").textContent.trim()) {
      probe.firstAt = performance.now();
    }
    if (probe.firstAt && !busy && !probe.ended) probe.ended = performance.now();
  };
  addEventListener("DOMContentLoaded", () => {
    new MutationObserver(look).observe(document.getElementById("thread"), {
      subtree: true, childList: true, characterData: true, attributes: true,
      attributeFilter: ["aria-busy"],
    });
    /* Scripts are deferred: when this event is over, the form and its keys are wired. */
    setTimeout(() => { probe.readyAt = performance.now(); });
  });
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) probe.tasks.push(entry.duration);
  }).observe({ type: "longtask", buffered: true });
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) probe.shifts += entry.hadRecentInput ? 0 : entry.value;
  }).observe({ type: "layout-shift", buffered: true });
})();
"""


@dataclass(slots=True)
class _Watched:
    """What the main thread did during one reply: seconds busy, long tasks in ms, layout shift."""

    busy: float
    seconds: float
    long_tasks: list[float]
    shift: float


def measure(quick: bool) -> list[Table]:
    """Measure one person's page, on an installation of its own."""
    with installation("".join(prose(300))) as running:
        use_installation(running.env)
        return _measure(running, quick=quick)


def _measure(running: Installation, *, quick: bool) -> list[Table]:
    """Measure one person's page; an empty table with a reason where there is no Chromium."""
    program = _chromium()
    if program is None:
        return [Table("Browser: not measured, there is no Chromium (set CHROMIUM=/path)", [""])]
    (person,) = make_people(1)
    # Before the browser: its event loop in this thread keeps Django from the database.
    fresh = {
        messages: [f"/c/{make_conversation(person.user_id, messages)}/" for _ in range(4)]
        for messages in (0, LONG_CONVERSATION)
    }
    with _browser(program) as browser:
        bench = _Bench(running, person, browser, fresh)
        return [
            bench.cold(3 if quick else 7),
            bench.first_token(6 if quick else 20),
            bench.busy(100, 200) if quick else bench.busy(300, 600),
        ]


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def _browser(program: str) -> Iterator[Browser]:
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    # A reader's browser has a machine of its own; here it gets at least all cores of this one.
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@dataclass(frozen=True, slots=True)
class _Bench:
    """A browser, somebody to be, and the paths of conversations of theirs, by length."""

    running: Installation
    person: Person
    browser: Browser
    fresh: dict[int, list[str]]

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A page of a browser that has seen nothing yet, signed in."""
        context = self.browser.new_context(viewport={"width": 1280, "height": 800})
        cookies = [
            {"name": name, "value": value, "url": self.running.url}
            for name, value in self.person.cookies.items()
        ]
        context.add_cookies(cookies)  # type: ignore[arg-type]
        page = context.new_page()
        page.add_init_script(_PROBE)
        yield page
        context.close()

    @contextmanager
    def open(self, messages: int) -> Iterator[Page]:
        """A fresh conversation of so many messages, its line open."""
        with self.page() as page:
            page.goto(self.running.url + self.fresh[messages].pop())
            _until(page, "probe.lineAt > 0")
            yield page

    # --- what is measured --------------------------------------------------------------------

    def cold(self, times: int) -> Table:
        """Visit with an empty cache."""
        rows = []
        for name, path in (("first screen", "/"), (_LONG, self.fresh[LONG_CONVERSATION].pop())):
            say(f"cold page, {name}")
            visits = [self._visit(path) for _ in range(times)]
            weight, requests, ready, line = (median(column) for column in zip(*visits, strict=True))
            rows.append([name, number(weight / 1024), number(requests, 0)])
            rows[-1] += [number(ready, 0), number(line, 0)]
        note = (
            "KiB on the wire with headers, nothing cached; the websocket is not counted. Then ms"
            f" from the navigation until a prompt can be sent and until the line is open. {times}"
            " visits."
        )
        columns = ["cold page", "KiB", "requests", "prompt can be sent", "line open"]
        return Table("Cold page", columns, rows, note)

    def _visit(self, path: str) -> tuple[float, int, float, float]:
        """Return bytes, requests, and ms until a prompt can be sent and until the line is open."""
        with self.page() as page:
            devtools = page.context.new_cdp_session(page)
            weights: list[float] = []
            devtools.on("Network.loadingFinished", lambda e: weights.append(e["encodedDataLength"]))
            devtools.send("Network.enable")
            page.goto(self.running.url + path)
            _until(page, "probe.lineAt > 0")
            page.wait_for_load_state("networkidle")
            ready, line = page.evaluate("[probe.readyAt, probe.lineAt]")
            return sum(weights), len(weights), ready, line

    def first_token(self, times: int) -> Table:
        """Ask with the provider answering at once."""
        rows = []
        for name, messages in _LENGTHS:
            say(f"Enter to first token, {name}")
            with self.open(messages) as page:
                found = [_enter_to_first_token(page) for _ in range(times)]
            low, high = percentile(found, 0.5), percentile(found, 0.95)
            rows.append([name, number(low), number(high), number(min(found))])
        note = f"The provider answers at once. Milliseconds, {times} questions in one conversation."
        columns = ["conversation", "p50", "p95", "least"]
        return Table("Enter to first token in the page", columns, rows, note)

    def busy(self, prose: int, markdown: int) -> Table:
        """Watch the main thread while replies of so many tokens stream at 50 tokens/s."""
        kinds = (
            (f"{prose} tokens of prose", {"tokens": prose}),
            (f"{markdown} tokens of Markdown", {"tokens": markdown, "kind": "markdown"}),
        )
        rows = []
        for (name, messages), (kind, control) in product(_LENGTHS, kinds):
            say(f"main thread, {kind}, {name}")
            with self.open(messages) as page:
                _ask(page, sim(text=None, tokens=3))
                watched = _watch(page, sim(text=None, **control))
            row = [f"{kind}, {name}", number(watched.busy, 2), number(watched.seconds)]
            row += [str(len(watched.long_tasks)), number(max(watched.long_tasks, default=0), 0)]
            rows.append([*row, number(watched.shift, 3)])
        note = (
            "Seconds in which the main thread was busy, of so many that the reply took; tasks"
            " beyond 50 ms and the longest (ms); layout shift without input. 50 tokens/s."
        )
        columns = ["reply", "busy", "of", "long tasks", "longest", "shift"]
        return Table("Main thread while a reply streams", columns, rows, note)


# --- steps ---------------------------------------------------------------------------------------


def _enter_to_first_token(page: Page) -> float:
    _ask(page, sim(text=None, tokens=8))
    return float(page.evaluate("probe.firstAt - probe.sentAt"))


def _ask(page: Page, control: str) -> None:
    """Write a question, press Enter, and wait for the end of its reply."""
    page.fill("#ask", f"A question.\n{control}")
    page.wait_for_timeout(150)
    page.press("#ask", "Enter")
    _until(page, "probe.ended > 0")
    page.wait_for_timeout(150)


def _watch(page: Page, control: str) -> _Watched:
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable")
    page.fill("#ask", f"A question.\n{control}")
    page.wait_for_timeout(300)
    page.evaluate("probe.tasks.length = 0; probe.shifts = 0")
    before = _task_seconds(devtools)
    page.press("#ask", "Enter")
    _until(page, "probe.ended > 0", pause_ms=250)
    page.wait_for_timeout(300)
    busy = _task_seconds(devtools) - before
    told = page.evaluate("[probe.ended - probe.sentAt, probe.tasks, probe.shifts]")
    return _Watched(busy, told[0] / 1000, told[1], told[2])


def _task_seconds(devtools: CDPSession) -> float:
    metrics: list[dict[str, Any]] = devtools.send("Performance.getMetrics")["metrics"]
    return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))


def _until(page: Page, condition: str, *, pause_ms: int = 20) -> None:
    """Wait for a condition. The page's policy forbids eval, which `wait_for_function` needs."""
    deadline = time.monotonic() + END_SECONDS
    while not page.evaluate(f"Boolean({condition})"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition}: not within {END_SECONDS:g} s")
        page.wait_for_timeout(pause_ms)
