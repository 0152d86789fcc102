"""What ingest needs beside the first tables: the boot of a device's session, its retired epochs, and the replicas that read shards."""

import functools
from json import dumps, loads

from tortoise import fields
from tortoise.migrations import operations as ops

from inventory.additive import Additive

_ENCODER = functools.partial(dumps, separators=(",", ":"))

SHARDS = """
INSERT INTO ingest_lease (shard, fence) SELECT lpad(to_hex(n), 2, '0'), 0 FROM generate_series(0, 255) AS n ON CONFLICT DO NOTHING;
CREATE INDEX poison_host ON poison (host, id);
"""


class Migration(Additive):
    dependencies = [("inventory", "0003_managers")]
    operations = [
        ops.AddField("DeviceStream", "boot_id", fields.CharField(max_length=256, null=True)),
        ops.AddField("DeviceStream", "retired_epochs", fields.JSONField(default=list, encoder=_ENCODER, decoder=loads)),
        ops.CreateModel(
            name="IngestReplica",
            fields=[("name", fields.CharField(primary_key=True, max_length=64)), ("seen_at", fields.DatetimeField())],
            options={"table": "ingest_replica", "app": "inventory", "pk_attr": "name"},
            bases=["Model"],
        ),
        ops.RunSQL(SHARDS),
    ]
