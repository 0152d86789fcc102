"""Integrations may hold for some hosts only, as users and tokens may."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("inventory", "0015_waiting_room")]
    operations = [ops.AddField("Integration", "scope", fields.TextField(default="", db_default=""))]
