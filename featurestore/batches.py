"""The seam between reading and aggregating: what a source hands on, as plain data.

Lateness is decided before this seam and never asked again behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl

NO_TIME = -(2**63)
"""Stands for "no event time yet" wherever times are int64 µs."""

PARTITION = "_partition"
OFFSET = "_offset"
EVENT_TIME = "event_time"
ARRIVAL_TIME = "arrival_time"
PARTITION_WATERMARK = "_partition_watermark"

PartitionState = Literal["active", "idle", "empty", "ended"]


@dataclass(frozen=True)
class PartitionProgress:
    """How far one partition has come. The pair (next_offset, max_event_time_us) is a function of the log alone.

    first_offset: the first offset that the accompanying events can have; next_offset: one past the last one covered
    (gaps of transactions and compaction included). max_event_time_us: largest event time of valid events before
    next_offset, NO_TIME if none. state: "idle" and "empty" do not hold the watermark back; "ended" (bounded run) counts
    with its last watermark.
    """

    partition: int
    first_offset: int
    next_offset: int
    max_event_time_us: int
    state: PartitionState = "active"


@dataclass(frozen=True)
class PartitionBatch:
    """One partition's share of a poll, in offset order, every message with its verdict.

    offsets, arrival_us, sizes: of ALL messages, good or bad, int64, shape (n,); sizes: bytes of the raw values.
    accepted: schema columns + _partition, _offset, event_time, arrival_time, _partition_watermark (int64 µs: the
    partition's watermark just before the event, NO_TIME if none).
    late: as accepted + watermark (Datetime µs UTC), lateness (Int64 µs). dead: _partition, _offset, key, value,
    arrival_time, reason, error. duplicates: offsets, int64; nothing else is kept of them.
    """

    progress: PartitionProgress
    offsets: np.ndarray
    arrival_us: np.ndarray
    sizes: np.ndarray
    accepted: pl.DataFrame
    late: pl.DataFrame
    dead: pl.DataFrame
    duplicates: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def partition(self) -> int:
        return self.progress.partition


@dataclass(frozen=True)
class SourcePoll:
    """What one poll of a source gave: partitions with messages, and progress of every partition whose state changed.

    progress holds one entry for every partition in `batches` and for others whose next offset or state moved.
    """

    batches: tuple[PartitionBatch, ...]
    progress: tuple[PartitionProgress, ...]
