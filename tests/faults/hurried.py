"""The same application, with two seconds to drain instead of twenty."""

from chatbot.asgi import application
from conversations.reply.runner import ReplyRunner

ReplyRunner.drain.__defaults__ = (2.0,)

__all__ = ["application"]
