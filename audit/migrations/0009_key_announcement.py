from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("audit", "0008_streams"),
    ]

    operations = [
        migrations.AddField(
            model_name="signingkey",
            name="announcement",
            field=models.TextField(blank=True, db_default=""),
        ),
    ]
