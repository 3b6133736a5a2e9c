from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("audit", "0002_tree"),
    ]

    operations = [
        migrations.AddField(
            model_name="entry",
            name="token_id",
            field=models.CharField(blank=True, db_default="", default="", max_length=64),
        ),
        migrations.AlterField(
            model_name="entry",
            name="actor_kind",
            field=models.CharField(
                choices=[
                    ("user", "person"),
                    ("token", "API token"),
                    ("system", "system"),
                    ("anonymous", "not signed in"),
                ],
                max_length=16,
            ),
        ),
    ]
