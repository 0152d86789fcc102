"""What a device's owner allows there, as the device reports it."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("inventory", "0012_people")]
    operations = [ops.AddField("HostRow", "policy", fields.JSONField(null=True))]
