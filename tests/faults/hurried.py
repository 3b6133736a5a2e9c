"""The same application, with two seconds of patience: to drain, and for a silent provider."""

from chatbot.asgi import application
from conversations.reply.runner import ReplyRunner
from prompts import provider

ReplyRunner.drain.__defaults__ = (2.0,)
provider.BETWEEN_TOKENS_SECONDS = 2.0

__all__ = ["application"]
