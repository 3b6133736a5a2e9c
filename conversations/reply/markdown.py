"""Blocks of safe HTML from chunks of Markdown (CommonMark 0.31.2, tables, strikethrough, links).

`render` gives the HTML of a whole text. `BlockStream` gives the same while the text arrives: a
block that is complete is rendered once, appended and never touched again; what comes after it is
the open remainder, which grows by suffixes where text is just text (words of a paragraph or list,
the inside of a code fence) and is replaced where marks may mean something.

What holds, whatever the chunks:

- Applying every `Delta` and then `Final` leaves exactly `render(text)` on the page.
- After `feed(..., flush=True)` the page is a function of the text alone, so a page rendered by
  `BlockStream.resume` goes on with the deltas of the stream that was flushed at the same text.
- Work and bytes are linear. The open remainder is looked at again only when there are marks to
  show and it has grown by a share of what the last look cost, or when a line may have closed it
  (that, too, is paid for by new text).
- The text is hostile. Raw HTML is off in the parser, its result passes an allowlist (nh3), and only
  then the frames of code and tables, constants of ours, come around it. Nesting, long runs of text,
  wide tables and long code are bounded; beyond the bounds the text stays plain.

A block closes only when a complete line has opened the next one: until then a partial line could
still join it. A code fence closes by its own last line. A reference definition that arrives after a
block which uses it changes that block; `Final.differs` says so.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import import_module
from itertools import groupby
from operator import itemgetter
from time import thread_time
from typing import Any, Self

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import unescapeAll
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock, blockquote, list_block
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from pygments.lexers import get_all_lexers, get_lexer_by_name
from pygments.token import Comment, Keyword, Name, Number, Operator, String, _TokenType

# One new character pays for so many characters that are parsed or sent again.
SHARE = 28
# Containers open no deeper than this (a quote is one level, a list two); what is deeper stays text.
DEEPEST_LEVEL = 12
# A longer run of text is shown as it was written, without emphasis or links (characters).
LONGEST_INLINE = 16_000
# Longer code, or code with a longer line or blank run, is not coloured (characters). Some lexers
# are quadratic or worse (20 s for 20,000 line ends in C), so CPU time is bounded too: code that
# needs more stays plain. Ordinary code of the longest kind takes a third of it.
LONGEST_COLOURED = 12_000
LONGEST_COLOURED_LINE = 1_000
LONGEST_COLOURED_BLANK = 500
MOST_COLOURING_SECONDS = 0.25
# Cells that one table may add to rows that are too short; by default 1.8 KB of text give 650 KB.
MOST_ADDED_CELLS = 1_000
# A line that may still become a fence or a table is held back up to this length (characters).
LONGEST_HELD_LINE = 400
LONGEST_TABLE_NAME = 80
LONGEST_LANGUAGE = 24

References = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed on the page: append `closed`, replace the open remainder or let it grow."""

    closed: str = ""
    """HTML of the blocks that are now complete; goes before the open remainder, once."""
    open: str | None = None
    """HTML that replaces the open remainder; None leaves the one that is shown."""
    suffix: str = ""
    """Escaped text for the end of the element `into`; never together with `open`."""
    into: str = ""
    """CSS path of that element, to be put behind a selector of the open remainder."""


@dataclass(frozen=True, slots=True)
class Final:
    """The end of a stream. The open remainder goes; `closed` takes its place."""

    closed: str
    """HTML of what was not closed yet."""
    html: str
    """HTML of the whole text, equal to `render(text)`."""
    differs: bool
    """Whether the blocks on the page, `closed` included, are not `html`; it must replace them."""


def render(text: str) -> str:
    """Return the safe HTML of a whole text of Markdown: what a reload shows."""
    blocks, references = _parse(_Intake().take(text, last=True))
    return "".join(_html(block, references) for block in blocks)


