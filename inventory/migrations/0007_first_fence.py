"""The number that a command was signed with first: what tells a device whether a journal that it has lost may have seen the command."""

from tortoise import fields
from tortoise.migrations import operations as ops

from inventory.additive import Additive


class Migration(Additive):
    dependencies = [("inventory", "0006_operations")]
    operations = [ops.AddField("CommandRow", "first_fence", fields.BigIntField(null=True))]
