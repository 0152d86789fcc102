"""How devices follow when keys change: which list of keys each trusts, and what its certificate has replaced."""

import functools
from json import dumps, loads

from tortoise import fields
from tortoise.migrations import operations as ops

from inventory.additive import Additive

_ENCODER = functools.partial(dumps, separators=(",", ":"))

REFERENCE = """
ALTER TABLE device_trust ADD FOREIGN KEY (host) REFERENCES host (id) ON DELETE CASCADE;
"""


class Migration(Additive):
    dependencies = [("inventory", "0009_lanes")]
    operations = [
        ops.CreateModel(
            name="DeviceTrust",
            fields=[
                ("host", fields.CharField(primary_key=True, max_length=64)),
                ("keys", fields.BigIntField(null=True)),
                ("told_at", fields.DatetimeField(null=True)),
                ("replaces", fields.CharField(null=True, max_length=256)),
                ("former", fields.JSONField(default=list, encoder=_ENCODER, decoder=loads)),
                ("told_end", fields.DatetimeField(null=True)),
            ],
            options={"table": "device_trust", "app": "inventory", "pk_attr": "host"},
            bases=["Model"],
        ),
        ops.RunSQL(REFERENCE),
    ]
