"""Where a conversation stands in a release, and what each reply was made by."""

import django.db.models.deletion
from django.db import migrations, models

ARMS = [("production", "Production"), ("canary", "Canary"), ("early", "early access")]


class Migration(migrations.Migration):
    dependencies = [
        ("conversations", "0015_conversation_template"),
        ("prompts", "0004_releases"),
    ]

    operations = [
        migrations.AddField(
            "conversation",
            "release",
            models.ForeignKey(
                blank=True,
                db_index=False,
                help_text="What was being released of its template when it began.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="prompts.release",
            ),
        ),
        migrations.AddField(
            "conversation",
            "arm",
            models.CharField(
                blank=True,
                choices=ARMS,
                db_default="",
                default="",
                help_text="Where it stands in that release, from its beginning on.",
                max_length=10,
            ),
        ),
        migrations.AddField(
            "message",
            "release",
            models.ForeignKey(
                blank=True,
                db_index=False,
                help_text="The release under way that it took part in.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="replies",
                to="prompts.release",
            ),
        ),
        migrations.AddField(
            "message",
            "is_fallback",
            models.BooleanField(
                db_default=False,
                default=False,
                help_text="The version that was to serve could not.",
            ),
        ),
        migrations.AddField(
            "message",
            "asked_parameters",
            models.JSONField(
                blank=True,
                db_default={},
                default=dict,
                help_text="Numbers that a program asked for beside those of the version.",
            ),
        ),
        migrations.AlterField(
            "message",
            "arm",
            models.CharField(blank=True, choices=ARMS, max_length=10),
        ),
    ]
