from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('conversations', '0012_fast_deletion'),
    ]

    operations = [
        migrations.AddField(
            model_name='conversation',
            name='hidden_title_sealed',
            field=models.BinaryField(db_default=b'', default=bytes, help_text='The first title that a hold kept when its time was over, as it was sealed.'),
        ),
        migrations.AlterField(
            model_name='conversation',
            name='purged_before',
            field=models.DateTimeField(blank=True, help_text='What was said before was deleted, its time being over; what a hold keeps of it is hidden from its owner.', null=True),
        ),
    ]
