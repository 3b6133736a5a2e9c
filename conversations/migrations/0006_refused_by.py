import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('conversations', '0005_feedback'),
    ]

    operations = [
        migrations.AddField(
            model_name='message',
            name='refused_by',
            field=models.ForeignKey(blank=True, db_index=False, help_text='The rule that ended it.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='conversations.policyruleversion'),
        ),
    ]
