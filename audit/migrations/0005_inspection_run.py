import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('audit', '0004_reading_indexes'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='InspectionRun',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('state', models.CharField(choices=[('waiting', 'waiting'), ('running', 'running'), ('finished', 'finished'), ('failed', 'could not be finished')], default='waiting', max_length=16)),
                ('asked_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('alive_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('finished_at', models.DateTimeField(null=True)),
                ('is_whole', models.BooleanField(default=False)),
                ('since_checkpoint', models.BigIntegerField(null=True)),
                ('last_checkpoint', models.BigIntegerField(null=True)),
                ('leaves_done', models.BigIntegerField(default=0)),
                ('leaves_to_do', models.BigIntegerField(default=0)),
                ('findings', models.JSONField(default=list)),
                ('more_findings', models.BigIntegerField(default=0)),
                ('why_failed', models.CharField(blank=True, max_length=200)),
                ('asked_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name': 'check of the log',
                'verbose_name_plural': 'checks of the log',
                'ordering': ('-id',),
            },
        ),
    ]
