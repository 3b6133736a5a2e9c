"""Take the pictures of the documentation: `make screenshots`.

Starts Parley with the demo provider on data of its own, visits the main pages in Chromium, light
and dark, on a desktop and a phone, and writes PNGs into docs/screenshots.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "screenshots"
SIZES = {1280: 800, 390: 844}
SCHEMES = ("light", "dark")
START_SECONDS = 120
PATIENCE_MS = 60_000

Facts = dict[str, Any]


def main() -> None:
    """Write all pictures."""
    chromium = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if chromium is None:
        sys.exit("There is no Chromium. Install it (apt install chromium) or set CHROMIUM=/path.")
    expect.set_options(timeout=PATIENCE_MS)
    PICTURES.mkdir(exist_ok=True)
    with running_parley() as facts, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        take_all(browser, facts)
        browser.close()
    pictures = list(PICTURES.glob("*.png"))
    total = sum(picture.stat().st_size for picture in pictures)
    print(f"{len(pictures)} pictures, {total // 1024} KB, in docs/screenshots")  # noqa: T201


@contextmanager
def running_parley() -> Iterator[Facts]:
    """Run `make up` on fresh data; yields what its run.json says."""
    with tempfile.TemporaryDirectory(prefix="parley-pictures-") as folder:
        data = Path(folder) / "data"
        kept = ("PATH", "HOME", "LANG", "TMPDIR")
        env = {name: os.environ[name] for name in kept if name in os.environ}
        env |= {"DATA": str(data), "PORT": "0", "HOST": "127.0.0.1"}
        with (Path(folder) / "log").open("w+") as log:
            command = [sys.executable, "-m", "chatbot.local.up"]
            parley = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)  # noqa: S603
            try:
                yield _facts(parley, data / "run.json", log.name)
            finally:
                parley.terminate()
                parley.wait()


def _facts(parley: "subprocess.Popen[bytes]", path: Path, log: str) -> Facts:
    deadline = time.monotonic() + START_SECONDS
    while not path.exists():
        if parley.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"Parley did not start:\n{Path(log).read_text()}")
        time.sleep(0.1)
    facts: Facts = json.loads(path.read_text())
    return facts


def take_all(browser: Browser, facts: Facts) -> None:
    """Talk once, then take every page in every scheme and size."""
    member = signed_in(browser, facts, "member")
    talk(member, facts["url"], ["What is Parley?"])
    broken = talk(member, facts["url"], ["fail in the middle"])
    chat = talk(member, facts["url"], ["Show me a table", "Show me code in SQL"])
    administrator = signed_in(browser, facts, "administrator")
    take(browser, facts, "sign-in", "/account/sign-in/", None)
    take(browser, facts, "first", "/", member)
    take(browser, facts, "chat", chat, member)
    take(browser, facts, "error", broken, member)
    take(browser, facts, "account", "/account/", member)
    take(browser, facts, "admin", "/admin/accounts/user/", administrator)


def signed_in(browser: Browser, facts: Facts, role: str) -> Page:
    """Return a page of somebody with this role."""
    account = facts["accounts"][role]
    page = browser.new_context(base_url=facts["url"]).new_page()
    page.goto("/account/sign-in/")
    page.get_by_label("Email").fill(account["email"])
    page.get_by_label("Password").fill(account["password"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#ask")).to_be_visible()
    return page


def talk(page: Page, url: str, questions: list[str]) -> str:
    """Begin a conversation, ask one question after the other, and return its path."""
    page.goto(url)
    for number, question in enumerate(questions, start=1):
        page.locator("#ask").fill(question)
        page.locator("#ask").press("Enter")
        expect(page.locator(".turn.reply")).to_have_count(number)
        expect(page.locator(".turn.reply .said:not([aria-busy]) .evidence dl")).to_have_count(
            number
        )
    path: str = page.evaluate("location.pathname")
    return path


def take(browser: Browser, facts: Facts, name: str, path: str, person: Page | None) -> None:
    """Take one page in every scheme and size, as `person` sees it."""
    cookies = person.context.cookies() if person else []
    for scheme, (width, height) in product(SCHEMES, SIZES.items()):
        context = browser.new_context(
            base_url=facts["url"],
            color_scheme=scheme,
            locale="en-GB",
            viewport={"width": width, "height": height},
            is_mobile=width < 600,
            has_touch=width < 600,
        )
        context.add_cookies(cookies)
        page = context.new_page()
        page.goto(path)
        if name == "chat":
            page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=PICTURES / f"{name}-{scheme}-{width}.png", caret="hide")
        context.close()


if __name__ == "__main__":
    main()