class BlockStream:
    """One text on its way to a page. Not for use from several threads at once."""

    def __init__(self) -> None:
        self._intake = _Intake()
        self._closed: list[str] = []  # HTML, and beside it source and last lines (exclusive)
        self._sources: list[str] = []
        self._ends: list[int] = []
        self._references: dict[str, Any] = {}  # defined in closed blocks
        self._tail = ""  # complete lines behind the closed blocks
        self._fresh: list[str] = []  # behind the tail, from the beginning of a line
        self._fence: _OpenFence | None = None
        self._kind = ""  # of the last open block: the type of its first token
        self._shown: str | None = ""  # HTML of the open remainder; None once a fence has grown it
        self._end: _TextEnd | None = None  # where plain text grows it
        self._is_stale = False  # something that arrived is not on the page
        self._unseen = self._price = self._credit = 0  # characters; see `_is_worth_a_look`
        self._scanned, self._after_blank = 0, True  # how far `_may_close` has read

    @classmethod
    def resume(cls, text: str) -> tuple[Self, str, str]:
        """Return the stream after `text` with all of it shown, and the page: closed and open HTML.

        It goes on exactly like any other stream that was fed `text` and flushed.
        """
        stream = cls()
        delta = stream.feed(text, flush=True)
        return stream, delta.closed, delta.open or ""

    def feed(self, text: str, *, flush: bool = False) -> Delta:
        """Take the next piece of the text and return what changes on the page.

        Pieces may end anywhere, also between CR and LF or between the halves of a surrogate pair.
        With `flush` everything is shown, even what would wait for more text; of an open fence all
        but the beginning of what looks like its last line.
        """
        text = self._intake.take(text)
        if self._fence:
            return self._grow_fence(self._fence, text, flush=flush)
        self._fresh.append(text)
        self._unseen += len(text)
        self._credit += SHARE * len(text)
        suffix = into = ""
        if self._end and not self._is_stale and self._end.takes(text):
            suffix = self._end.grow(text)
            into = self._end.path if suffix else ""
        else:
            self._is_stale = self._is_stale or bool(text)
        waits = self._is_stale and self._is_worth_a_look(text)
        if waits or (flush and (self._is_stale or self._unseen)):
            delta = self._look(flush=flush)
            if delta.open is not None:  # the suffix is in it
                return delta
            return Delta(delta.closed, None, suffix, into)
        return Delta(suffix=suffix, into=into)

    @property
    def holds_back(self) -> bool:
        """Whether something that arrived is not shown yet."""
        return self._is_stale

    def finish(self) -> Final:
        """End the text and return what is left of it; the stream takes no more."""
        tail = "".join((self._tail, *self._fresh, self._intake.take("", last=True)))
        # Blocks are found again in the whole text, which is cheap, so that the result is right even
        # if later text changed what an earlier line means.
        whole, references = _parse("".join((*self._sources, tail)))
        count = len(self._ends)
        agrees = [block.end for block in whole[:count]] == self._ends
        if agrees and not references:
            closed = "".join(_html(block, references) for block in whole[count:])
            return Final(closed, "".join((*self._closed, closed)), differs=False)
        parts = [_html(block, references) for block in whole]
        closed, html = "".join(parts[count:]) if agrees else "", "".join(parts)
        return Final(closed, html, differs="".join((*self._closed, closed)) != html)

    def _is_worth_a_look(self, text: str) -> bool:
        if self._unseen * SHARE >= self._price:
            return True
        if "\n" in text and self._may_close() and self._credit >= self._price:
            self._credit -= self._price
            return True
        return False

    def _may_close(self) -> bool:
        """Whether a line that was completed since the last look seems to open another block."""
        fresh = "".join(self._fresh)
        self._fresh = [fresh]
        end = fresh.rfind("\n")
        lines = fresh[self._scanned : end].split("\n")
        self._scanned = end + 1
        goes_on = _GOES_ON.get(self._kind)
        found = False
        for line in lines:
            is_blank = not line.strip(" \t")
            if not is_blank and (self._after_blank or _OPENER.match(line)):
                found = found or not (goes_on and goes_on.match(line))
            self._after_blank = is_blank
        return found

    def _look(self, *, flush: bool) -> Delta:
        """Close what can be closed and bring the open remainder up to date."""
        lines, newline, partial = "".join(self._fresh).rpartition("\n")
        self._tail += lines + newline
        self._fresh = [partial]
        blocks, references = _parse(self._tail)
        closed, blocks = self._close(blocks, references)
        self._unseen = self._scanned = 0
        self._after_blank = not self._last_line().strip()
        self._kind = blocks[-1].kind if blocks else ""
        fence = _open_fence(blocks, self._tail)
        if fence:
            return self._enter_fence(fence, partial, closed)
        held = "" if flush else self._undecided(partial)
        visible = (self._tail + partial).removesuffix(held)
        if visible != self._tail:
            blocks, references = _parse(visible)
        known = {**references, **self._references}
        html = "".join(_html(block, known, is_open=True) for block in blocks)
        self._price = max(len(visible), len(html))
        self._is_stale = bool(held)
        replaced = self._replace(html)
        self._end = None if held else _TextEnd.of(html, visible)
        return Delta(closed, replaced)

    def _close(self, blocks: "list[_Block]", new: References) -> "tuple[str, list[_Block]]":
        """Move the blocks that can't change any more out of the tail; return their HTML, the rest.

        `new` are the references defined in the tail. A block sees those defined before the next
        one begins, no matter in how many pieces the text came.
        """
        lines = self._tail.split("\n")
        count = _count_complete(blocks, lines)
        if not count:
            return "", blocks
        html = []
        for block, following in zip(blocks[:count], (*blocks[1:], None), strict=False):
            seen = new if following is None else _defined_before(following.start, new)
            html.append(_html(block, {**seen, **self._references}))
        first_line = self._ends[-1] if self._ends else 0
        end = blocks[count - 1].end
        self._ends += [first_line + block.end for block in blocks[:count]]
        self._references = {**_defined_before(end, new), **self._references}
        source = "".join(f"{line}\n" for line in lines[:end])
        self._sources.append(source)
        self._closed += html
        self._tail = self._tail[len(source) :]
        return "".join(html), [block.moved_up(end) for block in blocks[count:]]

    def _undecided(self, partial: str) -> str:
        """The end of the text that may yet turn out to be no text at all, or something else.

        Showing it would let a paragraph flash up before it becomes a fence, a heading or a table.
        """
        held = partial if _UNDECIDED.fullmatch(partial) else ""
        if self._kind == "table_open":
            return held
        if partial and not held:
            return partial if _ROW.match(partial) else ""
        last_line = self._last_line()
        return last_line + held if _ROW.match(last_line) else held

    def _last_line(self) -> str:
        return self._tail[self._tail.rfind("\n", 0, -1) + 1 :]

    def _replace(self, html: str) -> str | None:
        shown, self._shown = self._end.html() if self._end else self._shown, html
        return None if html == shown else html

    def _enter_fence(self, fence: "_OpenFence", partial: str, closed: str) -> Delta:
        """Show the fence; from here on the remainder grows by suffixes."""
        self._fence, self._shown, self._end, self._is_stale = fence, None, None, False
        code = fence.code + (fence.take(partial) or "")
        head = _figure_start(fence.label)
        return Delta(closed, head + escape(code, quote=False) + _FIGURE_END)

    def _grow_fence(self, fence: "_OpenFence", text: str, *, flush: bool) -> Delta:
        self._fresh.append(text)
        shown = fence.take(text)
        if shown is not None:
            return Delta(suffix=escape(shown, quote=False), into=_INTO_FENCE)
        self._fence = None
        return self._look(flush=flush)


