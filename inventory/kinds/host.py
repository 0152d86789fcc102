"""Host: a machine of the fleet. What the user wants of it, what the device says of itself, and what Inventory sees, in one resource."""

from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints
from tortoise import fields

from inventory.kind import DEVICE, INVENTORY, USER, Field, Kind, Name, Nature, Reference, Scalar, States, Text, Time, Uses
from inventory.recognition import serial_key, uuid_key
from inventory.rows import ResourceRow

PRESENCES = ("online", "stale", "offline", "never")


class HostRow(ResourceRow):
    site = fields.CharField(max_length=64, null=True)
    serial = fields.TextField(null=True)
    uuid = fields.TextField(null=True)
    vendor = fields.TextField(null=True)
    product = fields.TextField(null=True)
    arch = fields.TextField(null=True)
    cpu_model = fields.TextField(null=True)
    cpu_sockets = fields.IntField(null=True)
    cpu_cores = fields.IntField(null=True)
    cpu_threads = fields.IntField(null=True)
    memory_bytes = fields.BigIntField(null=True)
    disk_bytes = fields.BigIntField(null=True)
    os_name = fields.TextField(null=True)
    os_version = fields.TextField(null=True)
    kernel = fields.TextField(null=True)
    hostname = fields.TextField(null=True)
    primary_ip = fields.TextField(null=True)
    primary_mac = fields.TextField(null=True)
    virtualization = fields.TextField(null=True)
    boot_id = fields.TextField(null=True)
    agent_version = fields.TextField(null=True)
    policy: Any = fields.JSONField(null=True)
    presence = fields.CharField(max_length=16, default="never")
    expected_serial = fields.CharField(max_length=256, null=True)
    expected_uuid = fields.CharField(max_length=36, null=True)
    replaces = fields.CharField(max_length=64, null=True)

    class Meta:
        table = "host"


def _device(name: str, doc: str, scalar: Scalar = Scalar.TEXT, *, selectable: bool = True) -> Field:
    annotation: Any = int if scalar is Scalar.INTEGER else str
    return Field(name=name, annotation=annotation, scalar=scalar, owner=DEVICE, doc=doc, selectable=selectable)


def _telling_serial(text: str) -> str:
    if serial_key(text) is None:
        raise ValueError("is what makers leave where a serial number belongs: many machines share it, so it can't name one")
    return " ".join(text.split())


def _telling_uuid(text: str) -> str:
    key = uuid_key(text)
    if key is None:
        raise ValueError("must be an SMBIOS UUID, such as 4c4c4544-004b-5210-8051-b4c04f4a4d32, and none that many machines share")
    return key


ExpectedSerial = Annotated[Text, StringConstraints(max_length=256), AfterValidator(_telling_serial)]
ExpectedUuid = Annotated[Text, StringConstraints(max_length=64), AfterValidator(_telling_uuid)]

_AT = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"


def _came(row: str) -> str:
    at = _AT.format(f"{row}.created_at")
    return f"'token', {row}.token, 'fingerprint', {row}.fingerprint, 'evidence', {row}.evidence, 'since', {at}"


ENROLLMENT = (
    f"CASE WHEN eq.host IS NOT NULL THEN jsonb_build_object('waiting', true, {_came('eq')}, "
    f"'asked_at', {_AT.format('eq.asked_at')}, 'same_as', eq.same_as) "
    f"WHEN di.host IS NOT NULL THEN jsonb_build_object('waiting', false, {_came('di')}) END"
)
"""How its device came: what it said of itself, and where from."""

PENDING = "(SELECT count(*) FROM host_config p WHERE p.host = r.id AND p.status->>'indicator' IS DISTINCT FROM 'idle')"
FACTS = "(SELECT jsonb_object_agg(f.section, f.data) FROM host_facts f WHERE f.host = r.id)"

