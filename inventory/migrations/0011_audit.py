"""The audit: longer words for what is done to accounts, signatures under heads, anchors and gaps of the change log, and an index of what
people and programs did, by which its pages are quick however much devices and managers write (docs/adr/0018-audit.md)."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

MORE = """
ALTER TABLE change_anchors ADD COLUMN signature bytea;
CREATE INDEX changes_people ON changes (position) WHERE actor->>'type' IN ('user', 'token', 'integration', 'stranger', 'system');
"""
BACK = """
DROP INDEX changes_people;
ALTER TABLE change_anchors DROP COLUMN signature;
"""


class Migration(migrations.Migration):
    dependencies = [("inventory", "0010_certificates")]
    operations = [
        ops.AlterField("ChangeIn", "op", fields.CharField(max_length=16)),
        ops.CreateModel(
            name="ChainHead",
            fields=[
                ("position", fields.BigIntField(primary_key=True, generated=False)),
                ("hash", fields.BinaryField()),
                ("at", fields.DatetimeField()),
                ("key", fields.BinaryField()),
                ("signature", fields.BinaryField()),
            ],
            options={"table": "chain_heads", "app": "inventory", "pk_attr": "position"},
            bases=["Model"],
        ),
        ops.AddField("LogGap", "signature", fields.BinaryField(null=True)),
        ops.RunSQL(MORE, reverse_sql=BACK),
    ]
