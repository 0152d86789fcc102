"""Enrollment-token: lets devices enroll, so many times, until so long. The token itself is shown once and kept as a hash."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import Field as Bounds
from tortoise import fields

from inventory.kind import INVENTORY, USER, Field, Kind, Labels, Name, Nature, Reference, Scalar, Time
from inventory.rows import ResourceRow

DEFAULT_TTL = timedelta(minutes=15)


class EnrollmentTokenRow(ResourceRow):
    uses = fields.IntField(default=1)
    used = fields.IntField(default=0)
    expires_at = fields.DatetimeField()
    approve = fields.BooleanField(default=False)
    site = fields.CharField(max_length=64, null=True)
    given_labels: Any = fields.JSONField(default=dict)
    token_hash = fields.CharField(max_length=64, unique=True)

    class Meta:
        table = "enrollment_token"


ENROLLMENT_TOKEN = Kind(
    name="enrollment-token",
    collection="enrollment-tokens",
    prefix="tok",
    nature=Nature.DECLARATIVE,
    doc="Lets devices enroll. The answer to its creation alone holds `token`, the secret.",
    creators=frozenset({USER, "system"}),
    published=False,
    names_itself=True,
    own_fields=(
        Field(
            name="uses",
            annotation=Annotated[int, Bounds(ge=1, le=1_000_000)],
            scalar=Scalar.INTEGER,
            owner=USER,
            default=1,
            nullable=False,
            doc="How many devices may use it.",
        ),
        Field(name="used", annotation=int, scalar=Scalar.INTEGER, owner=INVENTORY, doc="How many have."),
        Field(
            name="expires_at",
            annotation=Time,
            scalar=Scalar.TIME,
            owner=USER,
            nullable=False,
            default=lambda: datetime.now(UTC) + DEFAULT_TTL,
            doc="Until when it may be used; 15 minutes from now where nothing is said.",
        ),
        Field(
            name="approve",
            annotation=bool,
            scalar=Scalar.BOOLEAN,
            owner=USER,
            default=False,
            nullable=False,
            doc="Whether its devices are onboarded at once.",
        ),
        Field(
            name="site",
            annotation=Name,
            scalar=Scalar.TEXT,
            owner=USER,
            doc="The site its devices are put at.",
            reference=Reference("site"),
        ),
        Field(
            name="given_labels",
            annotation=Labels,
            scalar=Scalar.JSON,
            owner=USER,
            default={},
            nullable=False,
            doc="Labels its devices get.",
        ),
        Field(name="token_hash", annotation=str, scalar=Scalar.TEXT, owner=INVENTORY, doc="SHA-256 of the secret, hex.", hidden=True),
    ),
    columns=("name", "uses", "used", "expires_at", "approve"),
    wide_columns=("id", "site", "given_labels"),
)
