"""Starts the app: logs are cleaned by what finds personal data in messages."""

from django.apps import AppConfig

from chatbot import telemetry


class ConversationsConfig(AppConfig):
    """What is said."""

    name = "conversations"

    def ready(self) -> None:
        """Check the settings on personal data, and let the detector clean logs.

        Raises ImproperlyConfigured when a mode or role does not exist.
        """
        from conversations.turn.pii import mask_for_log
        from conversations.turn.privacy import configured_modes

        configured_modes()
        telemetry.clean_logs_with(mask_for_log)