# --- what grows by suffixes


class _TextEnd:
    """The end of an open remainder that is plain text, which more plain text just makes longer.

    A guess that the next look checks: it renders all, and replaces what came out otherwise.
    """

    def __init__(self, path: str, head: str, tail: str, space: str, *, in_link: bool) -> None:
        self.path = path
        self._parts, self._tail = [head], tail
        self._space = space  # shown only when something follows it
        self._marks = _MARKS_IN_LINK if in_link else _MARKS

    @classmethod
    def of(cls, html: str, text: str) -> "_TextEnd | None":
        """Return the end of `html`, the rendering of `text`, or None if it is something else."""
        found = _TEXT_END.search(html)
        bare = text.rstrip(" ")
        if not found or not bare or _MARKS.match(bare[-1]):
            return None
        names = reversed(_CLOSING.findall(found[0]))
        path = "".join(f">{name}:last-child" for name in names)
        start = found.start() + 1
        return cls(path, html[:start], html[start:], text[len(bare) :], in_link="](" in text)

    def takes(self, text: str) -> bool:
        """Whether `text` holds nothing that might be more than words."""
        return not self._marks.search(text)

    def grow(self, text: str) -> str:
        """Return the HTML to append for `text`."""
        text = self._space + text
        bare = text.rstrip(" ")
        self._space = text[len(bare) :]
        html = escape(bare, quote=False)
        self._parts.append(html)
        return html

    def html(self) -> str:
        """Return the HTML of the open remainder as it stands on the page."""
        return "".join((*self._parts, self._tail))


