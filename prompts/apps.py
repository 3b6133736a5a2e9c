from django.apps import AppConfig
from django.db.models.signals import m2m_changed, post_delete, post_migrate, post_save


class PromptsConfig(AppConfig):
    name = "prompts"

    def ready(self) -> None:
        from audit.changes import watch
        from prompts.builtin import seed
        from prompts.catalogue import kept_offers
        from prompts.models import LanguageModel, ModelPrice, PromptTemplate, PromptVersion
        from prompts.offering import seed_default_model
        from prompts.retraining import configured_hooks

        configured_hooks()  # a mistake in an address ends the start
        post_migrate.connect(seed, sender=self)
        post_migrate.connect(seed_default_model, sender=self)
        for sender in (LanguageModel, ModelPrice):
            post_save.connect(kept_offers.forget_when_committed, sender=sender)
            post_delete.connect(kept_offers.forget_when_committed, sender=sender)
        # Models, prices and budgets have verbs that record what they change; so have releases.
        watch(PromptTemplate, fields=("slug", "name", "purpose", "owner", "roles"))
        watch(
            PromptVersion,
            fields=(
                *("template", "number", "model", "parameters", "change_note", "author"),
                "content_hash",
            ),
            withheld=("content", "variables"),
        )
        m2m_changed.connect(kept_offers.forget_when_committed, sender=LanguageModel.roles.through)
