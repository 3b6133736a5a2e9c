"""Starts the app: roles come back after every migrate."""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate

from accounts.roles import seed_roles


class AccountsConfig(AppConfig):
    """Who may sign in, and what they may do."""

    name = "accounts"
    verbose_name = "Accounts"

    def ready(self) -> None:
        """Seed the roles whenever the schema was brought up to date."""
        post_migrate.connect(_seed, sender=self, dispatch_uid="accounts.seed_roles")


def _seed(**_kwargs: Any) -> None:
    seed_roles()