# Text, and behind it only the ends of blocks that words go on in. `;` ends what was escaped.
_TEXT_END = re.compile(r"[^>;\s](?:\s*</(?:p|li|ul|ol|blockquote)>)+\s*$")
_CLOSING = re.compile(r"</(\w+)>")
_MARKS = re.compile(r"[\n\t*_`~\[\]<>&!\\/]")
_MARKS_IN_LINK = re.compile(r"[\n\t*_`~\[\]()<>&!\\/]")


# --- what arrives


class _Intake:
    """Text in pieces, made regular: LF alone ends a line, and there is no NUL and no surrogate.

    What would depend on the next piece (CR, the first half of a surrogate pair) waits for it.
    """

    def __init__(self) -> None:
        self._kept = ""

    def take(self, text: str, *, last: bool = False) -> str:
        text = self._kept + text
        waits = not last and text[-1:] and (text[-1] == "\r" or "\ud800" <= text[-1] <= "\udbff")
        self._kept, text = (text[-1], text[:-1]) if waits else ("", text)
        text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
        if text.isascii() or not _SURROGATE.search(text):
            return text
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


_SURROGATE = re.compile("[\ud800-\udfff]")


class _OpenFence:
    """The inside of an unindented code fence: which of its text is code, and where it ends."""

    def __init__(self, markup: str, info: str) -> None:
        self.label = _language(info)[0]
        self.code = ""  # complete lines that came together with the first one
        self._markup = markup
        self._held = ""  # the beginning of a line that may become the last one
        self._at_line_start = True

    def take(self, text: str) -> str | None:
        """Return the code to show after more text, or None when the last line was among it."""
        text, self._held = self._held + text, ""
        start = 0
        while start < len(text):
            end = text.find("\n", start) + 1
            if self._at_line_start:
                line = text[start : end - 1] if end else text[start:]
                if end and _ends_fence(line, self._markup):
                    return None
                if not end and self._could_end(line):
                    self._held = line
                    return text[:start]
            self._at_line_start = bool(end)
            start = end or len(text)
        return text

    def _could_end(self, line: str) -> bool:
        return not line.strip(" \t").strip(self._markup[0]) and _indent(line) < 4


def _open_fence(blocks: "Sequence[_Block]", tail: str) -> _OpenFence | None:
    """The fence that is all there is in the tail, if it is one that can grow by suffixes."""
    if len(blocks) != 1 or blocks[0].kind != "fence":
        return None
    lines = tail.split("\n")
    token = blocks[0].tokens[0]
    if not lines[blocks[0].start].startswith(token.markup):
        return None  # indented: its lines would lose as much
    fence = _OpenFence(token.markup, token.info)
    fence.code = "\n".join(lines[blocks[0].start + 1 :])
    return fence


def _ends_fence(line: str, markup: str) -> bool:
    """CommonMark 4.5: at most three spaces, at least as many marks, and nothing behind them."""
    marks = line.strip(" \t")
    return len(marks) >= len(markup) and not marks.strip(markup[0]) and _indent(line) < 4


def _indent(line: str) -> int:
    """Columns before the text, up to four; a tab reaches the fourth from anywhere before it."""
    start = line[: len(line) - len(line.lstrip(" \t"))][:4]
    return 4 if "\t" in start else len(start)


