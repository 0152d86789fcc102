"""What every page of the dashboard counts: the notifications that nobody has read. The index holds those alone."""

from tortoise.migrations import operations as ops

from inventory.additive import Additive

UNREAD = "CREATE INDEX notification_unread ON notification (created_at) WHERE read_at IS NULL;"


class Migration(Additive):
    dependencies = [("inventory", "0004_wire")]
    operations = [ops.RunSQL(UNREAD)]
