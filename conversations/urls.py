from django.urls import path

from conversations import views

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
]
