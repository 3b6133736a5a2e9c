"""The chat page as a person uses it: what they see by its place, what they do by its name."""

import re

from playwright.sync_api import Locator, Page, expect

from conversations.models import Conversation, Message


class Chat:
    """A conversation in one tab."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.field = page.locator("#ask")
        self.act = page.locator("#act")
        self.status = page.locator("#status")
        self.title = page.locator("#title")
        self.refusal = page.locator("#refusal")
        self.line = page.locator("#line")
        self.questions = page.locator(".turn.question .prose")
        self.replies = page.locator(".turn.reply")

    @property
    def reply(self) -> Locator:
        return self.replies.last

    @property
    def prose(self) -> Locator:
        return self.reply.locator(".prose")

    @property
    def notice(self) -> Locator:
        return self.reply.locator(".notice")

    def open(self, at: str | Conversation = "/") -> "Chat":
        self.page.goto(at if isinstance(at, str) else at.get_absolute_url())
        return self

    def ask(self, text: str) -> None:
        self.field.fill(text)
        self.page.wait_for_load_state()  # before the page's script is there, Enter begins a line
        self.field.press("Enter")

    def stop(self) -> None:
        self.page.get_by_role("button", name="Stop the reply").click()

    def expect_writing(self, *, characters: int = 40) -> None:
        """Wait until a reply is being written and so many characters of it stand there."""
        expect(self.reply.locator(".said[aria-busy=true]")).to_be_visible()
        expect(self.prose).to_have_text(re.compile(rf"[\s\S]{{{characters}}}"))

    def expect_finished(self, replies: int = 1) -> None:
        """Wait until so many replies stand there and the last one has ended."""
        expect(self.replies).to_have_count(replies)
        expect(self.reply.locator(".said:not([aria-busy]) > .tools")).to_be_visible()

    def as_parsed(self, html: str) -> str:
        """`html` as this browser writes it out again, to compare it with what stands there."""
        parse = "html => { const t = document.createElement('div'); t.innerHTML = html;"
        return self.page.evaluate(parse + " return t.innerHTML }", html)


def last_reply() -> Message:
    """The newest reply, as it is stored."""
    return Message.objects.filter(role=Message.Role.ASSISTANT).latest("created_at")
