"""How often features are read, and by whom: a row in the registry each feature, version, consumer and day (UTC)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, case, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from featurestore.errors import RegistryError
from featurestore.registry.database import Database
from featurestore.registry.tables import FEATURE_READS

log = structlog.get_logger()

TRAINING = "training"
"""The consumer that training sets are."""
SHELL = "shell"
"""The consumer that `featurestore get` is, where it reads the local store."""
_NAME_MOST = 255


@dataclass(frozen=True)
class ReadCount:
    """Reads of a feature that are to be added. last_read_at: of the newest of them, UTC; its day is theirs."""

    view: str
    version: int
    feature: str
    consumer: str
    reads: int
    last_read_at: datetime


@dataclass(frozen=True)
class FeatureUse:
    """What a consumer read of a feature, over all its versions."""

    view: str
    feature: str
    consumer: str
    reads: int
    last_read_at: datetime


class FeatureReads:
    """The counts. Several processes may add at once. All methods raise RegistryError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, counts: Iterable[ReadCount]) -> None:
        """Add reads, all or none."""
        rows = [
            {
                "view": one.view,
                "feature": one.feature,
                "consumer": one.consumer[:_NAME_MOST],
                "day": _day(one.last_read_at),
                "version": one.version,
                "reads": one.reads,
                "last_read_at": one.last_read_at,
            }
            for one in counts
        ]
        if not rows:
            return
        with self._database.transaction(write=True) as connection:
            connection.execute(_upsert(connection), rows)

    def uses(self, view: str | None = None, feature: str | None = None) -> list[FeatureUse]:
        """Who read which features, by view, feature and consumer; of all, of a view, or of one feature."""
        keys = (FEATURE_READS.c.view, FEATURE_READS.c.feature, FEATURE_READS.c.consumer)
        query = (
            select(
                *keys,
                func.sum(FEATURE_READS.c.reads).label("reads"),
                func.max(FEATURE_READS.c.last_read_at).label("last_read_at"),
            )
            .group_by(*keys)
            .order_by(*keys)
        )
        if view is not None:
            query = query.where(FEATURE_READS.c.view == view)
        if feature is not None:
            query = query.where(FEATURE_READS.c.feature == feature)
        with self._database.transaction() as connection:
            return [
                FeatureUse(row.view, row.feature, row.consumer, int(row.reads), row.last_read_at)
                for row in connection.execute(query)
            ]

    def last_reads(self) -> dict[tuple[str, str], datetime]:
        """When each feature was read last, by (view, feature); those that nobody read are not in it."""
        keys = (FEATURE_READS.c.view, FEATURE_READS.c.feature)
        query = select(*keys, func.max(FEATURE_READS.c.last_read_at).label("last_read_at")).group_by(*keys)
        with self._database.transaction() as connection:
            return {(row.view, row.feature): row.last_read_at for row in connection.execute(query)}

    def recorded_since(self) -> date | None:
        """The first day of which any read is known; None when none is. Of what was before, nothing can be said."""
        with self._database.transaction() as connection:
            day = connection.execute(select(func.min(FEATURE_READS.c.day))).scalar()
        return None if day is None else date.fromisoformat(day)

    def forget(self, before: date) -> None:
        """Drop the counts of the days before one."""
        with self._database.transaction(write=True) as connection:
            connection.execute(delete(FEATURE_READS).where(FEATURE_READS.c.day < before.isoformat()))


def record_reads(place: Path | str, consumer: str, features: Iterable[tuple[str, int, str]]) -> None:
    """Add one read of each of these features, (view, version, feature), now.

    For commands that read once. A registry that can't be written is no reason to fail: the reads stay uncounted.
    """
    now = datetime.now(timezone.utc)
    try:
        database = Database.open(place, create=False)
        try:
            FeatureReads(database).add(ReadCount(*feature, consumer, 1, now) for feature in features)
        finally:
            database.close()
    except RegistryError as error:
        log.debug("reads_not_recorded", consumer=consumer, error=error.message)


def _day(instant: datetime) -> str:
    return instant.astimezone(timezone.utc).date().isoformat()


def _upsert(connection: Connection) -> Any:
    """Both databases say ON CONFLICT alike, each by an insert of its own."""
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(FEATURE_READS)
    new, old = statement.excluded, FEATURE_READS.c
    return statement.on_conflict_do_update(
        index_elements=[column.name for column in FEATURE_READS.primary_key],
        set_={
            "reads": old.reads + new.reads,
            "last_read_at": case((new.last_read_at > old.last_read_at, new.last_read_at), else_=old.last_read_at),
        },
    )
