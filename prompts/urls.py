from django.urls import path

from prompts import playground

urlpatterns = [
    path("versions/<uuid:version_id>/try", playground.try_out, name="try_prompt"),
    path("trials/<uuid:trial_id>/stream", playground.stream, name="trial_stream"),
]
