"""From which offset of each partition on a source's definition decides about its messages, for good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from sqlalchemy import insert as insert_into
from sqlalchemy import select

from featurestore.definitions.specs import SourceSpec
from featurestore.registry.database import Database
from featurestore.registry.history import record
from featurestore.registry.records import content_hash, decoded, encoded
from featurestore.registry.tables import SOURCE_CHANGES


@dataclass(frozen=True)
class SourceChange:
    """A definition of a source and, by partition, the first offset that it decides about; 0 for those not named.

    at: when it took effect, UTC.
    """

    spec: SourceSpec
    offsets: Mapping[int, int]
    at: datetime


class SourceChanges:
    """What runs have found. generation: of the source's topic; a topic made again has changes of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, source: str, generation: str) -> list[SourceChange]:
        """All definitions that ever decided, the oldest first."""
        query = (
            select(SOURCE_CHANGES)
            .where(SOURCE_CHANGES.c.source == source, SOURCE_CHANGES.c.generation == generation)
            .order_by(SOURCE_CHANGES.c.id)
        )
        with self._database.transaction() as connection:
            rows = connection.execute(query).all()
        return [
            SourceChange(
                decoded(row.spec, SourceSpec, self._database.place),
                {int(partition): offset for partition, offset in row.offsets.items()},
                row.at,
            )
            for row in rows
        ]

    def add(self, spec: SourceSpec, generation: str, offsets: Mapping[int, int]) -> None:
        """Write down that a definition decides from these offsets on. The caller holds the source's lock."""
        text = encoded(spec)
        row = {"source": spec.name, "generation": generation, "spec": text, "content_hash": content_hash(text)}
        with self._database.transaction(write=True) as connection:
            values = {**row, "offsets": dict(offsets), "at": datetime.now(timezone.utc)}
            connection.execute(insert_into(SOURCE_CHANGES).values(**values))
            note = ", ".join(f"partition {number} from offset {offset}" for number, offset in sorted(offsets.items()))
            record(connection, "takes_effect", "source", spec.name, content_hash=row["content_hash"], note=note or None)
