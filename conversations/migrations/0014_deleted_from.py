from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('conversations', '0013_hidden_titles'),
    ]

    operations = [
        migrations.AddField(
            model_name='conversation',
            name='deleted_from',
            field=models.CharField(blank=True, db_default='', default='', help_text='The state that undoing its deletion brings back; empty: active.', max_length=8),
        ),
    ]
