"""What operating needs: the numbers of all processes, the gaps and doubts that a restored backup leaves, and what devices have too much."""

import functools
from json import dumps, loads

from tortoise import fields
from tortoise.migrations import operations as ops

from inventory.additive import Additive

_ENCODER = functools.partial(dumps, separators=(",", ":"))

MORE = """
ALTER TABLE process_metrics SET UNLOGGED;
CREATE INDEX device_stream_resync ON device_stream (resync_at) WHERE resync_at IS NOT NULL;
ALTER TABLE strays ADD FOREIGN KEY (host) REFERENCES host (id) ON DELETE CASCADE;
CREATE INDEX strays_host ON strays (host);
"""


class Migration(Additive):
    dependencies = [("inventory", "0005_unread")]
    operations = [
        ops.CreateModel(
            name="ProcessMetrics",
            fields=[
                ("process", fields.CharField(primary_key=True, max_length=128)),
                ("pid", fields.IntField()),
                ("samples", fields.JSONField(encoder=_ENCODER, decoder=loads)),
                ("at", fields.DatetimeField()),
            ],
            options={"table": "process_metrics", "app": "inventory", "pk_attr": "process"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="LogGap",
            fields=[
                ("after", fields.BigIntField(primary_key=True, generated=False)),
                ("before", fields.BigIntField()),
                ("at", fields.DatetimeField()),
            ],
            options={"table": "log_gaps", "app": "inventory", "pk_attr": "after"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Stray",
            fields=[
                ("id", fields.CharField(primary_key=True, max_length=64)),
                ("host", fields.CharField(max_length=64)),
                ("kind", fields.CharField(max_length=32)),
                ("generation", fields.BigIntField()),
                ("at", fields.DatetimeField()),
            ],
            options={"table": "strays", "app": "inventory", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.AddField("DeviceStream", "resync_at", fields.DatetimeField(null=True)),
        ops.RunSQL(MORE),
    ]
