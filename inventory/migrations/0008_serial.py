"""A host is looked for by what stands on its label: without an index every host of the fleet was read for it."""

from tortoise import migrations
from tortoise.migrations import operations as ops

SERIAL = "CREATE INDEX host_serial ON host (serial);"


class Migration(migrations.Migration):
    dependencies = [("inventory", "0007_first_fence")]
    operations = [ops.RunSQL(SERIAL)]
