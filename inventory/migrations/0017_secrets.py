"""Secrets of resources, sealed, and what a command carries of them to its device (docs/adr/0028-secrets.md)."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

MORE = "ALTER TABLE vault_state ADD CHECK (id = 1);"


class Migration(migrations.Migration):
    dependencies = [("inventory", "0016_scopes")]
    operations = [
        ops.CreateModel(
            name="Secret",
            fields=[
                ("id", fields.BigIntField(primary_key=True, generated=True)),
                ("owner", fields.CharField(max_length=64)),
                ("name", fields.CharField(max_length=64)),
                ("sealed", fields.TextField()),
                ("tag", fields.BinaryField()),
                ("changed_at", fields.DatetimeField()),
            ],
            options={"table": "secret", "app": "inventory", "pk_attr": "id", "unique_together": (("owner", "name"),)},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="VaultState",
            fields=[
                ("id", fields.IntField(primary_key=True, generated=False)),
                ("key", fields.CharField(max_length=16)),
                ("since", fields.DatetimeField()),
            ],
            options={"table": "vault_state", "app": "inventory", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.AddField("CommandRow", "sealed", fields.TextField(null=True)),
        ops.RunSQL(MORE, reverse_sql="SELECT 1"),
    ]
