"""Component: a piece of hardware of a host, known by its serial number, WWID or MAC, so that a renamed disk stays the same disk."""

from typing import Any

from tortoise import fields

from inventory.kind import DEVICE, Field, Kind, Nature, Reference, Scalar, Time, Uses
from inventory.rows import ResourceRow

TYPES = ("cpu", "dimm", "disk", "nic", "gpu", "pci", "usb", "tpm", "battery", "sensor")


class ComponentRow(ResourceRow):
    host = fields.CharField(max_length=64)
    type = fields.CharField(max_length=16)
    key = fields.CharField(max_length=253)
    attributes: Any = fields.JSONField(default=dict)
    present = fields.BooleanField(default=True)
    first_seen = fields.DatetimeField()
    last_seen = fields.DatetimeField()
    told_present = fields.BooleanField(null=True)

    class Meta:
        table = "component"
        unique_together = (("host", "type", "key"),)


COMPONENT = Kind(
    name="component",
    collection="components",
    prefix="comp",
    nature=Nature.DISCOVERED,
    doc="A piece of hardware of a host. One that vanished stays, with `present: false`.",
    creators=frozenset({DEVICE}),
    has_host=True,
    deletable_by_user=False,
    own_fields=(
        Field(
            name="host",
            annotation=str,
            scalar=Scalar.TEXT,
            owner=DEVICE,
            doc="Where it is.",
            reference=Reference("host", Uses.OWNS),
            immutable=True,
        ),
        Field(name="type", annotation=str, scalar=Scalar.TEXT, owner=DEVICE, doc="What it is.", choices=TYPES, immutable=True),
        Field(
            name="key",
            annotation=str,
            scalar=Scalar.TEXT,
            owner=DEVICE,
            doc="Serial, else WWID, else MAC, else `path:` and the bus path.",
            immutable=True,
        ),
        Field(
            name="attributes",
            annotation=dict[str, Any],
            scalar=Scalar.JSON,
            owner=DEVICE,
            doc="What the probe said.",
            members={"name": Scalar.TEXT, "model": Scalar.TEXT},
        ),
        Field(name="present", annotation=bool, scalar=Scalar.BOOLEAN, owner=DEVICE, doc="Whether the last scan found it."),
        Field(name="first_seen", annotation=Time, scalar=Scalar.TIME, owner=DEVICE, doc="When it was first reported."),
        Field(
            name="last_seen",
            annotation=Time,
            scalar=Scalar.TIME,
            owner=DEVICE,
            doc="When it was last reported, or noticed gone.",
            restless=True,
        ),
        Field(
            name="told_present",
            annotation=bool,
            scalar=Scalar.BOOLEAN,
            owner="host",
            doc="What users were told last.",
            hidden=True,
            restless=True,
        ),
    ),
    columns=("host", "type", "attributes.name", "present", "first_seen"),
    wide_columns=("id", "key", "last_seen"),
)
