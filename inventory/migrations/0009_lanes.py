"""Two lanes in the work queue: what somebody waits for does not wait behind what comes in great numbers (docs/overload.md)."""

from tortoise import fields
from tortoise.migrations import operations as ops

from inventory.additive import Additive

DUE = """
DROP INDEX work_due;
CREATE INDEX work_due ON work (manager, lane, due_at) WHERE NOT halted;
"""
BACK = """
DROP INDEX work_due;
CREATE INDEX work_due ON work (manager, due_at) WHERE NOT halted;
"""


class Migration(Additive):
    dependencies = [("inventory", "0008_serial")]
    operations = [
        ops.AddField("Work", "lane", fields.SmallIntField(default=1, db_default=1)),
        ops.RunSQL(DUE, reverse_sql=BACK),
    ]
