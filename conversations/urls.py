from django.urls import path, re_path

from conversations import api, openai_api, views
from conversations.break_glass import views as break_glass_views
from conversations.doors import problems
from conversations.rights import views as rights_views

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
    path(
        "c/<uuid:conversation_id>/replies/<uuid:reply_id>/feedback",
        views.feedback,
        name="feedback",
    ),
    path("c/<uuid:conversation_id>/satisfaction", views.satisfaction, name="satisfaction"),
    path("c/<uuid:conversation_id>/delete", rights_views.delete, name="delete_conversation"),
    path("c/<uuid:conversation_id>/undo", rights_views.undo, name="undo_deletion"),
    path("account/data/", rights_views.your_data, name="your_data"),
    path("account/data/file", rights_views.request_export, name="request_export"),
    path("account/data/job", rights_views.export_job, name="export_job"),
    path("account/data/<uuid:export_id>.zip", rights_views.download_export, name="download_export"),
    path("account/data/delete", rights_views.delete_all, name="delete_all"),
    path("account/data/erase/", rights_views.erase, name="erase_account"),
    path("break-glass/<uuid:grant_id>/", break_glass_views.listing, name="break_glass"),
    path(
        "break-glass/<uuid:grant_id>/c/<uuid:conversation_id>/",
        break_glass_views.conversation,
        name="break_glass_conversation",
    ),
    path("break-glass/<uuid:grant_id>/export/", break_glass_views.export, name="counsel_export"),
    path(
        "break-glass/<uuid:grant_id>/export/jobs",
        break_glass_views.export_jobs,
        name="counsel_export_jobs",
    ),
    path(
        "break-glass/<uuid:grant_id>/export/<uuid:export_id>.zip",
        break_glass_views.download,
        name="download_counsel_export",
    ),
    path("break-glass/<uuid:grant_id>/end", break_glass_views.end, name="break_glass_end"),
    path("problems/", problems.index, name="problems"),
    path("problems/<slug:code>/", problems.page, name="problem"),
    path("", api.api.urls),
    re_path(r"^api/", api.unknown),
    path("v1/chat/completions", openai_api.chat_completions, name="openai_chat_completions"),
    path("v1/models", openai_api.models, name="openai_models"),
    path("v1/models/<path:name>", openai_api.model, name="openai_model"),
    re_path(r"^v1/", openai_api.unknown),
]