HOST = Kind(
    name="host",
    collection="hosts",
    prefix="host",
    nature=Nature.MIXED,
    doc="A machine of the fleet.",
    creators=frozenset({USER, "system"}),
    manager="host",
    has_host=True,
    states=States(
        desired=("registered", "onboarded", "untrusted", "deleted"),
        current=("discovered", "registered", "onboarded", "untrusted", "deleted"),
        initial_current="discovered",
        removal="deleted",
        transitions={"deleted": ()},
    ),
    joins=(
        "LEFT JOIN host_labels hl ON hl.host = r.id LEFT JOIN device_liveness dl ON dl.host = r.id "
        "LEFT JOIN device_identity di ON di.host = r.id LEFT JOIN enrollment_request eq ON eq.host = r.id"
    ),
    own_fields=(
        Field(
            name="site",
            annotation=Name,
            scalar=Scalar.TEXT,
            owner=USER,
            doc="The site it stands at.",
            reference=Reference("site"),
            intent=True,
            selectable=True,
        ),
        Field(
            name="expected_serial",
            annotation=ExpectedSerial,
            scalar=Scalar.TEXT,
            owner=USER,
            doc="Pre-registration: the machine with this serial number and a valid token becomes this host, without waiting for approval.",
        ),
        Field(
            name="expected_uuid",
            annotation=ExpectedUuid,
            scalar=Scalar.TEXT,
            owner=USER,
            doc="Likewise by SMBIOS UUID; where both are given, both must fit.",
        ),
        Field(
            name="replaces",
            annotation=Name,
            scalar=Scalar.TEXT,
            owner=USER,
            doc="Of a device that waits: the host that it becomes when it is approved, as found by serial or UUID. Null: one of its own.",
            reference=Reference("host", Uses.FORGETS),
        ),
        _device("serial", "Serial number, from firmware."),
        _device("uuid", "SMBIOS UUID."),
        _device("vendor", "Who made it."),
        _device("product", "Model."),
        _device("arch", "Machine architecture, as uname says it."),
        _device("cpu_model", "CPU model."),
        _device("cpu_sockets", "CPU packages.", Scalar.INTEGER),
        _device("cpu_cores", "Physical cores.", Scalar.INTEGER),
        _device("cpu_threads", "Hardware threads.", Scalar.INTEGER),
        _device("memory_bytes", "Memory that the system has, in bytes.", Scalar.INTEGER),
        _device("disk_bytes", "Sum of its real disks, in bytes.", Scalar.INTEGER),
        _device("os_name", "Operating system."),
        _device("os_version", "Its version."),
        _device("kernel", "Kernel release."),
        _device("hostname", "What it calls itself."),
        _device("primary_ip", "Address of the default route."),
        _device("primary_mac", "MAC of the default route's interface."),
        _device("virtualization", "Hypervisor or container; none on bare metal."),
        _device("boot_id", "Changes with each boot.", selectable=False),
        _device("agent_version", "Version of its agent."),
        Field(
            name="policy",
            annotation=dict[str, Any],
            scalar=Scalar.JSON,
            owner=DEVICE,
            doc="What its owner allows there, from its agent.toml: {verbs, roots, on_change, maintenance}. The server can't change it.",
            members={"maintenance": Scalar.TEXT},
        ),
        Field(
            name="presence",
            annotation=str,
            scalar=Scalar.TEXT,
            owner=INVENTORY,
            choices=PRESENCES,
            doc="Whether it is connected: stale after a missed heartbeat, never before the first session.",
        ),
        Field(
            name="last_seen",
            annotation=Time,
            scalar=Scalar.TIME,
            owner=INVENTORY,
            doc="Last sign of life.",
            restless=True,
            computed=True,
            column="dl.last_seen",
        ),
        Field(
            name="pending",
            annotation=int,
            scalar=Scalar.INTEGER,
            owner=INVENTORY,
            restless=True,
            computed=True,
            column=PENDING,
            doc="Resources of this host that are not yet as wanted.",
        ),
        Field(
            name="effective_labels",
            annotation=dict[str, str],
            scalar=Scalar.LABELS,
            owner=INVENTORY,
            computed=True,
            column="hl.labels",
            doc="Labels with those of site and regions; the nearest wins.",
            selectable=True,
        ),
        Field(
            name="certificate_expires_at",
            annotation=Time,
            scalar=Scalar.TIME,
            owner=INVENTORY,
            computed=True,
            restless=True,
            column="di.expires_at",
            doc="When its certificate ends.",
        ),
        Field(
            name="enrollment",
            annotation=dict[str, Any],
            scalar=Scalar.JSON,
            owner=INVENTORY,
            computed=True,
            restless=True,
            column=ENROLLMENT,
            doc="How its device came: {waiting, since, token, fingerprint, evidence}; of one that waits also {asked_at, same_as}.",
            members={"waiting": Scalar.BOOLEAN, "token": Scalar.TEXT, "fingerprint": Scalar.TEXT},
        ),
        Field(
            name="facts",
            annotation=dict[str, Any],
            scalar=Scalar.JSON,
            owner=DEVICE,
            computed=True,
            restless=True,
            single_only=True,
            column=FACTS,
            doc="Everything it found about itself, by section.",
        ),
    ),
    columns=("name", "site", "presence", "current_state", "status.reason", "last_seen"),
    wide_columns=("id", "primary_ip", "os_name", "os_version", "cpu_cores", "memory_bytes", "agent_version", "labels"),
    verbs=("retry",),
)
