from django.apps import AppConfig
from django.db.models.signals import post_migrate


class PromptsConfig(AppConfig):
    name = "prompts"

    def ready(self) -> None:
        from prompts.publishing import seed_general_assistant

        post_migrate.connect(seed_general_assistant, sender=self)
