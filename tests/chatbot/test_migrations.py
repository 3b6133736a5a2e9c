"""Migrations that can run while people write: what they may do to tables that may be large."""

import pytest
from django.contrib.postgres.operations import AddConstraintNotValid
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import AddConstraint, AddField, AddIndex, CreateModel

from chatbot.local.schema import PACKAGES

FEW_ROWS = {"prompttemplate", "promptversion"}
OURS = sorted(key for key in MigrationLoader(None).disk_migrations if key[0] in PACKAGES)


def builds(operation) -> str:
    """The model for which an operation builds an index or reads all rows, under a lock."""
    if isinstance(operation, AddConstraintNotValid):
        return ""
    if isinstance(operation, AddIndex | AddConstraint):
        return operation.model_name.lower()
    if isinstance(operation, AddField) and (operation.field.db_index or operation.field.unique):
        return operation.model_name.lower()
    return ""


@pytest.mark.parametrize("key", OURS, ids="/".join)
def test_no_migration_builds_an_index_of_a_large_table_in_a_transaction(key):
    migration = MigrationLoader(None).disk_migrations[key]
    created = {one.name.lower() for one in migration.operations if isinstance(one, CreateModel)}
    locked = [builds(one) for one in migration.operations if migration.atomic]
    assert set(filter(None, locked)) <= created | FEW_ROWS
