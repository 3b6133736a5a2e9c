"""Where websockets lead."""

from channels.routing import URLRouter
from django.urls import path

from conversations.consumers import ConversationConsumer

router = URLRouter(
    [
        # django-stubs knows views only; an ASGI application is routed the same way.
        path("ws/conversations/<uuid:conversation_id>/", ConversationConsumer.as_asgi()),  # type: ignore[arg-type,list-item]
    ]
)
