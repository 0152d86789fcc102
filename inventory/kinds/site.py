"""Site: a place with an address and a time zone, where hosts stand. It lies in at most one region."""

from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator
from pydantic import Field as Bounds
from tortoise import fields

from inventory.kind import USER, Field, Kind, Name, Nature, Reference, Scalar, Text
from inventory.rows import ResourceRow


class SiteRow(ResourceRow):
    region = fields.CharField(max_length=64, null=True)
    timezone: Any = fields.CharField(max_length=64, default="UTC")
    latitude = fields.FloatField(null=True)
    longitude = fields.FloatField(null=True)
    address = fields.TextField(default="")

    class Meta:
        table = "site"


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no IANA time zone, such as Europe/Berlin") from None
    return name


TimeZone = Annotated[str, Bounds(max_length=64), AfterValidator(_known_zone)]

SITE = Kind(
    name="site",
    collection="sites",
    prefix="site",
    nature=Nature.DECLARATIVE,
    doc="A place where hosts stand: a shop, a plant, a cabinet.",
    creators=frozenset({USER}),
    manager="places",
    own_fields=(
        Field(
            name="region",
            annotation=Name,
            scalar=Scalar.TEXT,
            owner=USER,
            doc="The region it lies in.",
            reference=Reference("region"),
            intent=True,
        ),
        Field(
            name="timezone",
            annotation=TimeZone,
            scalar=Scalar.TEXT,
            owner=USER,
            doc="IANA name.",
            default="UTC",
            nullable=False,
            intent=True,
        ),
        Field(
            name="latitude",
            annotation=Annotated[float, Bounds(ge=-90, le=90)],
            scalar=Scalar.NUMBER,
            owner=USER,
            doc="Degrees, WGS 84.",
            intent=True,
        ),
        Field(
            name="longitude",
            annotation=Annotated[float, Bounds(ge=-180, le=180)],
            scalar=Scalar.NUMBER,
            owner=USER,
            doc="Degrees, WGS 84.",
            intent=True,
        ),
        Field(
            name="address",
            annotation=Annotated[Text, Bounds(max_length=1024)],
            scalar=Scalar.TEXT,
            owner=USER,
            doc="Postal address.",
            default="",
            nullable=False,
        ),
    ),
    columns=("name", "title", "region", "timezone"),
    wide_columns=("id", "address", "labels", "created_at"),
)
