from django.contrib import admin
from django.urls import include, path

from chatbot import health

# Both announce the refusal, so that it is recorded. Django asks for the first, allauth the second.
handler403 = "accounts.views.forbidden"
handler429 = "accounts.sign_in.too_many_tries"

urlpatterns = [
    path("", include("conversations.urls")),
    path("account/", include("accounts.urls")),
    path("prompts/", include("prompts.urls")),
    path("admin/", admin.site.urls),
    path("health", health.overview, name="health"),
    path("health/live", health.live, name="health_live"),
    path("health/ready", health.ready, name="health_ready"),
    path("metrics", health.metrics, name="metrics"),
]
