"""The base of migrations that only add: tables, columns, SQL.

Before each operation Tortoise copies the state of all models, for operations that have to know how things were. That took two thirds of
the time in which a first start makes its tables, and what only adds never asks. Migrations that alter or remove derive from Tortoise's own
class; one that derives from this one by mistake is applied as Tortoise would. Called by Tortoise's executor (`inventory.db.migrate`).
"""

from tortoise.migrations import AddField, CreateModel, Migration
from tortoise.migrations.operations import RunSQL
from tortoise.migrations.schema_editor.base import BaseSchemaEditor
from tortoise.migrations.schema_generator.state import State

_ADDING = (AddField, CreateModel, RunSQL)


class Additive(Migration):
    async def apply(
        self, state: State, *, dry_run: bool = False, schema_editor: BaseSchemaEditor | None = None, collect_sql: bool = False
    ) -> State:
        """The state after it; `state` itself, brought forward."""
        plain = schema_editor is not None and schema_editor.atomic_migration and not (dry_run or collect_sql)
        if not plain or not all(isinstance(operation, _ADDING) for operation in self.operations):
            return await super().apply(state, dry_run=dry_run, schema_editor=schema_editor, collect_sql=collect_sql)
        for operation in self.operations:
            operation.state_forward(self.app_label, state)
            await operation.database_forward(self.app_label, state, state, schema_editor)
        state.validate_relations_initialized()
        return state
