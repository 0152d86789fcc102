"""Command: one order to one device, from its making to its end. Managers make them; the device's results end them."""

from typing import Any

from tortoise import fields

from inventory.kind import DEVICE, Field, Kind, Nature, Reference, Scalar, Time, Uses
from inventory.rows import ResourceRow

STATES = ("queued", "sent", "accepted", "running", "succeeded", "failed", "rejected", "timed_out", "cancelled", "unknown")
FINAL = frozenset(STATES[4:])


class CommandRow(ResourceRow):
    host = fields.CharField(max_length=64)
    verb = fields.CharField(max_length=64)
    args: Any = fields.JSONField(default=dict)
    resource: Any = fields.JSONField(null=True)
    state = fields.CharField(max_length=16, default="queued")
    attempt = fields.IntField(default=1)
    result: Any = fields.JSONField(null=True)
    late_result: Any = fields.JSONField(null=True)
    timeout_s = fields.IntField(default=120)
    not_after = fields.DatetimeField()
    sent_at = fields.DatetimeField(null=True)
    accepted_at = fields.DatetimeField(null=True)
    started_at = fields.DatetimeField(null=True)
    finished_at = fields.DatetimeField(null=True)
    due_at = fields.DatetimeField(null=True)
    sent_session = fields.CharField(max_length=256, null=True)
    sends = fields.IntField(default=0)
    first_fence = fields.BigIntField(null=True)
    sealed = fields.TextField(null=True)

    class Meta:
        table = "command"


def _field(name: str, annotation: Any, scalar: Scalar, doc: str, *, owner: str = "dispatch", **more: Any) -> Field:
    return Field(name=name, annotation=annotation, scalar=scalar, owner=owner, doc=doc, **more)


COMMAND = Kind(
    name="command",
    collection="commands",
    prefix="cmd",
    nature=Nature.MADE,
    doc="One order to one device. Its creation and its end make changes; what lies between is read here.",
    creators=frozenset({"host", "config", "places"}),
    manager="dispatch",
    has_host=True,
    deletable_by_user=False,
    own_fields=(
        _field("host", str, Scalar.TEXT, "Which device.", reference=Reference("host", Uses.OWNS), immutable=True),
        _field("verb", str, Scalar.TEXT, "What it is to do.", immutable=True),
        _field(
            "args",
            dict[str, Any],
            Scalar.JSON,
            "With what. File contents are left out of events; where secrets are in them, they are not shown at all.",
            immutable=True,
            restless=True,
        ),
        _field(
            "resource",
            dict[str, Any],
            Scalar.JSON,
            "What it serves: {kind, id, generation}.",
            immutable=True,
            members={"kind": Scalar.TEXT, "id": Scalar.TEXT},
        ),
        _field("state", str, Scalar.TEXT, "How far it is.", choices=STATES),
        _field("attempt", int, Scalar.INTEGER, "Which attempt of its reconcile this is."),
        _field("result", dict[str, Any], Scalar.JSON, "What the device said: {state, progress, output, error}.", owner=DEVICE),
        _field("late_result", dict[str, Any], Scalar.JSON, "What the device said after the command had ended.", owner=DEVICE),
        _field("timeout_s", int, Scalar.INTEGER, "How long it may run, in seconds."),
        _field("not_after", Time, Scalar.TIME, "When it may no longer start."),
        _field("sent_at", Time, Scalar.TIME, "When it was last sent.", restless=True),
        _field("accepted_at", Time, Scalar.TIME, "When the device took it.", restless=True),
        _field("started_at", Time, Scalar.TIME, "When the device began, by its own clock.", restless=True),
        _field("finished_at", Time, Scalar.TIME, "When it ended."),
        _field("due_at", Time, Scalar.TIME, "When it is sent again, or ended.", restless=True, hidden=True),
        _field("sent_session", str, Scalar.TEXT, "The device's session it was sent to.", restless=True, hidden=True),
        _field("first_fence", int, Scalar.INTEGER, "The number it was signed with first.", restless=True, hidden=True),
        _field("sealed", str, Scalar.TEXT, "What the device is sent and nobody is shown; gone at its end.", restless=True, hidden=True),
        _field("sends", int, Scalar.INTEGER, "How often it was sent.", restless=True),
    ),
    columns=("host", "verb", "state", "attempt", "created_at"),
    wide_columns=("id", "resource.kind", "resource.id", "finished_at"),
)
