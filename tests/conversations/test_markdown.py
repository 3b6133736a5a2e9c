"""Markdown in chunks: what the stream builds is what a reload shows, and nothing in it runs."""

import re
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversations.reply.markdown import BlockStream, Delta, Final, render

SPECIFICATION = Path(__file__).parent.parent / "data" / "commonmark-0.31.2.txt"

OUR_EXAMPLES = [
    "Intro\n\n| A | B |\n|---|--:|\n| 1 | 2 |\n| 3 | 4 |\n\nAfter\n",
    "para\n| a | b |\n|---|---|\nnot | a cell\n\n- x\n",
    "1. a\n\n   ```py\n   x = 1\n   ```\n2. b\n\n   c\n\nd\n",
    "```python\ndef f():\n    return '``'\n``\n ```x\n   ```\nafter\n",
    "````md\n```py\nx\n```\n````\n\n~~~\nopen\n",
    "   ```\n   indented\n     more\n   ```\ntext",
    "a [late] b\n\nc\n\n[late]: https://example.com 'title'\n",
    '[x]: https://example.com\n"title\nover lines\n===\nand more"\n\n[x]\n',
    "[foo\n===\nbar]: https://example.com\n\n[foo === bar]\n",
    "# a\n## b\nText\n---\n> q\nlazy\n\n***\n    code\n\n    more\nend",
    "- a\n- b\n\n\n- c\n  - d\n\n        code\n\ne\n* f\n1) g\n",
    "www.example.com, https://example.com/x?y=1 ~~gone~~ ![alt](https://example.com/i.png)",
    "```\nunfinished ``",
    "| only | a row |\n",
    "line\rline\r\nline\r\r\n```\r\ncode\r\n```\r\n\x00 \ud83d \ude00 \ud83d\ude00",
]


def specification_examples() -> list[str]:
    fenced = re.compile(r"^`{32} example\n(.*?)^\.\n.*?^`{32}$", re.DOTALL | re.MULTILINE)
    examples = fenced.findall(SPECIFICATION.read_text(encoding="utf-8"))
    return [example.replace("→", "\t") for example in examples]


EXAMPLES = specification_examples()


def appended(html: str, path: str, suffix: str) -> str:
    """What `beforeend` at this path does, where nothing but ends of tags stands behind it."""
    assert re.fullmatch(r"(?:>(?:figure|pre|code|(?:p|li|ul|ol|blockquote):last-child))+", path)
    names = re.findall(r">(\w+)", path)
    ends = re.search(r"(?:\s*</\w+>)*\s*$", html)
    assert ends
    assert re.findall(r"</(\w+)>", ends[0]) == names[::-1]
    at = ends.start() if names[-1] != "code" else html.rindex("</code>")
    return html[:at] + suffix + html[at:]


@dataclass
class Page:
    """What the browser does with a stream's deltas."""

    closed: list[str] = field(default_factory=list)
    open: str = ""
    bytes_received: int = 0

    def apply(self, delta: Delta) -> None:
        self.closed.append(delta.closed)
        if delta.open is not None:
            self.open = delta.open
        if delta.suffix:
            assert delta.open is None
            self.open = appended(self.open, delta.into, delta.suffix)
        self.bytes_received += len((delta.closed + (delta.open or "") + delta.suffix).encode())

    def end(self, final: Final) -> str:
        self.closed.append(final.closed)
        self.open = ""
        return final.html if final.differs else self.shown

    @property
    def shown(self) -> str:
        return "".join(self.closed) + self.open


def streamed(chunks: list[str], *, flush: bool = False) -> tuple[Page, BlockStream]:
    page, stream = Page(), BlockStream()
    for chunk in chunks:
        page.apply(stream.feed(chunk))
    if flush:
        page.apply(stream.feed("", flush=True))
    return page, stream


def pieces_of(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def chunks_of(data: st.DataObject, text: str) -> list[str]:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12).map(sorted))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def assert_equals_reload(chunks: list[str]) -> None:
    page, stream = streamed(chunks)
    final = stream.finish()
    whole = render("".join(chunks))
    assert final.html == whole
    assert page.end(final) == whole


documents = st.lists(st.sampled_from(EXAMPLES + OUR_EXAMPLES), min_size=1, max_size=5).map(
    "\n\n".join
)
# Text made of what Markdown is made of, where lines run into each other more than people write.
LINES = ["a b", "|", "|-", "- ", "  ", "    ", "```", "~~~", "# ", "> ", "1. ", "===", "---", "\t"]
MARKS = ["*", "**", "`", '"', "'", "\\", "[a]", "[a]: /u", "]: /u", "[b", '"t', "|a|b|\n|-|-|\n"]
ENDS = ["\n", "\n", "\n\n", "\r", "\r\n"]
scraps = st.lists(st.sampled_from(LINES + MARKS + ENDS), max_size=30).map("".join)
thorough = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def test_the_specification_has_all_its_examples() -> None:
    assert len(EXAMPLES) == 652


