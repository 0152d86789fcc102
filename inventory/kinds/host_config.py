"""Host-config: one config as it applies to one host. Made by the config manager; what the device reports of it is kept beside."""

from typing import Any

from tortoise import fields

from inventory.kind import DEVICE, Field, Kind, Nature, Reference, Scalar, States, Uses
from inventory.rows import ResourceRow


class HostConfigRow(ResourceRow):
    host = fields.CharField(max_length=64)
    config = fields.CharField(max_length=64)
    digest = fields.CharField(max_length=128, default="")
    paths: Any = fields.JSONField(default=list)
    shadowed: Any = fields.JSONField(default=list)
    reported: Any = fields.JSONField(null=True)
    command = fields.CharField(max_length=64, null=True)
    told_halted = fields.BooleanField(default=False)

    class Meta:
        table = "host_config"
        unique_together = (("host", "config"),)


HOST_CONFIG = Kind(
    name="host-config",
    collection="host-configs",
    prefix="hcfg",
    nature=Nature.MIXED,
    doc="One config as it applies to one host.",
    creators=frozenset({"config"}),
    manager="config",
    has_host=True,
    deletable_by_user=False,
    states=States(
        desired=("present", "absent"),
        current=("absent", "present", "drifted", "failed"),
        initial_current="absent",
        user_sets_desired=False,
        removal="absent",
    ),
    own_fields=(
        Field(
            name="host",
            annotation=str,
            scalar=Scalar.TEXT,
            owner="config",
            doc="Which host.",
            reference=Reference("host", Uses.OWNS),
            immutable=True,
        ),
        Field(
            name="config",
            annotation=str,
            scalar=Scalar.TEXT,
            owner="config",
            doc="Which config.",
            reference=Reference("config", Uses.OWNS),
            immutable=True,
        ),
        Field(
            name="digest",
            annotation=str,
            scalar=Scalar.TEXT,
            owner="config",
            intent=True,
            doc="Over the files as they should be on this host.",
        ),
        Field(name="paths", annotation=list[str], scalar=Scalar.JSON, owner="config", doc="The paths that this config holds on this host."),
        Field(
            name="shadowed",
            annotation=list[dict[str, str]],
            scalar=Scalar.JSON,
            owner="config",
            doc="Paths that a config of higher priority won: {path, by}.",
        ),
        Field(
            name="reported",
            annotation=dict[str, Any],
            scalar=Scalar.JSON,
            owner=DEVICE,
            doc="What the device said last: {generation, state, digest, reason, message, at}.",
            members={"state": Scalar.TEXT, "digest": Scalar.TEXT, "reason": Scalar.TEXT, "at": Scalar.TIME},
        ),
        Field(name="command", annotation=str, scalar=Scalar.TEXT, owner="config", doc="The command under way for it.", restless=True),
    ),
    columns=("host", "config", "desired_state", "current_state", "status.reason"),
    wide_columns=("id", "digest", "status.message", "updated_at"),
    verbs=("retry",),
)
