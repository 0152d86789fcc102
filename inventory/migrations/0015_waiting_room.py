"""The waiting room of enrollment, what a machine is recognised by, and hosts that are written down before their devices come."""

import functools
from json import dumps, loads

from tortoise import fields
from tortoise.migrations import operations as ops

from inventory.additive import Additive

_ENCODER = functools.partial(dumps, separators=(",", ":"))

MORE = """
ALTER TABLE enrollment_request ADD FOREIGN KEY (host) REFERENCES host (id) ON DELETE CASCADE;
ALTER TABLE enrollment_request ALTER COLUMN told SET DEFAULT false;
ALTER TABLE enrollment_request SET (fillfactor = 70);
ALTER TABLE host ADD FOREIGN KEY (replaces) REFERENCES host (id) ON DELETE SET NULL;
CREATE UNIQUE INDEX host_expected_serial ON host (lower(expected_serial)) WHERE expected_serial IS NOT NULL;
CREATE UNIQUE INDEX host_expected_uuid ON host (expected_uuid) WHERE expected_uuid IS NOT NULL;
CREATE INDEX host_replaces ON host (replaces) WHERE replaces IS NOT NULL;
CREATE INDEX device_identity_machine_serial ON device_identity (lower(evidence->>'serial'));
CREATE INDEX device_identity_machine_uuid ON device_identity (lower(evidence->>'uuid'));
"""


class Migration(Additive):
    dependencies = [("inventory", "0014_revocation")]
    operations = [
        ops.AddField("HostRow", "expected_serial", fields.CharField(max_length=256, null=True)),
        ops.AddField("HostRow", "expected_uuid", fields.CharField(max_length=36, null=True)),
        ops.AddField("HostRow", "replaces", fields.CharField(max_length=64, null=True)),
        ops.CreateModel(
            name="EnrollmentRequest",
            fields=[
                ("host", fields.CharField(primary_key=True, max_length=64)),
                ("fingerprint", fields.CharField(max_length=64, unique=True)),
                ("token", fields.CharField(max_length=64)),
                ("evidence", fields.JSONField(encoder=_ENCODER, decoder=loads)),
                ("same_as", fields.JSONField(encoder=_ENCODER, decoder=loads)),
                ("told", fields.BooleanField(default=False)),
                ("created_at", fields.DatetimeField()),
                ("asked_at", fields.DatetimeField()),
            ],
            options={"table": "enrollment_request", "app": "inventory", "pk_attr": "host"},
            bases=["Model"],
        ),
        ops.RunSQL(MORE),
    ]