@pytest.mark.parametrize("size", [1, 4, 7])
def test_every_example_streams_to_what_a_reload_shows(size: int) -> None:
    for text in EXAMPLES + OUR_EXAMPLES:
        assert_equals_reload(pieces_of(text, size))


@thorough
@given(st.data(), documents)
def test_any_document_in_any_chunks_streams_to_what_a_reload_shows(
    data: st.DataObject, text: str
) -> None:
    assert_equals_reload(chunks_of(data, text))


@thorough
@given(st.data(), scraps)
def test_any_scraps_in_any_chunks_stream_to_what_a_reload_shows(
    data: st.DataObject, text: str
) -> None:
    assert_equals_reload(chunks_of(data, text))


def test_only_late_references_make_the_stream_differ() -> None:
    differing = [t for t in EXAMPLES if streamed(pieces_of(t, 4))[1].finish().differs]
    assert differing
    assert all("]:" in text for text in differing)


@thorough
@given(st.data(), st.one_of(documents, scraps))
def test_a_page_rendered_in_mid_stream_goes_on_with_the_same_deltas(
    data: st.DataObject, text: str
) -> None:
    cut = data.draw(st.integers(0, len(text)))
    page, stream = streamed(chunks_of(data, text[:cut]), flush=True)
    resumed, closed, open_html = BlockStream.resume(text[:cut])
    assert ("".join(page.closed), page.open) == (closed, open_html)
    reloaded, taken_over = Page([closed], open_html), Page([closed], open_html)
    for chunk in chunks_of(data, text[cut:]):
        reloaded.apply(stream.feed(chunk))
        taken_over.apply(resumed.feed(chunk))
    assert reloaded.end(stream.finish()) == render(text)
    assert taken_over.end(resumed.finish()) == render(text)


