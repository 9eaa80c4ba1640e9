"""The tables of the registry's database. Migrations make and change them: see `migrations/`."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


class UtcDateTime(TypeDecorator[datetime]):
    """An instant in UTC; SQLite keeps no zone, PostgreSQL gives its session's."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC."""
        return None if value is None else value.astimezone(timezone.utc)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Aware, in UTC."""
        if value is None:
            return None
        found: datetime = value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value
        return found.astimezone(timezone.utc)


METADATA = MetaData()

DEFINITIONS = Table(
    "definitions",
    METADATA,
    # SQLite reuses the id of a deleted last row unless told not to; ids are part of store keys.
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(255), nullable=False),
    Column("version", Integer, nullable=False),
    Column("spec", Text, nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(255), nullable=False),
    Column("applied_at", UtcDateTime, nullable=False),
    Column("applied_by", String(255), nullable=False),
    Column("git_revision", String(64)),
    Index("definitions_by_name", "kind", "name", unique=True),
    sqlite_autoincrement=True,
)
"""What is deployed, as last applied: a row each entity, source, view and feature service."""

VIEW_VERSIONS = Table(
    "view_versions",
    METADATA,
    Column("view_id", Integer, ForeignKey("definitions.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("spec", Text, nullable=False),
    Column("content_hash", String(64), nullable=False),
    # Where this version begins in the topic when an operator said so, against what its definition says.
    Column("start", String(16)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(255), nullable=False),
    Column("git_revision", String(64)),
    Column("retired_at", UtcDateTime),
    Column("retired_by", String(255)),
)
"""Every version that a view ever had. Those that are not retired are computed."""

ROUTES = Table(
    "routes",
    METADATA,
    Column("view_id", Integer, ForeignKey("definitions.id"), primary_key=True),
    Column("served", Integer, nullable=False),
    Column("previous", Integer),
    Column("canary", Integer),
    Column("canary_share", Float),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("changed_by", String(255), nullable=False),
)
"""Which version of a view readers get that name none."""

CHANGES = Table(
    "changes",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("by", String(255), nullable=False),
    Column("action", String(32), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("name", String(255), nullable=False),
    Column("version", Integer),
    Column("content_hash", String(64)),
    Column("git_revision", String(64)),
    Column("note", Text),
    sqlite_autoincrement=True,
)
"""What was done to definitions and versions, by whom, for good. Its largest id tells readers that something changed."""

PAUSED = Table(
    "paused_views",
    METADATA,
    Column("name", String(255), primary_key=True),
    Column("since", UtcDateTime, nullable=False),
    Column("paused_by", String(255), nullable=False),
)
"""Views that runs leave out for now; a decision of an operator, no part of a definition."""

WATERMARK_RESETS = Table(
    "watermark_resets",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("view", String(255), nullable=False),
    Column("version", Integer, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("by", String(255), nullable=False),
    Column("from_us", BigInteger, nullable=False),
    Column("to_us", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
)
"""What operators did to watermarks, for good."""

SOURCE_CHANGES = Table(
    "source_changes",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("source", String(255), nullable=False),
    Column("generation", String(64), nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("spec", Text, nullable=False),
    # Partition to the first offset that is judged by this spec.
    Column("offsets", JSON, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("source_changes_by_source", "source", "generation"),
)
"""From which offset on a source's events are decoded and judged by which definition of it."""

JOBS = Table(
    "jobs",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("kind", String(32), nullable=False),
    # What it works on: names of views, comma-separated; for reading, not for joins.
    Column("subject", Text, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("heartbeat_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("by", String(255), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("definitions_hash", String(64), nullable=False),
    Column("git_revision", String(64)),
    Column("outcome", String(16), nullable=False),
    Column("rows", BigInteger),
    Column("offsets", JSON),
    Column("error", Text),
    Index("jobs_by_start", "started_at"),
)
"""Every run, backfill, materialization and promotion."""

FEATURE_READS = Table(
    "feature_reads",
    METADATA,
    Column("view", String(255), primary_key=True),
    Column("feature", String(255), primary_key=True),
    Column("consumer", String(255), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("reads", BigInteger, nullable=False),
    Column("last_read_at", UtcDateTime, nullable=False),
)
"""How often each feature was read, a row each day (UTC) and consumer; estimated where reads are sampled."""

MODELS = Table(
    "models",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(255), nullable=False),
    Column("version", String(64), nullable=False),
    Column("uri", Text),
    Column("service", String(255), nullable=False),
    Column("service_hash", String(64), nullable=False),
    # The service as it was when the model was linked: versions pinned, features in their order.
    Column("service_spec", Text, nullable=False),
    Column("training_set", Text),
    Column("training_set_hash", String(64)),
    Column("run_id", String(64)),
    Column("linked_at", UtcDateTime, nullable=False),
    Column("linked_by", String(255), nullable=False),
    Index("models_by_name", "name", "version", "service", unique=True),
    sqlite_autoincrement=True,
)
"""Models and the feature service that each reads."""
