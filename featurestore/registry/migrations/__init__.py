"""Migrations of the registry's database, by alembic: a file each change of its tables."""
