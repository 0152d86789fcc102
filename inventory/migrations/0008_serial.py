"""A host is looked for by what stands on its label: without an index every host of the fleet was read for it."""

from tortoise.migrations import operations as ops

from inventory.additive import Additive

SERIAL = "CREATE INDEX host_serial ON host (serial);"


class Migration(Additive):
    dependencies = [("inventory", "0007_first_fence")]
    operations = [ops.RunSQL(SERIAL)]
