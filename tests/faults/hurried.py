"""The same application, with two seconds of patience: to drain, and for a silent provider."""

from django.conf import settings

from chatbot.asgi import application
from conversations.reply.runner import ReplyRunner

ReplyRunner.drain.__defaults__ = (2.0,)
settings.PROVIDER_BETWEEN_TOKENS_SECONDS = 2.0

__all__ = ["application"]
