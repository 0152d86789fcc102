"""Region: a part of the organisation's map. Regions form a tree; their labels are inherited by everything below."""

from tortoise import fields

from inventory.kind import USER, Field, Kind, Name, Nature, Reference, Scalar
from inventory.rows import ResourceRow


class RegionRow(ResourceRow):
    parent = fields.CharField(max_length=64, null=True)

    class Meta:
        table = "region"


REGION = Kind(
    name="region",
    collection="regions",
    prefix="reg",
    nature=Nature.DECLARATIVE,
    doc="A part of the map; regions nest, and their labels are inherited by the sites and hosts below.",
    creators=frozenset({USER}),
    manager="places",
    own_fields=(
        Field(
            name="parent",
            annotation=Name,
            scalar=Scalar.TEXT,
            owner=USER,
            doc="The region above, if any.",
            reference=Reference("region"),
            intent=True,
        ),
    ),
    columns=("name", "title", "parent"),
    wide_columns=("id", "labels", "created_at"),
)
