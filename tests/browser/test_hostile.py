"""What people and models say is text: whatever it looks like, it never runs."""

import pytest
from playwright.sync_api import Page, expect

from benchmarks.provider_simulator import sim
from tests.browser.chat import Chat

pytestmark = pytest.mark.browser

HOSTILE = """\
<script>fetch('/evil?script')</script> <img src=x onerror="fetch('/evil?img')">
<svg onload="fetch('/evil?svg')"></svg> <iframe srcdoc="<script>alert(1)</script>"></iframe>
<hx-partial hx-target="#thread" hx-swap="innerHTML">taken over</hx-partial>
<div hx-get="/evil?get" hx-trigger="load"></div> <form action="/evil"><button>x</button></form>

<div hx-on:click="alert(1)" hx-ws:connect="/evil">block</div>

[link](javascript:alert(1)) [data](data:text/html,<script>alert(1)</script>)
[title](/x "<hx-partial onclick=alert(1) hx-get=/evil x>") ![picture](https://evil.example/x.png)
<a href="/x" title="<hx-partial onclick=alert(1) hx-get=/evil?title hx-trigger=load x>">y</a>

```html
<hx-partial hx-target="#thread" hx-swap="innerHTML"><script>fetch('/evil?fence')</script>
```

```<hx-partial hx-get=/evil hx-trigger=load>
x
```

| <hx-partial hx-get=/evil?cell hx-trigger=load> | b |
| --- | --- |
| <img src=x onerror=alert(1)> | `<hx-x onclick=alert(1)>` |
"""
TITLE = "<img src=x onerror=alert(1)><hx-partial hx-target='#thread'>"


def test_hostile_questions_and_replies_stay_text(chat: Chat):
    asked = _requests_of(chat.page)
    chat.ask(HOSTILE + "\n" + sim(text=HOSTILE, chunk_characters=3, tokens_per_second=600))
    chat.expect_finished()
    for _ in ("streamed", "reloaded"):
        expect(chat.questions).to_contain_text("<script>fetch('/evil?script')</script>")
        expect(chat.prose).to_contain_text('<hx-partial hx-target="#thread" hx-swap="innerHTML">')
        _expect_harmless(chat, asked)
        chat.page.reload()


def test_a_hostile_title_stays_text(chat: Chat):
    asked = _requests_of(chat.page)
    chat.ask("Name this.\n" + sim(title={"text": TITLE}))
    listed = chat.page.locator("#sidebar [aria-current=page]")
    for _ in ("streamed", "reloaded"):
        expect(chat.title).to_have_text(TITLE)
        expect(listed).to_have_text(TITLE)
        expect(chat.page).to_have_title(f"{TITLE} · Parley")
        _expect_harmless(chat, asked)
        chat.page.reload()


def _requests_of(page: Page) -> list[str]:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    return asked


def _expect_harmless(chat: Chat, asked: list[str]) -> None:
    """No request that the text wanted, no element or attribute that could act."""
    found = chat.page.evaluate(
        """() => [...document.querySelectorAll("#thread *, #sidebar *, #title *")].filter((e) =>
            /^(script|iframe|object|embed|hx-|img|base|meta|link|style)/i.test(e.localName)
            || (e.closest(".prose") && /^(form|input|template)$/i.test(e.localName))
            || [...e.attributes].some((a) => /^on/i.test(a.name) || /^javascript:/i.test(a.value)
              || (e.parentElement.closest(".prose") && /^(hx-|data-hx)/i.test(a.name)))
        ).map((e) => e.outerHTML)"""
    )
    assert found == []
    assert [url for url in asked if "evil" in url] == []
    for link in chat.prose.locator("a").all():
        assert (link.get_attribute("href") or "").startswith(("/x", "http"))
