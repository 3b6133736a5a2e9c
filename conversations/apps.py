"""Starts the app: what finds personal data cleans logs, holds open what has lost its day's key, and
no worker starts without its keys."""

import sys
from importlib import import_module
from typing import Any

from celery.exceptions import WorkerShutdown
from celery.signals import worker_init
from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured
from django.db.models.signals import post_delete, post_migrate, post_save

from chatbot import telemetry


class ConversationsConfig(AppConfig):
    """What is said."""

    name = "conversations"

    def ready(self) -> None:
        """Check the settings on personal data, connect the app's parts, offer guarded calls to
        `prompts`, and notice new plans.

        Raises ImproperlyConfigured when a mode or role does not exist.
        """
        from conversations.encryption import fall_back_on
        from conversations.models import BudgetPlan
        from conversations.retention.holds import held_key
        from conversations.retention.policies import seed_policies
        from conversations.turn.pii import mask_for_log
        from conversations.turn.plans import kept_plans
        from conversations.turn.privacy import configured_modes
        from prompts import calling

        configured_modes()
        post_migrate.connect(seed_policies, sender=self)
        # It brings what writes replies, which only the web process needs.
        calling.register(lambda: import_module("conversations.trials"))
        telemetry.clean_logs_with(mask_for_log)
        fall_back_on(held_key)
        worker_init.connect(_refuse_without_master_keys)
        post_save.connect(kept_plans.forget_when_committed, sender=BudgetPlan)
        post_delete.connect(kept_plans.forget_when_committed, sender=BudgetPlan)


def _refuse_without_master_keys(**_signal: Any) -> None:
    """Never start where stored keys can't be unwrapped: what is written then could be lost."""
    from conversations.keyring import keyring

    try:
        keyring().require_masters()
    except ImproperlyConfigured as error:
        sys.stderr.write(f"The worker does not start. {error}\n")
        raise WorkerShutdown(1) from error
