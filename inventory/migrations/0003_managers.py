"""What the managers remember: the strength of a trigger that came during a reconcile, backoff, and what people were told of each host."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

FENCES = """
CREATE SEQUENCE work_fences AS bigint;
"""

TOLD = """
ALTER TABLE host_config ALTER COLUMN told_halted SET DEFAULT false;
ALTER TABLE host_told ADD FOREIGN KEY (host) REFERENCES host (id) ON DELETE CASCADE;
CREATE INDEX command_active ON command (host) WHERE state IN ('queued', 'sent', 'accepted', 'running');
CREATE INDEX command_active_due ON command (due_at) WHERE state IN ('queued', 'sent', 'accepted', 'running');
CREATE INDEX notification_about ON notification ((about->>'id'), created_at);
"""


class Migration(migrations.Migration):
    dependencies = [("inventory", "0002_what_models_cannot_say")]
    operations = [
        ops.RemoveField("Work", "again"),
        ops.RemoveField("Work", "fresh"),
        ops.AddField("Work", "again", fields.IntField(default=0)),
        ops.AddField("Work", "backoff", fields.BooleanField(default=False)),
        ops.AlterField("Work", "due_at", fields.DatetimeField(null=True)),
        ops.AddField("HostConfigRow", "told_halted", fields.BooleanField(default=False)),
        ops.CreateModel(
            name="HostTold",
            fields=[
                ("host", fields.CharField(max_length=64, primary_key=True)),
                ("presence", fields.CharField(max_length=16)),
                ("boot_id", fields.TextField(null=True)),
                ("agent_version", fields.TextField(null=True)),
                ("told_at", fields.DatetimeField()),
            ],
            options={"table": "host_told", "app": "inventory", "pk_attr": "host"},
            bases=["Model"],
        ),
        ops.RunSQL(FENCES),
        ops.RunSQL(TOLD),
    ]
