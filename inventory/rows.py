"""The columns that every resource's table has, as an abstract Tortoise model. Each kind's model in `inventory/kinds/` adds its own.

Only `inventory.store` writes these tables. Source: contract.md section 4.
"""

from typing import Any

from tortoise import Model, fields


class ResourceRow(Model):
    """One resource. `labels` and `status` are JSON objects; times are UTC."""

    id = fields.CharField(max_length=64, primary_key=True)
    name = fields.CharField(max_length=253, unique=True)
    title = fields.CharField(max_length=256, default="")
    labels: Any = fields.JSONField(default=dict)
    version = fields.BigIntField()
    generation = fields.BigIntField(default=1)
    observed_generation = fields.BigIntField(null=True)
    desired_state = fields.CharField(max_length=32, null=True)
    current_state = fields.CharField(max_length=32, null=True)
    status: Any = fields.JSONField(null=True)
    created_at = fields.DatetimeField()
    updated_at = fields.DatetimeField()
    deleted_at = fields.DatetimeField(null=True)

    class Meta:
        abstract = True
