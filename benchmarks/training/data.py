"""An archive and a spine for the training benchmark: `python -m benchmarks.training.data FOLDER EVENTS ROWS`.

Payments of 100,000 cards with the standard job's skew, evenly over seven days, up to a minute under way; the spine's
rows lie at events of the last six days, drawn evenly, so that busy cards have many.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.events import START_MS, STREAMS, card_numbers
from featurestore.batches import PartitionBatch, PartitionProgress
from featurestore.config import Settings
from featurestore.definitions.discover import load_definitions
from featurestore.definitions.resolve import resolve_all
from featurestore.offline import SourceArchive
from featurestore.registry import Registry

PARTITIONS = 4
BATCH = 100_000
DAY_US = 86_400_000_000
INSTANT = pl.Datetime("us", "UTC")
MODULE = "benchmarks.training.pipeline"


def make_archive(data_dir: Path, events: int, rng: np.random.Generator) -> pl.DataFrame:
    """Write the archive as a worker does; card_id, amount, event_time of all events."""
    # Each in a millisecond of its own: which of two events of one instant is the newest, joins see differently.
    step_us = 7 * DAY_US // events // 1_000 * 1_000
    time = START_MS * 1_000 + np.arange(events) * step_us + rng.integers(0, step_us, events)
    cards = pl.Series("card", card_numbers(STREAMS["payments"], events, rng))
    frame = pl.DataFrame(
        {
            "card_id": "c" + cards.cast(pl.String).str.zfill(7),
            "merchant_id": pl.Series(rng.integers(0, 1_000, events)).cast(pl.String),
            "amount": np.clip(rng.lognormal(8.0, 1.2, events), 1, 10_000_000).astype(np.int64) / 100,
            "ts": time // 1_000,
            "event_time": time // 1_000 * 1_000,
            "arrival_time": time + rng.exponential(2_000_000, events).clip(0, 60_000_000).astype(np.int64),
        }
    ).with_columns(pl.col("event_time", "arrival_time").cast(INSTANT), pl.from_epoch("ts", "ms").cast(INSTANT))
    archive = SourceArchive(data_dir / "offline", "payments", "benchmark")
    none = frame.head(0).with_columns(_offset=pl.lit(0, pl.Int64))
    for partition in range(PARTITIONS):
        own = frame.gather_every(PARTITIONS, partition).with_columns(_partition=pl.lit(partition, pl.Int32))
        own = own.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("_offset"))
        for begin in range(0, own.height, BATCH):
            part = own.slice(begin, BATCH)
            newest = int(part["event_time"].dt.epoch("us").max())  # type: ignore[arg-type]
            progress = PartitionProgress(partition, begin, begin + part.height, newest)
            arrival = part["arrival_time"].dt.epoch("us").to_numpy()
            sizes = np.full(part.height, 90)
            archive.append(PartitionBatch(progress, part["_offset"].to_numpy(), arrival, sizes, part, none, none))
            archive.maybe_flush(0.0)
    archive.flush()
    return frame.select("card_id", "amount", "event_time")


def main(arguments: list[str]) -> int:
    """Make both, and apply the definition."""
    folder, events, rows = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    rng = np.random.default_rng(7)
    data_dir = folder / "data"
    frame = make_archive(data_dir, events, rng)
    recent = frame.filter(pl.col("event_time") >= frame["event_time"].min() + pl.duration(days=1))
    spine = recent.sample(rows, seed=3, shuffle=True, with_replacement=rows > recent.height)
    spine.select("card_id", pl.col("event_time").alias("event_timestamp")).write_parquet(folder / "spine.parquet")
    frame.write_parquet(folder / "events.parquet")
    registry = Registry.open(Settings(store={"data_dir": data_dir}).store.data_dir / "registry" / "registry.db")
    registry.apply(registry.plan(resolve_all(load_definitions([MODULE], Path.cwd()), Path.cwd())))
    registry.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
