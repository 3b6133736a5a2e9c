"""Reading what was said: long conversations, copying, what stands under a reply."""

import pytest
from playwright.sync_api import expect

from accounts.models import User
from benchmarks.provider_simulator import sim
from conversations.models import Conversation, Message
from prompts.serving import live_version
from tests.browser.chat import Chat

pytestmark = pytest.mark.browser


def test_a_long_conversation_opens_at_its_end_and_shows_what_is_earlier(chat_of, olive: User):
    chat = chat_of(olive, _conversation_of(olive, turns=25))
    expect(chat.questions).to_have_count(20)
    expect(chat.questions.last).to_be_in_viewport()
    chat.page.get_by_role("link", name="Show earlier messages").click()
    expect(chat.questions).to_have_text([f"Question {number}" for number in range(25)])
    prose = chat.replies.locator(".prose")
    expect(prose).to_have_text([f"Reply {number}" for number in range(25)])
    expect(chat.page.get_by_role("link", name="Show earlier messages")).to_have_count(0)
    chat.ask("One more")
    chat.expect_finished(replies=26)


def _conversation_of(user: User, *, turns: int) -> Conversation:
    conversation = Conversation.objects.create(owner=user)
    messages: list[Message] = []
    for number in range(turns):
        asked = Message(conversation=conversation, role="user", state="said")
        asked.parent = messages[-1] if messages else None
        asked.content = f"Question {number}"
        told = Message(conversation=conversation, role="assistant", state="completed")
        told.parent, told.prompt_version, told.fence = asked, live_version(), number + 1
        told.content = f"Reply {number}"
        messages += [asked, told]
    Message.objects.bulk_create(messages)
    conversation.leaf, conversation.fence = messages[-1], turns
    conversation.save()
    return conversation


def test_code_and_replies_are_copied_as_they_were_written(chat_of, olive: User):
    chat = chat_of(olive, permissions=["clipboard-read", "clipboard-write"])
    chat.ask(sim(text="Like **this**:\n\n```python\nif x < 1:\n    y = '&'\n```\n"))
    chat.expect_finished()
    chat.reply.get_by_role("button", name="Copy", exact=True).click()
    expect(chat.status).to_have_text("Copied.")
    assert chat.page.evaluate("navigator.clipboard.readText()") == "if x < 1:\n    y = '&'\n"
    chat.reply.get_by_role("button", name="Copy reply").click()
    expect(chat.reply.locator("[data-copy-reply][data-done]")).to_be_visible()
    assert "Like this:" in chat.page.evaluate("navigator.clipboard.readText()")


def test_under_a_reply_stands_what_it_took(chat: Chat):
    chat.ask("Hello")
    chat.expect_finished()
    evidence = chat.reply.locator(".evidence")
    for fact in ("gpt-4o-mini", "General assistant v1", "5 out"):
        expect(evidence).to_contain_text(fact)
