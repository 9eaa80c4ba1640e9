"""Runs migrations over the connection that it is given, within the caller's transaction."""

from alembic import context

from featurestore.registry.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
