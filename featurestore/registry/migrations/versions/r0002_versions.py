"""Versions of views side by side and their routes, changes, jobs, reads, models, changes of sources."""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_LONG_AGO = "1970-01-01 00:00:00"


def upgrade() -> None:
    """Extend the definitions, make the new tables, and carry over what is deployed."""
    _extend_definitions()
    _make_version_tables()
    _make_record_tables()
    _carry_over()
    op.drop_table("version_starts")


def _extend_definitions() -> None:
    hashed = sa.Column("content_hash", sa.String(64), nullable=False, server_default="")
    created = sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_LONG_AGO)
    op.add_column("definitions", hashed)
    op.add_column("definitions", created)
    op.add_column("definitions", sa.Column("created_by", sa.String(255), nullable=False, server_default=""))
    op.add_column("definitions", sa.Column("git_revision", sa.String(64)))
    op.create_index("definitions_by_name", "definitions", ["kind", "name"], unique=True)


def _make_version_tables() -> None:
    op.create_table(
        "view_versions",
        sa.Column("view_id", sa.Integer, sa.ForeignKey("definitions.id"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("start", sa.String(16)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(255), nullable=False),
        sa.Column("git_revision", sa.String(64)),
        sa.Column("retired_at", sa.DateTime(timezone=True)),
        sa.Column("retired_by", sa.String(255)),
    )
    op.create_table(
        "routes",
        sa.Column("view_id", sa.Integer, sa.ForeignKey("definitions.id"), primary_key=True),
        sa.Column("served", sa.Integer, nullable=False),
        sa.Column("previous", sa.Integer),
        sa.Column("canary", sa.Integer),
        sa.Column("canary_share", sa.Float),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_by", sa.String(255), nullable=False),
    )
    op.create_table(
        "changes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("content_hash", sa.String(64)),
        sa.Column("git_revision", sa.String(64)),
        sa.Column("note", sa.Text),
        sqlite_autoincrement=True,
    )


def _make_record_tables() -> None:
    op.create_table(
        "source_changes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("source", sa.String(255), nullable=False),
        sa.Column("generation", sa.String(64), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("offsets", sa.JSON, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("source_changes_by_source", "source_changes", ["source", "generation"])
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("definitions_hash", sa.String(64), nullable=False),
        sa.Column("git_revision", sa.String(64)),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("rows", sa.BigInteger),
        sa.Column("offsets", sa.JSON),
        sa.Column("error", sa.Text),
    )
    op.create_index("jobs_by_start", "jobs", ["started_at"])
    op.create_table(
        "feature_reads",
        sa.Column("view", sa.String(255), primary_key=True),
        sa.Column("feature", sa.String(255), primary_key=True),
        sa.Column("consumer", sa.String(255), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("reads", sa.BigInteger, nullable=False),
        sa.Column("last_read_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("uri", sa.Text),
        sa.Column("service", sa.String(255), nullable=False),
        sa.Column("service_hash", sa.String(64), nullable=False),
        sa.Column("service_spec", sa.Text, nullable=False),
        sa.Column("training_set", sa.Text),
        sa.Column("training_set_hash", sa.String(64)),
        sa.Column("run_id", sa.String(64)),
        sa.Column("linked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("linked_by", sa.String(255), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("models_by_name", "models", ["name", "version", "service"], unique=True)


def _carry_over() -> None:
    """Each view's present version is its only one that is computed, and the one that is served."""
    connection = op.get_bind()
    connection.execute(
        sa.text("UPDATE definitions SET created_at = applied_at, created_by = applied_by WHERE created_by = ''")
    )
    rows = connection.execute(sa.text("SELECT id, spec FROM definitions WHERE content_hash = ''")).all()
    hashed = sa.text("UPDATE definitions SET content_hash = :hash WHERE id = :id")
    for row in rows:
        connection.execute(hashed, {"id": row.id, "hash": hashlib.sha256(row.spec.encode()).hexdigest()})
    connection.execute(
        sa.text(
            """
            INSERT INTO view_versions (view_id, version, spec, content_hash, start, created_at, created_by)
            SELECT d.id, d.version, d.spec, d.content_hash, s.start, d.applied_at, d.applied_by
            FROM definitions d LEFT JOIN version_starts s ON s.view_id = d.id AND s.version = d.version
            WHERE d.kind IN ('view', 'batch_view')
            """
        )
    )
    connection.execute(
        sa.text(
            """
            INSERT INTO routes (view_id, served, changed_at, changed_by)
            SELECT id, version, applied_at, applied_by FROM definitions WHERE kind IN ('view', 'batch_view')
            """
        )
    )
