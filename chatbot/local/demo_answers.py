"""What the demo provider says, and how: a question becomes a script.

It answers out of the documentation, shows what a reply can look like when asked to, and otherwise
says that it does not know. The same question always gets the same script, which is what makes
continuing possible: the rest of a reply is the script's text behind what was said already.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from itertools import count
from pathlib import Path

from chatbot.local.completions import (
    Json,
    asks_for_title,
    last_question,
    pieces,
    text_of,
)
from chatbot.local.demo_topics import GUIDE, Found, Section, Topics

_SPECIMENS = Path(__file__).parent / "specimens"
_LONGEST_REQUEST = 200
_LONGEST_QUOTE_WORDS = 260
_LONGEST_REPLY_WORDS = 50_000
_LONGEST_WAIT_SECONDS = 600.0
_TITLE_WORDS = 6

GREETING = (
    "Hello! I am Parley's demo: replies like this one show how the page works, but **no AI is "
    "connected**. I can answer questions about Parley out of its documentation. Ask me *what can "
    "I ask?* to see the topics, or say *show me markdown*."
)
NO_AI = "I am a demo without an AI"
NOTHING_TO_CONTINUE = "There is nothing to continue: the reply above was complete."
PHRASES = (
    ("show me markdown", "every kind of Markdown in one reply"),
    ("show me code", "code; also *in Python*, *in JavaScript*, *in SQL*"),
    ("show me a table", "a table"),
    ("long reply", "3,000 words with numbered paragraphs; also *long reply of 500 words*"),
    ("slow reply", "a first word after 8 seconds; also *slow reply after 3 seconds*"),
    ("think", "thinking before the reply; also *think about* a topic"),
    ("cut", "a reply that ends at its length limit and can be continued"),
    ("filter", "a reply that a content filter ends"),
    ("fail now", "an error instead of a reply (HTTP 500)"),
    ("busy", "a provider that has too much to do (HTTP 429)"),
    ("fail in the middle", "a connection that breaks after some text"),
    ("stall", "a reply that falls silent"),
    ("garbage", "a provider that sends nonsense"),
)


class Fault(Enum):
    """What goes wrong in the middle of a reply, after its text."""

    RESET = "the connection breaks"
    SILENCE = "nothing more comes, and the connection stays"
    GARBAGE = "what comes is no JSON"


@dataclass(frozen=True, slots=True)
class Script:
    """One reply: its text, its pace (None is the provider's own), and how it ends.

    A status other than 200 is the whole reply, with the text as its message. `unsaid` is text that
    belongs to the reply and does not come unless the reply is continued.
    """

    text: str
    thinking: str = ""
    unsaid: str = ""
    first_token_seconds: float | None = None
    tokens_per_second: float | None = None
    finish_reason: str = "stop"
    fault: Fault | None = None
    status: int = 200
    retry_after_seconds: int | None = None


class Answers:
    """All that the demo can say, given the documentation it may quote."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics

    def script(self, messages: list[Json]) -> Script:
        """Return the reply to a conversation; `messages` is not empty."""
        if asks_for_title(messages):
            return Script(title_for(messages))
        rest = self._continuation(messages)
        return rest or self._answer(last_question(messages))

    def _continuation(self, messages: list[Json]) -> Script | None:
        """Return what is left of the last reply, if that is what is asked for."""
        talk = [m for m in messages if m.get("role") in {"user", "assistant"}]
        orders = messages[-1] if messages[-1].get("role") != "assistant" else None
        if not any(m.get("role") == "assistant" for m in talk):
            return None
        if orders is not None and not _asks_to_continue(text_of(orders)):
            return None
        said = ""
        for message in reversed(talk):
            if message.get("role") == "assistant":
                said = text_of(message) + said
            elif not _asks_to_continue(text_of(message)):
                return self._rest(self._answer(text_of(message)), said)
        return None

    @staticmethod
    def _rest(script: Script, said: str) -> Script:
        whole = script.text + script.unsaid
        for begun in (said, said.rstrip()):
            if whole.startswith(begun):
                rest = whole[len(begun) :] or NOTHING_TO_CONTINUE
                return Script(rest, tokens_per_second=script.tokens_per_second)
        return Script(NOTHING_TO_CONTINUE)

    def _answer(self, question: str) -> Script:
        wish = _wish(question)
        for pattern, act in _ON_REQUEST:
            if asked := pattern.fullmatch(wish):
                return act(self, asked)
        found = self._topics.find(question)
        return Script(_quoted(found) if found else self._not_known())

    def _not_known(self) -> str:
        return f"{NO_AI}, and I do not know about that.\n\n{self._what_can_be_asked()}"

    def _what_can_be_asked(self) -> str:
        headings = dict.fromkeys(section.heading for section in self._guide() if section.level > 1)
        topics = "\n".join(f"- {heading}" for heading in headings) or "- nothing: there are no docs"
        phrases = "\n".join(f"- **{phrase}**: {shows}" for phrase, shows in PHRASES)
        return (
            f"You can ask me about these topics of Parley's documentation:\n\n{topics}\n\n"
            f"Or say one of these, to see what a reply can look like:\n\n{phrases}\n\n"
            "To talk to an AI, set `OPENAI_BASE_URL`, `OPENAI_API_KEY` and `OPENAI_MODEL`, and "
            "start Parley again."
        )

    def _guide(self) -> list[Section]:
        """Return the user guide's sections, or all if there is no guide."""
        everything = self._topics.sections
        return [s for s in everything if s.file == GUIDE] or everything

    # What is said on request. Each takes the match of its pattern.

    def _greet(self, _: re.Match[str]) -> Script:
        return Script(GREETING)

    def _thank(self, _: re.Match[str]) -> Script:
        return Script(f"You are welcome. {NO_AI}, but I have manners.")

    def _help(self, _: re.Match[str]) -> Script:
        return Script(f"{NO_AI}.\n\n{self._what_can_be_asked()}")

    def _show(self, asked: re.Match[str]) -> Script:
        return Script(_specimen(asked["what"]))

    def _show_code(self, asked: re.Match[str]) -> Script:
        languages = {"py": "python", "js": "javascript", "postgresql": "sql"}
        if language := asked["before"] or asked["after"]:
            return Script(_specimen(languages.get(language, language)))
        return Script("\n".join(_specimen(name) for name in ("python", "javascript", "sql")))

    def _long(self, asked: re.Match[str]) -> Script:
        words = int((asked["words"] or "3000").replace(",", "")[:9])
        return Script(long_text(min(words, _LONGEST_REPLY_WORDS)))

    def _slow(self, asked: re.Match[str]) -> Script:
        seconds = min(float(asked["seconds"] or 8), _LONGEST_WAIT_SECONDS)
        text = (
            f"The first word of this reply came after {seconds:g} seconds, and the rest comes at "
            "three words a second or so. You can stop it, leave the page and come back, or go on "
            "reading somewhere else: the reply is written all the same, and nothing of it is lost."
        )
        return Script(text, first_token_seconds=seconds, tokens_per_second=4)

    def _think(self, asked: re.Match[str]) -> Script:
        topic = (asked["topic"] or "").strip()
        thinking = (
            "The reader wants to see how thinking looks. I am a demo and cannot think, so I write "
            "a few sentences here instead.\n\nFirst I would look at the question from all sides. "
            "Then I would find the page of the documentation that answers it. Last I would choose "
            "words that are easy to read."
        )
        if topic:
            return replace(self._answer(topic), thinking=thinking)
        return Script(
            f"{NO_AI}, so what stands above under *Thinking* was written beforehand. A model that "
            "reasons shows its own thoughts there.",
            thinking=thinking,
        )

    def _cut(self, _: re.Match[str]) -> Script:
        begun, unsaid = _halves(_CUT_TEXT)
        return Script(begun, unsaid=unsaid, finish_reason="length")

    def _filter(self, _: re.Match[str]) -> Script:
        begun, unsaid = _halves("This reply was going well until the provider's content filter ")
        return Script(begun + unsaid, finish_reason="content_filter")

    def _fail_now(self, _: re.Match[str]) -> Script:
        return Script("The demo provider failed because it was asked to.", status=500)

    def _busy(self, _: re.Match[str]) -> Script:
        text = "The demo provider has too much to do because it was asked to."
        return Script(text, status=429, retry_after_seconds=2)

    def _break(self, asked: re.Match[str]) -> Script:
        fault = _FAULTS[asked["fault"]]
        begun, unsaid = _halves(
            f"This reply breaks in the middle, because it was asked to: {fault.value}. The words "
            "after that come only when the reply is continued or written again, and then you can "
            "read that the text so far was kept, with nothing doubled and nothing missing."
        )
        return Script(begun, unsaid=unsaid, fault=fault)


_CUT_TEXT = (
    "This reply ends before it is finished, because it came to its limit of tokens. What is said "
    "so far stays, and below it the page offers to continue. Continuing asks for the rest, and "
    "the rest begins at the very character where the first part ended: this is the second half, "
    "and here the reply is complete."
)
_FAULTS = {
    "fail in the middle": Fault.RESET,
    "break in the middle": Fault.RESET,
    "reset": Fault.RESET,
    "stall": Fault.SILENCE,
    "garbage": Fault.GARBAGE,
}

_LANGUAGE = r"(?:python|py|javascript|js|sql|postgresql)"
_ON_REQUEST: list[tuple[re.Pattern[str], Callable[[Answers, re.Match[str]], Script]]] = [
    (re.compile(pattern), act)
    for pattern, act in (
        (
            (
                r"(?:hello|hi|hey|howdy|greetings|welcome|good (?:morning|afternoon|evening|day))"
                r"(?: (?:there|parley|you|all|everybody|demo|again))*(?: how are you(?: today)?)?"
            ),
            Answers._greet,
        ),
        (r"(?:many )?thank(?:s| you)(?: (?:very|so) much| a lot)?", Answers._thank),
        (
            (
                r"help(?: me)?|topics|commands|what topics .*|what do you know|who are you"
                r"|what (?:can|may|could) (?:i|you) (?:ask|do)(?: (?:you|here|about))*"
                r"|are you an? (?:ai|bot|human)"
            ),
            Answers._help,
        ),
        (
            (
                r"(?:(?:show|give)(?: me)? )?(?:an? |some )?(?P<what>markdown|table)"
                r"(?: (?:demo|example))?"
            ),
            Answers._show,
        ),
        (
            (
                r"(?:(?:show|give|write)(?: me)? )?(?:an? |some )?"
                rf"(?:(?P<before>{_LANGUAGE}) )?code(?: (?:in )?(?P<after>{_LANGUAGE}))?"
            ),
            Answers._show_code,
        ),
        (
            (
                r"(?:(?:show|give|write)(?: me)? )?(?:an? )?long reply"
                r"(?: (?:of |with )?(?:about )?(?P<words>\d[\d,]*)(?: words?)?)?"
            ),
            Answers._long,
        ),
        (
            (
                r"(?:(?:show|give|write)(?: me)? )?(?:an? )?slow reply"
                r"(?: (?:after |of |in )?(?P<seconds>\d+(?:\.\d+)?) ?(?:s|seconds?)?)?"
            ),
            Answers._slow,
        ),
        (r"think(?: about (?P<topic>.+))?", Answers._think),
        (r"cut(?: (?:it|the reply|off|short))?", Answers._cut),
        (r"filter(?: (?:it|the reply))?", Answers._filter),
        (r"fail(?: now)?", Answers._fail_now),
        (r"busy(?: now)?", Answers._busy),
        (rf"(?P<fault>{'|'.join(_FAULTS)})(?: now)?", Answers._break),
    )
]

_CONTINUE = re.compile(
    r"(?:^|[.!:]\s+)\W*(?:please |now )*"
    r"(?:continue|go on|carry on|keep going|proceed|resume|pick up)\b"
    r"|\bwhere (?:you|it|the (?:reply|text)|your \w+(?: \w+)?) (?:left off|stopped|ended)\b",
    re.IGNORECASE,
)


def _asks_to_continue(text: str) -> bool:
    return len(text) <= 2 * _LONGEST_REQUEST and bool(_CONTINUE.search(text.strip()))


def _wish(question: str) -> str:
    """Return a question as the requests' patterns expect it; a longer text is no request."""
    if len(question) > _LONGEST_REQUEST:
        return ""
    words = re.sub(r"[^\w\s.,']|[.,](?!\d)", " ", question.lower()).split()
    return " ".join(word for word in words if word != "please")


def _quoted(found: Found) -> str:
    best = found.best
    quote = "\n".join(f"> {line}".rstrip() for line in _shortened(best).splitlines())
    text = f"**{best.heading}**, from `docs/{best.file}`:\n\n{quote}\n\n"
    if found.near:
        near = ", ".join(f"*{section.heading}* (`docs/{section.file}`)" for section in found.near)
        text += f"Near it: {near}.\n\n"
    return text + f"{NO_AI}: I looked for your words in the documentation."


def _shortened(section: Section) -> str:
    """Return a section's text, ended after a whole paragraph if it is long."""
    words = 0
    paragraphs = section.body.split("\n\n")
    for number, paragraph in enumerate(paragraphs):
        words += len(paragraph.split())
        fences = "\n\n".join(paragraphs[: number + 1]).count("```")
        if words >= _LONGEST_QUOTE_WORDS and not fences % 2 and number + 1 < len(paragraphs):
            return "\n\n".join([*paragraphs[: number + 1], "*(The section goes on there.)*"])
    return section.body


def _specimen(name: str) -> str:
    return (_SPECIMENS / f"{name}.md").read_text("utf-8")


def _halves(text: str) -> tuple[str, str]:
    parts = pieces(text)
    middle = len(parts) // 2
    return "".join(parts[:middle]), "".join(parts[middle:])


def long_text(words: int) -> str:
    """Return a structured text of at least that many words.

    Its paragraphs are numbered, so that a reader can see that none is missing and none doubled.
    """
    templates = _specimen("long").strip().split("\n\n<!-- next -->\n\n")
    blocks = ["# A long reply"]
    have = 4
    for number in count(1):
        if have >= words:
            break
        block = templates[number % len(templates)].replace("{n}", str(number))
        if number % len(templates) == 1:
            blocks.append(f"## Part {number // len(templates) + 1}")
        blocks.append(block)
        have += len(block.split())
    return "\n\n".join([*blocks, "This is the end of the long reply."])


_FILLERS = re.compile(
    r"^(?:(?:hi|hello|hey|please|so|well|ok|okay|can|could|would|will|you|i|we|tell|me|show|us|do"
    r"|does|did|how|what|is|are|the|a|an|to|about|want|need|know|like|explain|in|on|of|it|my|our"
    r"|give)\b\s*)+",
    re.IGNORECASE,
)


def title_for(messages: list[Json]) -> str:
    """Make a title out of the first words of what was asked first."""
    question = next((text_of(m) for m in messages if m.get("role") == "user"), "")
    if asks_for_title([{"role": "user", "content": question}]):
        # The order and the text it is about came in one message.
        question = question.partition("\n")[2] or question.partition(":")[2]
    asked = re.sub(r"^\s*(?:user|question|q)\s*:\s*", "", question, flags=re.IGNORECASE)
    words = re.sub(r"[^\w\s'.\[\]-]", " ", asked[:_LONGEST_REQUEST]).split()
    short = _FILLERS.sub("", " ".join(words)) or " ".join(words)
    title = " ".join(short.split()[:_TITLE_WORDS]).strip(" .-'")
    return title[:1].upper() + title[1:] or "New conversation"
