from django.urls import path, re_path

from conversations import api, openai_api, views
from conversations.doors import problems

urlpatterns = [
    path("", views.new_conversation, name="new_conversation"),
    path("c/<uuid:conversation_id>/", views.conversation, name="conversation"),
    path("c/<uuid:conversation_id>/messages", views.ask, name="ask"),
    path("c/<uuid:conversation_id>/stop", views.stop, name="stop"),
    path(
        "c/<uuid:conversation_id>/replies/<uuid:reply_id>/continue",
        views.continue_reply,
        name="continue",
    ),
    path("problems/", problems.index, name="problems"),
    path("problems/<slug:code>/", problems.page, name="problem"),
    path("", api.api.urls),
    re_path(r"^api/", api.unknown),
    path("v1/chat/completions", openai_api.chat_completions, name="openai_chat_completions"),
    path("v1/models", openai_api.models, name="openai_models"),
    path("v1/models/<path:name>", openai_api.model, name="openai_model"),
    re_path(r"^v1/", openai_api.unknown),
]