def test_every_example_resumes_at_every_place() -> None:
    for text in EXAMPLES[::5] + OUR_EXAMPLES:
        page, stream = Page(), BlockStream()
        for end in range(1, len(text) + 1):
            page.apply(stream.feed(text[end - 1], flush=True))
            _, closed, open_html = BlockStream.resume(text[:end])
            assert ("".join(page.closed), page.open) == (closed, open_html), text[:end]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("word " * 4_000, id="one paragraph"),
        pytest.param("- an item of a list\n" * 400, id="one list"),
        pytest.param("| a | b |\n|---|---|\n" + "| one | two |\n" * 400, id="one table"),
        pytest.param("> quoted\n" * 800, id="one quote"),
        pytest.param("```python\n" + "x = [1, 2]\n" * 3_000, id="one fence"),
        pytest.param("- a\n\n" * 800, id="a loose list, each line after a blank one"),
        pytest.param("".join(f"[{i}]: /u\n" for i in range(400)), id="definitions"),
        pytest.param("|a" * 40 + "\n" + "|-" * 40 + "\n" + "|\n" * 400, id="cells out of nothing"),
    ],
)
def test_bytes_stay_in_proportion_to_the_text(text: str) -> None:
    sizes = []
    for part in (text[: len(text) // 2], text):
        page, _ = streamed(pieces_of(part, 20))
        sizes.append(page.bytes_received)
        assert page.bytes_received < 40 * len(part) + 20_000
    assert sizes[1] < 2.5 * sizes[0] + 20_000


def test_a_closed_block_and_the_text_of_a_fence_are_sent_once() -> None:
    text = "First paragraph.\n\n```text\n" + "unique line\n" * 50
    page, _ = streamed(pieces_of(text, 6))
    assert page.open.count("unique line") == 50
    assert "".join(page.closed).count("First paragraph.") == 1
    assert page.bytes_received < len(text) + 1_000


@pytest.mark.parametrize(
    ("start", "path"),
    [
        ("It is", ">p:last-child"),
        ("Text.\n\n1. One\n   - It", ">ol:last-child>li:last-child>ul:last-child>li:last-child"),
        ("> It is **so**, and", ">blockquote:last-child>p:last-child"),
    ],
)
def test_words_are_shown_with_every_frame_however_long_the_block(start: str, path: str) -> None:
    page, stream = streamed([start], flush=True)
    for number in range(500):
        delta = stream.feed(f" word{number}")
        assert delta == Delta(suffix=f" word{number}", into=path)
        page.apply(delta)
    assert stream.feed("", flush=True) == Delta()
    assert page.shown.count("word") == 500


def test_what_seemed_words_and_was_more_is_put_right() -> None:
    page, stream = streamed(["See www"], flush=True)
    page.apply(stream.feed(".example.com and so on"))
    assert "<a" not in page.shown
    page.apply(stream.feed("", flush=True))
    assert '<a href="http://www.example.com"' in page.shown


def test_a_block_after_a_long_list_is_shown_at_once() -> None:
    _, stream = streamed(pieces_of("- an item\n" * 500, 20))
    stream.feed("\n")
    assert "</ul>" in stream.feed("And so it ends.\nIt").closed


def test_flush_shows_what_would_wait() -> None:
    page, stream = streamed(["**word** " * 200, "one **more**"])
    assert "one <strong>" not in page.shown
    page.apply(stream.feed("", flush=True))
    assert "one <strong>more" in page.shown
    assert stream.feed("", flush=True) == Delta()


@pytest.mark.parametrize("line", ["```python", "## ", "| Name | Amount |", "---", "1."])
def test_a_line_is_not_shown_before_it_is_clear_what_it_is(line: str) -> None:
    page, stream = streamed(["Text.\n\n"])
    before = page.shown
    for character in line:
        page.apply(stream.feed(character))
        assert page.shown == before


def test_a_fence_keeps_its_head_when_it_closes_and_has_colours_only_then() -> None:
    page, stream = streamed(["```python\n", "def f(): ...\n", "``"])
    opened = page.open
    assert ">def f(): ...\n</code>" in opened
    delta = stream.feed("`\n")
    assert '<span class="k">def</span>' in delta.closed
    assert delta.open == ""
    head = opened.partition("<code")[0]
    assert head == delta.closed.partition("<code")[0]
    assert "<span>Python</span>" in head
    assert 'aria-label="Python code"' in head


def test_code_keeps_every_character() -> None:
    code = '\n\n  # ünïcode\n\tprint("<b>&amp;")\n\n\n'
    for language in ("python", "js", "html", "bash", "yaml", "diff", "console", "json", "rust"):
        html = render(f"```{language}\n{code}```")
        inside = html.partition("<code>")[2].partition("</code>")[0]
        assert unescape(re.sub(r"<[^>]*>", "", inside)) == code


def test_unknown_languages_are_named_as_written_and_none_is_text() -> None:
    assert "<span>Text</span>" in render("```\nx\n```")
    assert "<span>Text</span>" in render("    x")
    assert "<span>parleyscript</span>" in render("```parleyscript v=1\nx\n```")
    assert f"<span>{'y' * 23}…</span>" in render(f"```{'y' * 500}\nx\n```")


def test_tables_scroll_have_a_name_and_right_aligned_figures() -> None:
    html = render("| Invoice | *Amount* | |\n|---|--:|:-:|\n| 1 | 2 | 3 |")
    start = '<div class="scroll" tabindex="0" role="group" aria-label="Table: Invoice, Amount">'
    assert html.startswith(start + "<table>")
    assert '<th scope="col" class="num"><em>Amount</em></th>' in html
    assert '<td class="num">2</td>\n<td>3</td>' in html
    assert "<td></td>\n</tr>\n</thead>" in html
    assert "style" not in html


def test_headings_stand_below_the_heading_of_their_turn() -> None:
    html = render("# a\n## b\n### c\n###### f\n")
    assert html.splitlines() == [
        '<h3 class="major">a</h3>',
        '<h3 class="major">b</h3>',
        "<h3>c</h3>",
        "<h3>f</h3>",
    ]


def test_links_open_elsewhere_and_tell_nothing() -> None:
    html = render("[a](https://example.com) www.example.com mailto:a@example.com b@example.com")
    assert html.count('target="_blank" rel="noopener noreferrer nofollow"') == 3
    assert 'href="http://www.example.com"' in html
    assert "b@example.com</p>" in html


def test_images_are_links_and_never_loaded() -> None:
    html = render(
        "![a *cat*](https://example.com/c.png) [![in](https://e.com/i.png)](https://e.com)"
    )
    assert "<img" not in html
    assert ">a cat</a>" in html
    assert html.count("<a ") == 2
    assert render("![none](data:image/png;base64,xx)") == "<p>none</p>\n"


def test_containers_beyond_the_depth_stay_text() -> None:
    html = render(">" * 40 + " deep")
    assert "deep" in html
    assert html.count("<blockquote>") < 20
    assert "deep" in render("".join("  " * i + "- deep\n" for i in range(40)))


def test_long_runs_stay_plain() -> None:
    assert "<em>" not in render("*a* " * 5_000)
    assert "<em>" in render("*a* " * 500)


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>\n\n<iframe src=javascript:alert(1)>",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1)) [b](  javascript:alert(1)) [c](java\tscript:alert(1))",
    "[a](&#106;avascript:alert(1)) [b](javascript&colon;alert(1)) [c](&#x1;javascript:alert(1))",
    "[a](vbscript:x) [b](data:text/html;base64,PHNjcmlwdD4=) [c](file:///etc/passwd)",
    "<javascript:alert(1)> <data:text/html,x>",
    "[a]\n\n[a]: javascript:alert(1) '<hx-partial hx-get=/x>'",
    "![x](javascript:alert(1)) ![<hx-partial onclick=x>](https://example.com/<hx-a>)",
    '[a](https://example.com "<hx-partial onclick=alert(1) hx-get=/evil x>")',
    '[a](https://example.com/"onmouseover="alert(1))',
    "<hx-partial hx-target=body>x</hx-partial>",
    "`<hx-partial hx-get=/x>`",
    "```<hx-partial hx-get=/x>\n<hx-partial hx-get=/x>\n```",
    '```"><hx-partial\n</code></pre><hx-partial hx-get=/x>\n```',
    "    <hx-partial hx-get=/x>",
    '| <hx-partial a> | "><script>x</script> |\n|---|---|\n| <hx-a> | </table><hx-a> |',
    '| a" onfocus="alert(1) autofocus |\n|---|\n| b |',
    "# <hx-partial>\n\n- <hx-partial>\n\n> <hx-partial>",
    "https://example.com/<hx-partial> www.example.com/<hx-partial>",
    "&lt;hx-partial&gt; &#60;script&#62; \\<script>",
    '<pre title="x"><code>y</code></pre><table title="z">',
    "\ud83d<script>\x00</script>",
]


class Inventory(HTMLParser):
    """Lists the elements and attributes of some HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


OUR_TAGS = re.compile(
    "a|blockquote|br|button|code|div|em|figcaption|figure|h[234]|hr|li|ol|p|path|pre|rect|s|span"
    "|strong|svg|table|tbody|td|th|thead|tr|ul"
)
OUR_ATTRIBUTES = re.compile(
    "aria-hidden|aria-label|class|d|data-copy|height|href|rel|role|rx|scope|start|tabindex"
    "|target|title|type|viewbox|width|x|y"
)


def assert_harmless(html: str) -> None:
    assert "<hx-" not in html.lower()
    found = Inventory(html)
    assert all(OUR_TAGS.fullmatch(tag) for tag in found.tags)
    for name, value in found.attributes:
        assert OUR_ATTRIBUTES.fullmatch(name)
        assert name != "href" or re.match(r"(https?://|mailto:)", value), value
    html.encode()  # has no lone surrogate


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    assert_harmless(render(text))
    page, stream = Page(), BlockStream()
    for character in text:
        page.apply(stream.feed(character))
        assert_harmless(page.shown)
        page.apply(stream.feed("", flush=True))
        assert_harmless(page.shown)
    assert_harmless(page.end(stream.finish()))


@thorough
@given(st.lists(st.sampled_from(HOSTILE), min_size=2, max_size=4), st.sampled_from(["", "\n", " "]))
def test_hostile_texts_together_stay_text(texts: list[str], joint: str) -> None:
    assert_harmless(render(joint.join(texts)))


@thorough
@given(st.data(), st.text(alphabet="\r\n\0a`\ud83d\ude00é", max_size=30))
def test_any_line_ends_nul_and_surrogates_in_any_chunks(data: st.DataObject, text: str) -> None:
    assert_equals_reload(chunks_of(data, text))
    assert_harmless(render(text))


def test_halves_of_a_pair_meet_across_chunks() -> None:
    page, stream = streamed(["\ud83d", "\ude00 a\r", "\n\r\nb"])
    assert page.end(stream.finish()) == "<p>😀 a</p>\n<p>b</p>\n"


@pytest.mark.parametrize(
    "text",
    [
        ">" * 10_000,
        "[" * 5_000,
        "![" * 3_000,
        "*a " * 8_000,
        "`" * 20_000,
        " ".join("`" * length for length in range(1, 150)),
        "- " * 5_000 + "a",
        ">" * 50 + "a\n" + "lazy\n" * 1_000,
        "".join("  " * depth + "- a\n" for depth in range(200)),
    ],
)
def test_pathological_text_ends_and_streams_to_what_a_reload_shows(text: str) -> None:
    assert_equals_reload(pieces_of(text, 5_000))
