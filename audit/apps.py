"""Starts the app: it listens, and it checks that the log can't be changed."""

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import post_migrate

from audit.append_only import check_triggers


class AuditConfig(AppConfig):
    """What happened."""

    name = "audit"
    verbose_name = "Audit"

    def ready(self) -> None:
        """Connect the receivers, register the check, and read the settings of the log.

        Raises ImproperlyConfigured when one is not understood.
        """
        from audit import changes, publishing, receivers, removal, streams
        from audit.trail import ip_prefixes

        ip_prefixes()
        streams.configured_streams()
        publishing.configured_publishers()
        removal.check_retention()
        post_migrate.connect(removal.set_floor, sender=self, dispatch_uid="audit.set_floor")
        receivers.connect()
        changes.connect()
        checks.register(check_triggers, checks.Tags.database)
