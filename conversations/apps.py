"""Starts the app: logs are cleaned by what finds personal data in messages."""

from django.apps import AppConfig
from django.db.models.signals import post_delete, post_save

from chatbot import telemetry


class ConversationsConfig(AppConfig):
    """What is said."""

    name = "conversations"

    def ready(self) -> None:
        """Check the settings on personal data, let the detector clean logs, and notice new plans.

        Raises ImproperlyConfigured when a mode or role does not exist.
        """
        from conversations.models import BudgetPlan
        from conversations.turn.pii import mask_for_log
        from conversations.turn.plans import forget_plans_when_committed
        from conversations.turn.privacy import configured_modes

        configured_modes()
        telemetry.clean_logs_with(mask_for_log)
        post_save.connect(forget_plans_when_committed, sender=BudgetPlan)
        post_delete.connect(forget_plans_when_committed, sender=BudgetPlan)
