"""A source of card payments, messages as Kafka gives them, and a reader that is polled to its end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, Message

from featurestore.batches import NO_TIME, PartitionProgress, SourcePoll
from featurestore.definitions.specs import ColumnSpec, SourceSpec
from featurestore.sources.consumer import ResumePoint, SourceReader

SECOND = 1_000_000
MINUTE = 60 * SECOND
T0_MS = 1_700_000_000_000
T0_US = T0_MS * 1_000

PAYMENT = (
    ColumnSpec(name="card_id", dtype="String"),
    ColumnSpec(name="merchant_id", dtype="String", nullable=True),
    ColumnSpec(name="amount", dtype="Float64"),
    ColumnSpec(name="ts", dtype="Datetime", unit="ms"),
)


def source(**changes: Any) -> SourceSpec:
    """Payments as JSON: 5 s out of order, 60 s late, 1 minute ahead, idle after 30 s."""
    spec = SourceSpec(
        name="payments",
        topic="payments",
        schema="payments.avsc",
        format="json",
        event_time="ts",
        max_out_of_orderness_us=5 * SECOND,
        allowed_lateness_us=60 * SECOND,
        idle_timeout_us=30 * SECOND,
        max_future_us=MINUTE,
        columns=PAYMENT,
    )
    return msgspec.structs.replace(spec, **changes)


def payment(ts_ms: int = T0_MS, card: str = "c1", amount: float = 1.5) -> bytes:
    return json.dumps({"card_id": card, "merchant_id": "m1", "amount": amount, "ts": ts_ms}).encode()


def message(
    partition: int,
    offset: int,
    value: bytes | None,
    *,
    key: bytes | None = None,
    arrival_ms: int = T0_MS,
    broker_time: bool = True,
) -> Message:
    kind = TIMESTAMP_LOG_APPEND_TIME if broker_time else TIMESTAMP_CREATE_TIME
    return Message(
        topic="payments",
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        timestamp=(kind, arrival_ms),
    )


def rows(frame: pl.DataFrame, *columns: str) -> list[Any]:
    """The rows of some columns as tuples; of one column its values."""
    chosen = frame.select(columns)
    return chosen.to_series().to_list() if len(columns) == 1 else chosen.rows()


@dataclass
class Clock:
    """A wall clock (ns) and a monotonic clock (s) that stand still until moved."""

    now_us: int = T0_US
    seconds: float = 1000.0

    def wall(self) -> int:
        return self.now_us * 1_000

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Read:
    """What a reader gave: frames of all polls, the offsets seen, and each partition's progress in order."""

    accepted: list[pl.DataFrame] = field(default_factory=list)
    late: list[pl.DataFrame] = field(default_factory=list)
    dead: list[pl.DataFrame] = field(default_factory=list)
    offsets: dict[int, list[int]] = field(default_factory=dict)
    progress: dict[int, list[PartitionProgress]] = field(default_factory=dict)

    def add(self, poll: SourcePoll | None) -> None:
        if poll is None:
            return
        told = [progress.partition for progress in poll.progress]
        assert len(told) == len(set(told)), "one progress a partition"
        for progress in poll.progress:
            before = self.progress.setdefault(progress.partition, [])
            assert not before or before[-1].next_offset >= progress.first_offset, "no hole between what is told"
            assert not before or progress.next_offset >= before[-1].next_offset, "progress does not go back"
            before.append(progress)
        for batch in poll.batches:
            assert batch.progress in poll.progress
            assert len(batch.accepted) + len(batch.late) + len(batch.dead) == len(batch.offsets) > 0
            assert len(batch.offsets) == len(batch.arrival_us) == len(batch.sizes)
            assert batch.progress.first_offset <= batch.offsets[0]
            assert batch.offsets[-1] < batch.progress.next_offset
            self.accepted.append(batch.accepted)
            self.late.append(batch.late)
            self.dead.append(batch.dead)
            self.offsets.setdefault(batch.partition, []).extend(batch.offsets.tolist())

    def frame(self, kind: str) -> pl.DataFrame:
        """All "accepted", "late" or "dead" rows, by partition and offset."""
        return pl.concat(getattr(self, kind)).sort("_partition", "_offset")

    def last(self, partition: int) -> PartitionProgress:
        return self.progress[partition][-1]

    def states(self) -> dict[int, str]:
        return {partition: told[-1].state for partition, told in sorted(self.progress.items())}


def make_reader(
    spec: SourceSpec,
    address: str,
    verdict_dir: Path,
    *,
    resume: Mapping[int, ResumePoint | int] | None = None,
    partitions: Sequence[int] = (0, 1, 2, 3),
    stop_at: Mapping[int, int] | None = None,
    **options: Any,
) -> SourceReader:
    points = {p: ResumePoint(0, NO_TIME) for p in partitions}
    for partition, point in (resume or {}).items():
        points[partition] = point if isinstance(point, ResumePoint) else ResumePoint(point)
    return SourceReader(
        spec,
        address,
        "test-readers",
        points,
        options.pop("generation", "generation"),
        stop_at,
        verdict_dir,
        options.pop("settings", {}),
        **options,
    )


def poll_until(
    reader: SourceReader, done: Callable[[Read], bool], into: Read | None = None, timeout_s: float = 20
) -> Read:
    """Poll until `done`. Fails after `timeout_s`."""
    read = Read() if into is None else into
    until = time.monotonic() + timeout_s
    while not done(read):
        assert time.monotonic() < until, f"not within {timeout_s} s; so far {read.progress}"
        read.add(reader.poll(0.02))
    return read


def read_to_end(reader: SourceReader, timeout_s: float = 20) -> Read:
    """Poll a bounded run to its end, and close the reader."""
    try:
        return poll_until(reader, lambda read: reader.finished, timeout_s=timeout_s)
    finally:
        reader.close()
