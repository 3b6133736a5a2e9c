"""Reasons beside a thumb; how satisfied people were with a conversation, and whom not to ask."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.conf import settings
from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models

ARMS = [("production", "Production"), ("canary", "Canary"), ("early", "early access")]
REASONS = [
    ("wrong", "Not correct"),
    ("not_helpful", "Not helpful"),
    ("not_followed", "Not what I asked"),
    ("unsafe", "Unsafe"),
    ("too_long", "Too long"),
    ("correct", "Correct"),
    ("helpful", "Helpful"),
    ("well_written", "Well written"),
    ("other", "Something else"),
]


class Migration(migrations.Migration):
    dependencies = [
        ("conversations", "0016_release_of_reply"),
        ("prompts", "0004_releases"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            "feedback",
            "reasons",
            django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(choices=REASONS, max_length=12),
                db_default=models.Value("{}"),
                default=list,
                size=None,
            ),
        ),
        AddConstraintNotValid(
            "feedback",
            models.CheckConstraint(
                condition=models.Q(
                    ("rating", "up"),
                    ("reasons__contained_by", ["correct", "helpful", "well_written", "other"]),
                )
                | models.Q(
                    ("rating", "down"),
                    (
                        "reasons__contained_by",
                        ["wrong", "not_helpful", "not_followed", "unsafe", "too_long", "other"],
                    ),
                ),
                name="feedback_reasons_fit_the_thumb",
            ),
        ),
        migrations.CreateModel(
            name="Satisfaction",
            fields=[
                (
                    "conversation",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="satisfaction",
                        serialize=False,
                        to="conversations.conversation",
                    ),
                ),
                ("asked_at", models.DateTimeField()),
                ("answered_at", models.DateTimeField(blank=True, null=True)),
                (
                    "score",
                    models.PositiveSmallIntegerField(
                        blank=True, help_text="From 1 to 5.", null=True
                    ),
                ),
                (
                    "arm",
                    models.CharField(blank=True, choices=ARMS, default="", max_length=10),
                ),
                (
                    "prompt_version",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="prompts.promptversion",
                    ),
                ),
                (
                    "release",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="prompts.release",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "satisfaction",
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("score__range", (1, 5))),
                        name="satisfaction_is_one_to_five",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("score", None), ("answered_at__isnull", False), _connector="OR"
                        ),
                        name="scores_are_answers",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="SatisfactionPause",
            fields=[
                (
                    "person",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                ("until", models.DateTimeField()),
            ],
        ),
    ]
