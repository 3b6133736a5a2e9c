"""What the provider is told: the prompt, then the branch of messages up to the reply."""

import uuid
from collections.abc import Iterable

from conversations.models import Message
from prompts.provider import ChatMessage

CONTINUE = "Continue exactly where you stopped. Repeat nothing and do not comment on the pause."


def messages_for(reply: Message) -> list[ChatMessage]:
    """Return the chat messages that ask for this reply, oldest first.

    One query when the reply came with its prompt version.
    """
    assert reply.prompt_version is not None, "a reply has a prompt version"
    told: list[ChatMessage] = [{"role": "system", "content": reply.prompt_version.content}]
    everything = Message.objects.filter(conversation_id=reply.conversation_id).only(
        "id", "parent_id", "role", "state", "content_sealed"
    )
    told += [
        {"role": message.role, "content": content}
        for message in branch(everything, reply.parent_id)
        if (content := message.content)
    ]
    if so_far := reply.content:
        told += [
            {"role": "assistant", "content": so_far},
            {"role": "user", "content": CONTINUE},
        ]
    return told


def branch(messages: Iterable[Message], leaf_id: uuid.UUID | None) -> list[Message]:
    """Return the messages from the first one to `leaf_id`, following the parents."""
    by_id = {message.pk: message for message in messages}
    path: list[Message] = []
    while leaf_id is not None and leaf_id in by_id:
        path.append(by_id[leaf_id])
        leaf_id = path[-1].parent_id
    return path[::-1]