# --- blocks


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of the top level: its lines (from `start`, before `end`) and its tokens."""

    start: int
    end: int
    tokens: list[Token]

    @property
    def kind(self) -> str:
        return self.tokens[0].type

    def moved_up(self, lines: int) -> "_Block":
        return _Block(self.start - lines, self.end - lines, self.tokens)

    @property
    def is_underlined(self) -> bool:
        return self.kind == "heading_open" and self.tokens[0].markup in {"=", "-"}


def _parse(text: str) -> tuple[list[_Block], References]:
    """Return the blocks of the top level, their inline content not parsed yet, and references."""
    env: dict[str, Any] = {}
    tokens: list[Token] = []
    _MARKDOWN.block.parse(text, _MARKDOWN, env, tokens)
    blocks, first = [], 0
    for index, token in enumerate(tokens):
        if token.level == 0 and token.nesting <= 0:
            start, end = tokens[first].map or (0, 0)
            blocks.append(_Block(start, end, tokens[first : index + 1]))
            first = index + 1
    return blocks, env.get("references", {})


def _count_complete(blocks: Sequence[_Block], lines: Sequence[str]) -> int:
    """How many blocks at the front no further line can change; all `lines` are complete."""
    if not blocks:
        return 0
    count, last = len(blocks) - 1, blocks[-1]
    if last.kind == "fence":
        line, markup = lines[last.end - 1], last.tokens[0].markup
        return count + (last.end - last.start > 1 and _ends_fence(line, markup))
    # The title of a definition may go on over the lines that directly follow it, also over what
    # looks like an underlined heading; so these wait for a blank line.
    while count and _may_join(blocks[count - 1], blocks[count]):
        count -= 1
    return count


def _may_join(block: _Block, following: _Block) -> bool:
    """Whether a definition that begins in or before `block` may yet take in `following`."""
    return (
        block.end == following.start
        and (block.kind == "definition" or block.is_underlined)
        and (following.kind in {"paragraph_open", "definition"} or following.is_underlined)
    )


def _defined_before(line: int, references: References) -> References:
    return {label: ref for label, ref in references.items() if ref["map"][0] < line}


# Lines with which a block of this kind just goes on. Only a hint: the parser decides.
_GOES_ON = {
    "bullet_list_open": re.compile(r"[-+*][ \t]|[ \t]"),
    "ordered_list_open": re.compile(r"\d{1,9}[.)]|[ \t]"),
    "blockquote_open": re.compile(r" {0,3}>"),
    "table_open": re.compile(r" {0,3}\|"),
    "code_block": re.compile(r" {4}|\t"),
}
_OPENER = re.compile(r" {0,3}(?:[-+*#>|_=]|`{3}|~{3}|\d{1,9}[.)])")
_ROW = re.compile(rf" {{0,3}}\|.{{0,{LONGEST_HELD_LINE}}}$")
_UNDECIDED = re.compile(
    rf"[-=+*_#>|:`~ \t]*|[ \t]*\d{{1,9}}[.)]?[ \t]*| {{0,3}}(?:```|~~~).{{0,{LONGEST_HELD_LINE}}}"
)


# --- from tokens to safe HTML


def _html(block: _Block, references: References, *, is_open: bool = False) -> str:
    """Return the HTML of one block. Code in an open one has no colours: it is shown again soon."""
    state = StateCore("", _MARKDOWN, {"references": references, "is_open": is_open}, block.tokens)
    for rule in _INLINE_RULES:
        rule(state)
    html = _CLEANER.clean(_MARKDOWN.renderer.render(block.tokens, _MARKDOWN.options, state.env))
    # The frames come around what is already clean; a text can't hold these tags, a `<` is escaped.
    html = _PRE.sub(lambda pre: _figure_start(pre[1]), html).replace("</code></pre>", _FIGURE_END)
    return _TABLE.sub(_TABLE_START, html).replace("</table>", "</table></div>")


def _figure_start(label: str) -> str:
    """What stands before code; `label` is escaped already."""
    return (
        f'<figure class="code"><figcaption><span>{label}</span>{_COPY}</figcaption>'
        f'<pre tabindex="0" aria-label="{label} code"><code>'
    )


_COPY = (
    '<button class="button quiet" type="button" data-copy>'
    '<svg class="icon" viewBox="0 0 24 24" aria-hidden="true">'
    '<rect x="9" y="9" width="10" height="11" rx="1"/>'
    '<path d="M5 15V5a1 1 0 0 1 1-1h9"/></svg> Copy</button>'
)
_FIGURE_END = "</code></pre></figure>"
_INTO_FENCE = ">figure>pre>code"
_PRE = re.compile(r'<pre title="([^"]*)"><code>')
_TABLE = re.compile(r'<table title="([^"]*)">')
_TABLE_START = r'<div class="scroll" tabindex="0" role="group" aria-label="\1"><table>'


class _Renderer(RendererHTML):
    """HTML as the look has it. Every public method is the rule for the token of its name."""

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        label, alias = _language(tokens[idx].info)
        code = tokens[idx].content
        html = escape(code, quote=False) if env["is_open"] else _coloured(code, alias)
        return f'<pre title="{label}"><code>{html}</code></pre>\n'

    code_block = fence

    def heading_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        # Each turn has an h2. Whatever level a reply begins with, none is left out below it.
        return '<h3 class="major">' if tokens[idx].tag in {"h1", "h2"} else "<h3>"

    def heading_close(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        return "</h3>\n"

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Never loaded, which would tell its server who reads what: a link to it."""
        token = tokens[idx]
        text = escape(self.renderInlineAsText(token.children, options, env)) or "Image"
        address = str(token.attrs.get("src", ""))
        if token.meta.get("in_link") or not _FOLLOWED.match(address):
            return text
        return f'<a href="{escape(address)}">{text}</a>'

    def table_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        names = []
        for token in tokens[idx:]:
            if token.type == "thead_close":
                break
            if token.type == "inline":
                names.append(self.renderInlineAsText(token.children, options, env))
        named = ", ".join(name for name in names if name)
        name = _shortened(f"Table: {named}" if named else "Table", LONGEST_TABLE_NAME)
        return f'<table title="{name}">\n'

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        # A header without text would be announced as nothing for every cell below it.
        tag = 'th scope="col"' if tokens[idx + 1].content else "td"
        return f"<{tag}{_alignment(tokens[idx])}>"

    def th_close(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        return "</th>\n" if tokens[idx - 1].content else "</td>\n"

    def td_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f"<td{_alignment(tokens[idx])}>"

    def definition(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        return ""


def _alignment(token: Token) -> str:
    return ' class="num"' if token.attrs.get("style") == "text-align:right" else ""


def _shortened(text: str, longest: int) -> str:
    """Return the text on one line of at most `longest` characters, escaped."""
    text = " ".join(text.split())
    return escape(text if len(text) <= longest else f"{text[: longest - 1]}…")


def _parse_inline(state: StateCore) -> None:
    for token in state.tokens:
        if token.type != "inline":
            continue
        token.children = []
        if len(token.content) <= LONGEST_INLINE:
            state.md.inline.parse(token.content, state.md, state.env, token.children)
        else:
            plain = Token("text", "", 0)
            plain.content = token.content
            token.children.append(plain)


def _tame_links(state: StateCore) -> None:
    """Leave of a link that is not followed only its text, and tell images that stand in one."""
    for token in state.tokens:
        in_link = False
        for child in token.children or ():
            if child.type == "link_open":
                in_link = bool(_FOLLOWED.match(str(child.attrs.get("href", ""))))
                child.hidden = not in_link
            elif child.type == "link_close":
                child.hidden, in_link = not in_link, False
            elif child.type == "image":
                child.meta["in_link"] = in_link


_FOLLOWED = re.compile(r"https?://|mailto:", re.IGNORECASE)


# --- code


def _language(info: str) -> tuple[str, str]:
    """Return the escaped name of a language for the head of its code, and Pygments' alias or ""."""
    words = unescapeAll(info).split(maxsplit=1)
    word = words[0] if words else ""
    alias = word.lower()
    if alias in {"", "text", "txt", "plain", "plaintext"}:
        return "Text", ""
    name = _languages().get(alias)
    return (escape(name), alias) if name else (_shortened(word, LONGEST_LANGUAGE), "")


@cache
def _languages() -> dict[str, str]:
    return {alias: name for name, aliases, *_ in get_all_lexers(plugins=False) for alias in aliases}


def _coloured(code: str, alias: str) -> str:
    """Return code as HTML, in the few colours that the look has; plain where that is not safe."""
    runs = _runs(code, alias) if alias and _may_be_coloured(code) else [("", code)]
    return "".join(
        f'<span class="{colour}">{escape(text, quote=False)}</span>'
        if colour
        else escape(text, quote=False)
        for colour, text in runs
    )


def _may_be_coloured(code: str) -> bool:
    return len(code) <= LONGEST_COLOURED and not _HARD_TO_COLOUR.search(code)


_HARD_TO_COLOUR = re.compile(
    rf"[^\n]{{{LONGEST_COLOURED_LINE + 1}}}|\s{{{LONGEST_COLOURED_BLANK + 1}}}"
)


def _runs(code: str, alias: str) -> list[tuple[str, str]]:
    """Return code as runs of one colour each; one run without colour when that takes too long."""
    deadline = thread_time() + MOST_COLOURING_SECONDS
    pieces: list[tuple[str, str]] = []
    for kind, value in get_lexer_by_name(alias, stripnl=False, ensurenl=False).get_tokens(code):
        pieces.append((_colour(kind), value))
        if thread_time() > deadline:
            return [("", code)]
    runs = [
        (colour, "".join(value for _, value in group))
        for colour, group in groupby(pieces, key=itemgetter(0))
    ]
    # Some lexers normalise, but what is copied must be what was written.
    return runs if "".join(text for _, text in runs) == code else [("", code)]


@cache
def _colour(kind: _TokenType | None) -> str:
    while kind is not None:
        if kind in _COLOURS:
            return _COLOURS[kind]
        kind = kind.parent
    return ""


# Pygments' short classes, each for its whole family: these are the ones that the look gives colour.
_COLOURS = {
    Comment: "c",
    Comment.Preproc: "k",
    Keyword: "k",
    Name.Builtin: "nb",
    Name.Tag: "nt",
    Number: "m",
    Operator.Word: "ow",
    String: "s",
}


# --- the parser and the allowlist, each made once


def _make_parser() -> MarkdownIt:
    options = {"html": False, "linkify": True, "inline_definitions": True, "xhtmlOut": False}
    parser = MarkdownIt("commonmark", options, renderer_cls=_Renderer)
    parser.enable(["table", "strikethrough", "linkify"]).disable(["html_block", "html_inline"])
    interrupts = ["paragraph", "reference", "blockquote", "list"]
    parser.block.ruler.at("blockquote", _bounded(blockquote), {"alt": interrupts})
    parser.block.ruler.at("list", _bounded(list_block), {"alt": interrupts[:3]})
    table_rule = import_module("markdown_it.rules_block.table")
    vars(table_rule).update(MAX_AUTOCOMPLETED_CELLS=MOST_ADDED_CELLS)
    _set_up_linkify(parser.linkify)
    parser.core.ruler.at("inline", _parse_inline)
    parser.core.ruler.push("tame_links", _tame_links)
    return parser


BlockRule = Callable[[StateBlock, int, int, bool], bool]


def _bounded(rule: BlockRule) -> BlockRule:
    """The same rule down to a depth: the parser would drop what is nested deeper than it likes."""

    def bounded(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        return state.level < DEEPEST_LEVEL and rule(state, start, end, silent)

    return bounded


def _set_up_linkify(linkify: Any) -> None:
    """Only what says that it is an address: a scheme that may be followed, or `www.`."""
    linkify.set({"fuzzy_link": False, "fuzzy_email": False, "fuzzy_ip": False})
    host_and_path = linkify.re["src_host_port_strict"] + linkify.re["src_path"]
    www = {"validate": re.compile(f"^{host_and_path}", re.IGNORECASE), "normalize": _complete}
    linkify.add("ftp:", None).add("//", None).add("www.", www)


def _complete(_linkify: Any, match: Any) -> None:
    match.url = f"http://{match.url}"


_MARKDOWN = _make_parser()
_INLINE_RULES = [
    rule
    for name, rule in zip(
        _MARKDOWN.core.ruler.get_active_rules(), _MARKDOWN.core.ruler.getRules(""), strict=True
    )
    if name not in {"normalize", "block"}
]
_TEXT_TAGS = {"a", "br", "code", "em", "s", "span", "strong"}
_BLOCK_TAGS = {"blockquote", "h3", "hr", "li", "ol", "p", "pre", "ul"}
_TABLE_TAGS = {"table", "tbody", "td", "th", "thead", "tr"}
_CLEANER = nh3.Cleaner(
    tags=_TEXT_TAGS | _BLOCK_TAGS | _TABLE_TAGS,
    clean_content_tags=set(),
    attributes={
        "a": {"href", "title"},
        "ol": {"start"},
        "pre": {"title"},
        "table": {"title"},
        "th": {"scope"},
    },
    allowed_classes={
        "h3": {"major"},
        "span": set(_COLOURS.values()),
        "td": {"num"},
        "th": {"num"},
    },
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
    link_rel="noopener noreferrer nofollow",
    set_tag_attribute_values={"a": {"target": "_blank"}},
)
