"""Indexes and checks of tables that are large when they come: made while rows are written."""

from django.contrib.postgres.operations import AddIndexConcurrently, ValidateConstraint
from django.db import migrations, models


class BuildIndex(AddIndexConcurrently):
    """Builds an index that isn't there yet, and one anew of which an earlier try was broken off.

    Databases of development versions have them already: they came with the columns once.
    """

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        """Leave a whole index alone."""
        with schema_editor.connection.cursor() as cursor:
            asked = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
            cursor.execute(asked, [self.index.name])
            found = cursor.fetchone()
        if found == (True,):
            return
        if found:
            schema_editor.execute(f"DROP INDEX CONCURRENTLY {self.index.name}")
        super().database_forwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("conversations", "0017_feedback_and_satisfaction")]

    operations = [
        ValidateConstraint("feedback", "feedback_reasons_fit_the_thumb"),
        BuildIndex(
            "message",
            models.Index(
                condition=models.Q(("release__isnull", False)),
                fields=["release", "created_at"],
                name="replies_of_release",
            ),
        ),
        BuildIndex(
            "conversation",
            models.Index(fields=["retention_class", "key_day"], name="conversations_by_age"),
        ),
        BuildIndex(
            "conversation",
            models.Index(
                condition=models.Q(("lifecycle", "deleted")),
                fields=["deleted_at"],
                name="conversations_deleted",
            ),
        ),
        BuildIndex(
            "reservation",
            models.Index(
                condition=models.Q(("settled_at", None)),
                fields=["reserved_at"],
                name="open_reservations",
            ),
        ),
    ]
