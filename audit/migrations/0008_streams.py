from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("audit", "0007_removal"),
    ]

    operations = [
        migrations.CreateModel(
            name="Destination",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("purpose", models.CharField(choices=[("stream", "stream"), ("publication", "publication")], max_length=16)),
                ("name", models.CharField(max_length=255)),
                ("position", models.BigIntegerField(db_default=0, default=0)),
                ("origin", models.CharField(blank=True, max_length=255)),
                ("arrived_at", models.DateTimeField(blank=True, null=True)),
                ("failures", models.IntegerField(db_default=0, default=0)),
                ("fault", models.CharField(blank=True, max_length=500)),
                ("retry_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("purpose", "name"), name="destination_is_one")],
            },
        ),
    ]
