"""What a device's owner allows there, as the device reports it."""

from tortoise import fields
from tortoise.migrations import operations as ops

from inventory.additive import Additive


class Migration(Additive):
    dependencies = [("inventory", "0012_people")]
    operations = [ops.AddField("HostRow", "policy", fields.JSONField(null=True))]
