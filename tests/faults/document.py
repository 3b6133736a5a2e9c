"""A page without a browser: a tree of elements that takes frames as htmx and `chat.js` do.

As much of HTML as the project's own pages and sanitised Markdown need, which is well-formed. A
morph leaves what a replacement leaves, but for elements that are marked to keep what they hold.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


@dataclass(eq=False)
class Element:
    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: "list[Element | str]" = field(default_factory=list)
    parent: "Element | None" = None

    def walk(self) -> "Iterator[Element]":
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, selector: str) -> "list[Element]":
        """Return what a selector means, in the page's order; ` ` goes from one to what it holds,
        `>` to its children."""
        outer, _, inner = selector.rpartition(" ")
        holders = self.all(outer) if outer else [self]
        first, *steps = inner.split(">")
        found = [element for holder in holders for element in holder.walk() if element.fits(first)]
        for step in steps:
            found = [child for one in found for child in one.elements() if child.fits(step)]
        return found

    def elements(self) -> "list[Element]":
        return [child for child in self.children if isinstance(child, Element)]

    def first(self, selector: str) -> "Element | None":
        return next(iter(self.all(selector)), None)

    def fits(self, selector: str) -> bool:
        """Whether `#id`, `.class` or `tag` means this element, each perhaps with
        `:not(:has(#id))` or `:last-child` behind it."""
        if selector.endswith(":last-child"):
            is_last = self.parent is not None and self.parent.elements()[-1] is self
            return is_last and self.fits(selector.removesuffix(":last-child"))
        plain, _, absent = selector.removesuffix("))").partition(":not(:has(")
        if absent and self.first(absent):
            return False
        if plain.startswith("#"):
            return self.attributes.get("id") == plain[1:]
        if plain.startswith("."):
            return plain[1:] in self.attributes.get("class", "").split()
        return self.tag == plain

    def text(self) -> str:
        parts = (child if isinstance(child, str) else child.text() for child in self.children)
        return "".join(parts)

    def words(self) -> str:
        """The text as a person reads it, where runs of white space are one space."""
        return " ".join(self.text().split())

    def inner_html(self) -> str:
        return "".join(
            escape(child, quote=False) if isinstance(child, str) else child.html()
            for child in self.children
        )

    def html(self) -> str:
        attributes = "".join(f' {name}="{escape(v)}"' for name, v in self.attributes.items())
        if self.tag in VOID:
            return f"<{self.tag}{attributes}>"
        return f"<{self.tag}{attributes}>{self.inner_html()}</{self.tag}>"

    def adopt(self, children: "list[Element | str]") -> None:
        """Take these as the only children."""
        self.children = children
        for child in children:
            if isinstance(child, Element):
                child.parent = self


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self._open = Element("")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, parent=self._open)
        self._open.children.append(element)
        if tag not in VOID:
            self._open = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:  # of SVG
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self._open.tag == tag, f"</{tag}> closes <{self._open.tag}>"
        assert self._open.parent is not None
        self._open = self._open.parent

    def handle_data(self, data: str) -> None:
        self._open.children.append(data)


def parsed(html: str) -> Element:
    """Return a nameless element around what `html` holds."""
    builder = _Builder()
    builder.feed(html)
    builder.close()
    assert builder._open is builder.root, f"<{builder._open.tag}> stays open"
    return builder.root


def _keep_marked(new: Element, old: Element) -> None:
    """What a morph does not touch: elements of the same id that say so."""
    for element in list(new.walk()):
        held = old.first(f"#{element.attributes['id']}") if "id" in element.attributes else None
        if held is None:
            continue
        if "hx-morph-skip-children" in element.attributes:
            element.adopt(held.children)
        elif "hx-morph-skip" in element.attributes:
            element.attributes = held.attributes
            element.adopt(held.children)


class Document:
    """A page as it stands, and its place in the log."""

    def __init__(self, html: str) -> None:
        self.root = parsed(html)
        self.seen: tuple[int, int] | None = None
        self.told: tuple[int, int] | None = None
        self.snapshots = 0

    def take(self, message: str) -> None:
        """Apply a message of the socket, unless what it brings is on the page already."""
        envelope = json.loads(message)
        if "id" in envelope:
            fence, number = map(int, envelope["id"].split(":"))
        else:
            assert self.told is not None, "the first frame of a line names its place"
            fence, number = self.told[0], self.told[1] + 1
        self.told = (fence, number)
        over = envelope.get("over", False)
        if not over and self.seen is not None and self.told <= self.seen:
            return
        self.snapshots += over
        self.seen = self.told
        self.apply(envelope["content"])

    def cursor(self) -> str:
        """The place in the log, as the address of the socket names it."""
        assert self.seen is not None
        return f"{self.seen[0]}:{self.seen[1]}"

    def apply(self, html: str) -> None:
        """Apply the pieces of a frame or of an answer.

        As in htmx all targets are looked up before the first piece is applied, so that no piece
        finds what another of the same message brings.
        """
        pieces = parsed(html).all("hx-partial")
        targets = [self.root.first(piece.attributes["hx-target"]) for piece in pieces]
        for piece, target in zip(pieces, targets, strict=True):
            if target is not None:
                _swap(target, piece.attributes["hx-swap"], piece)

    # --- what a person sees ----------------------------------------------------------------------

    def one(self, selector: str) -> Element:
        found = self.root.first(selector)
        assert found is not None, f"{selector} is not on the page"
        return found

    def replies(self) -> int:
        return len(self.root.all(".reply"))

    def last_reply(self) -> Element:
        """The last reply; an element without anything before there is one."""
        return (self.root.all(".reply") or [Element("")])[-1]

    def prose(self) -> str:
        """The last reply's HTML."""
        found = self.last_reply().first(".prose")
        return found.inner_html() if found else ""

    def text(self) -> str:
        """The last reply's words."""
        found = self.last_reply().first(".prose")
        return found.words() if found else ""

    def notice(self) -> str:
        """What stands under the last reply about its end, with the button's name in brackets."""
        found = self.last_reply().first(".notice")
        if found is None:
            return ""
        said, button = found.first("p"), found.first("button")
        assert said is not None
        return said.words() + (f" [{button.words()}]" if button else "")

    def title(self) -> str:
        """The conversation's title in the bar."""
        return self.one("#title").words()

    def refusal(self) -> str:
        """What stands above the composer about a message that was not taken."""
        found = self.one("#refusal")
        counts = any("data-until" in element.attributes for element in found.walk())
        return found.words() + (" [The seconds are counted down.]" if counts else "")

    def warning(self) -> str:
        """What stands above the composer about the budget."""
        return self.one("#budget").words()

    def figures(self) -> str:
        """The line under the last reply: model, tokens, cost."""
        found = self.last_reply().first(".evidence")
        return found.words() if found else ""

    def thread(self) -> str:
        """Everything that stands in the thread, as words."""
        return self.one("#thread").words()

    def is_writing(self) -> bool:
        said = self.last_reply().first(".said")
        return said is not None and "aria-busy" in said.attributes

    def offers_stop(self) -> bool:
        return self.one("#act").attributes["aria-label"] == "Stop the reply"


def _swap(target: Element, how: str, piece: Element) -> None:
    if how == "textContent":
        target.adopt([piece.text()])
        return
    if how in {"outerMorph", "innerMorph"}:
        _keep_marked(piece, target)
    if how in {"innerHTML", "innerMorph"}:
        target.adopt(piece.children)
    elif how == "outerMorph":
        [new] = (child for child in piece.children if isinstance(child, Element))
        target.attributes = new.attributes
        target.adopt(new.children)
    elif how == "beforeend":
        target.adopt([*target.children, *piece.children])
    elif target.parent is not None:  # else it was replaced by a piece before
        _swap_beside(target, how, piece)


def _swap_beside(target: Element, how: str, piece: Element) -> None:
    parent = target.parent
    assert parent is not None
    at = parent.children.index(target)
    match how:
        case "beforebegin":
            new: list[Element | str] = [*piece.children, target]
        case "outerHTML":
            new, target.parent = piece.children, None
        case "delete":
            new, target.parent = [], None
        case _:
            raise AssertionError(f"hx-swap={how} is not known here")
    parent.adopt([*parent.children[:at], *new, *parent.children[at + 1 :]])
