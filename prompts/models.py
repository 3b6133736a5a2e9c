"""What the AI is told: templates and their numbered versions."""

import hashlib

from django.conf import settings
from django.db import models
from uuid_utils.compat import uuid7


class PromptTemplate(models.Model):
    """A prompt with a name; `live_version` points at what conversations get."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=120)
    purpose = models.CharField(max_length=500, blank=True)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    live_version = models.ForeignKey(
        "PromptVersion", on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class PromptVersion(models.Model):
    """One wording of a template. What was published does not change any more."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    template = models.ForeignKey(PromptTemplate, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    content = models.TextField()
    model = models.CharField(max_length=200, blank=True, help_text="Empty: the model by default.")
    parameters = models.JSONField(default=dict, blank=True)
    change_note = models.CharField(max_length=500, blank=True)
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    content_hash = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    published_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["template", "number"], name="one_number_per_template")
        ]
        ordering = ["template", "-number"]

    def __str__(self) -> str:
        return f"{self.template.name} v{self.number}"

    def save(self, *args: object, **kwargs: object) -> None:
        self.content_hash = hashlib.sha256(self.content.encode()).hexdigest()
        super().save(*args, **kwargs)  # type: ignore[arg-type]
