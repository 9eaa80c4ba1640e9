"""Batch views of one file each, runs of them at any instant, and a naive oracle: three loops over the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from featurestore.batch.materialize import Materialized, Materializer
from featurestore.compile.batch import CompiledBatchView
from featurestore.definitions.batch import BatchFeatureView, Field, FileSource, SQLSource
from featurestore.definitions.entity import Entity
from featurestore.definitions.resolve_batch import resolve_batch_view
from featurestore.offline.atomic import CrashPoint, no_crash
from featurestore.online.batch_reader import BatchReader
from featurestore.online.reader import ViewRead

HOUR = 3_600_000_000
T0 = 1_795_392_000_000_000
"""2026-11-23T00:00:00Z in µs."""
CARD = Entity("card", join_keys={"card_id": pl.String})
INSTANT = pl.Datetime("us", "UTC")


def hours(number: float) -> int:
    """The instant so many hours after T0, µs."""
    return T0 + int(number * HOUR)


def compiled(
    source: FileSource | SQLSource | None = None, *, version: int = 1, ttl: str | None = None, **fields: object
) -> CompiledBatchView:
    """A view `limits` of cards with a `credit` (Int64) and what else is given as name=dtype."""
    view = BatchFeatureView(
        "limits",
        source=source or FileSource("rows/*.parquet", event_time="at", created_time="loaded"),
        entities=[CARD],
        features=[Field("credit", pl.Int64), *(Field(name, dtype) for name, dtype in fields.items())],
        ttl=ttl,
    )
    return CompiledBatchView(7, version, resolve_batch_view(view))


@dataclass(frozen=True)
class Row:
    """A row of a source. at, loaded: hours after T0; loaded None: the source does not say."""

    card: str | None
    at: float | None
    credit: int | None
    loaded: float | None = None


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """The rows as a Parquet file, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(
        {
            "card_id": [row.card for row in rows],
            "credit": [row.credit for row in rows],
            "at": [None if row.at is None else hours(row.at) for row in rows],
            "loaded": [None if row.loaded is None else hours(row.loaded) for row in rows],
        },
        schema={"card_id": pl.String, "credit": pl.Int64, "at": pl.Int64, "loaded": pl.Int64},
    )
    frame.with_columns(pl.col("at", "loaded").cast(INSTANT)).write_parquet(path)


@dataclass
class Project:
    """A folder with sources and stores."""

    folder: Path
    part_rows: int = 250_000
    told: list[Materialized] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def materialize(
        self,
        view: CompiledBatchView,
        now: float,
        *,
        begin: float | None = None,
        end: float | None = None,
        crash_point: CrashPoint = no_crash,
    ) -> list[Materialized]:
        """Run at `now`, hours after T0."""
        runs = Materializer(
            self.data, self.folder, now_us=lambda: hours(now), crash_point=crash_point, part_rows=self.part_rows
        )
        done = runs.run(
            view, from_us=None if begin is None else hours(begin), to_us=None if end is None else hours(end)
        )
        self.told += done
        return done

    def read(self, view: CompiledBatchView, cards: Sequence[str | None], at: float) -> ViewRead:
        """An online read at an instant, hours after T0."""
        reader = BatchReader(self.data, view.store)
        try:
            reader.refresh()
            return reader.read(view, cards, list(view.features), hours(at))
        finally:
            reader.close()

    def files(self, view: CompiledBatchView) -> dict[str, bytes]:
        """Every Parquet file of the view's version by name."""
        folder = self.data / "offline" / "features" / view.name / f"v{view.version}" / "batch"
        return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}

    def rows(self, view: CompiledBatchView) -> pl.DataFrame:
        """Every row of the offline store, files in order."""
        folder = self.data / "offline" / "features" / view.name / f"v{view.version}" / "batch"
        return pl.read_parquet(folder / "*.parquet")


@dataclass(frozen=True)
class Stored:
    """A row as the store should hold it; created as the run knew it."""

    card: str
    at: float
    credit: int | None
    created: float


def naive_state(
    rows: Sequence[Stored], card: str, at: float, *, ttl: float | None = None, arrival: bool = False
) -> Stored | None:
    """The row that a read of a card at an instant is to give; rows in the order in which they came."""
    best: Stored | None = None
    for row in rows:
        if row.card != card or row.at >= at or (arrival and row.created >= at):
            continue
        if best is None or (row.at, row.created) >= (best.at, best.created):
            best = row
    return None if best is not None and ttl is not None and best.at < at - ttl else best
