import django.contrib.postgres.indexes
from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models

import audit.models


class Migration(migrations.Migration):
    """Indexes for reading the log; built while entries go on being written."""

    atomic = False

    dependencies = [
        ('audit', '0003_token_and_more'),
        ('audit', '0003_token_and_more'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='entry',
            index=models.Index(fields=['target_id', 'id'], name='entry_by_target_id'),
        ),
        AddIndexConcurrently(
            model_name='entry',
            index=models.Index(fields=['target_kind', 'id'], name='entry_by_target_kind'),
        ),
        RemoveIndexConcurrently(
            model_name='entry',
            name='entry_by_target',
        ),
        AddIndexConcurrently(
            model_name='entry',
            index=models.Index(condition=models.Q(('turn_id', ''), _negated=True), fields=['turn_id', 'id'], name='entry_by_turn'),
        ),
        AddIndexConcurrently(
            model_name='entry',
            index=models.Index(condition=models.Q(('token_id', ''), _negated=True), fields=['token_id', 'id'], name='entry_by_token'),
        ),
        AddIndexConcurrently(
            model_name='entry',
            index=models.Index(condition=models.Q(('outcome', 'succeeded'), _negated=True), fields=['outcome', 'id'], name='entry_by_outcome'),
        ),
        AddIndexConcurrently(
            model_name='entry',
            index=models.Index(condition=models.Q(('actor_kind', 'user'), _negated=True), fields=['actor_kind', 'id'], name='entry_by_actor_kind'),
        ),
        AddIndexConcurrently(
            model_name='entry',
            index=django.contrib.postgres.indexes.GinIndex(audit.models.RolesOfActor(), name='entry_by_role'),
        ),
        # An index on an expression is of little use before it has statistics.
        migrations.RunSQL('ANALYZE audit_entry', migrations.RunSQL.noop),
        AddIndexConcurrently(
            model_name='personaldetails',
            index=models.Index(condition=models.Q(('target_label', ''), _negated=True), fields=['target_label', 'entry'], name='personal_by_target_label'),
        ),
    ]
