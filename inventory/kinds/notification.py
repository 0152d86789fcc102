"""Notification: something that people are told. Managers make them; a user marks them read."""

from typing import Any

from tortoise import fields

from inventory.kind import USER, Field, Kind, Nature, Scalar, Time
from inventory.rows import ResourceRow

SEVERITIES = ("info", "warning", "error", "critical")


class NotificationRow(ResourceRow):
    severity = fields.CharField(max_length=16)
    type = fields.CharField(max_length=64)
    message = fields.TextField()
    about: Any = fields.JSONField(null=True)
    host = fields.CharField(max_length=64, null=True)
    read_at = fields.DatetimeField(null=True)

    class Meta:
        table = "notification"


NOTIFICATION = Kind(
    name="notification",
    collection="notifications",
    prefix="note",
    nature=Nature.MADE,
    doc="Something that people are told.",
    creators=frozenset({"host", "config", "places", "system", "inventory"}),
    manager="host",
    has_host=True,
    own_fields=(
        Field(name="severity", annotation=str, scalar=Scalar.TEXT, owner="host", doc="How bad it is.", choices=SEVERITIES, immutable=True),
        Field(
            name="type",
            annotation=str,
            scalar=Scalar.TEXT,
            owner="host",
            doc="What happened, as a word: ComponentFound, HostOffline, ...",
            immutable=True,
        ),
        Field(name="message", annotation=str, scalar=Scalar.TEXT, owner="host", doc="A sentence.", immutable=True),
        Field(
            name="about",
            annotation=dict[str, str],
            scalar=Scalar.JSON,
            owner="host",
            doc="What it is about: {kind, id}.",
            immutable=True,
            members={"kind": Scalar.TEXT, "id": Scalar.TEXT},
        ),
        Field(name="host", annotation=str, scalar=Scalar.TEXT, owner="host", doc="The host concerned, if one is.", immutable=True),
        Field(name="read_at", annotation=Time, scalar=Scalar.TIME, owner=USER, doc="When somebody marked it read."),
    ),
    columns=("severity", "type", "message", "created_at"),
    wide_columns=("id", "about.kind", "about.id", "read_at"),
)
