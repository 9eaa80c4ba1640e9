"""Give every message of a partition its verdict: accepted, too late, or a dead letter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import polars as pl
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message

from featurestore.batches import (
    ARRIVAL_TIME,
    EVENT_TIME,
    NO_TIME,
    OFFSET,
    PARTITION,
    PARTITION_WATERMARK,
)
from featurestore.definitions.specs import SourceSpec
from featurestore.durations import format_duration, format_instant
from featurestore.sources.decode import Decoded
from featurestore.sources.lateness import in_future, max_before, too_late, watermark_before
from featurestore.sources.verdicts import VerdictJournal

_INSTANT = pl.Datetime("us", "UTC")
DEAD_SCHEMA = {
    PARTITION: pl.Int32,
    OFFSET: pl.Int64,
    "key": pl.Binary,
    "value": pl.Binary,
    ARRIVAL_TIME: _INSTANT,
    "reason": pl.String,
    "error": pl.String,
}


@dataclass(frozen=True)
class RawMessages:
    """Messages of a poll as columns, in the order they came; arrays int64, shape (n,).

    arrival_us: Kafka's timestamp. broker_time: whether the broker set it (else the producer did). sizes: value bytes.
    """

    messages: Sequence[Message]
    values: list[bytes | None]
    partitions: np.ndarray
    offsets: np.ndarray
    arrival_us: np.ndarray
    broker_time: np.ndarray
    sizes: np.ndarray

    @staticmethod
    def of(messages: Sequence[Message]) -> RawMessages:
        """Take the columns out of messages, each by one C-level map."""
        n = len(messages)
        values = list(map(Message.value, messages))
        stamps = np.fromiter(chain.from_iterable(map(Message.timestamp, messages)), dtype=np.int64, count=2 * n)
        return RawMessages(
            messages,
            values,
            np.fromiter(map(Message.partition, messages), dtype=np.int64, count=n),
            np.fromiter(map(Message.offset, messages), dtype=np.int64, count=n),
            stamps[1::2] * 1_000,
            stamps[0::2] == TIMESTAMP_LOG_APPEND_TIME,
            np.fromiter((0 if value is None else len(value) for value in values), dtype=np.int64, count=n)
            if None in values
            else np.fromiter(map(len, values), dtype=np.int64, count=n),  # type: ignore[arg-type]
        )

    def by_partition(self) -> Iterator[tuple[int, np.ndarray]]:
        """(partition, positions in offset order) of each partition."""
        for partition in np.unique(self.partitions).tolist():
            yield partition, np.flatnonzero(self.partitions == partition)


@dataclass(frozen=True)
class Judged:
    """Verdicts on one partition's messages; frames as `PartitionBatch` describes them."""

    accepted: pl.DataFrame
    late: pl.DataFrame
    dead: pl.DataFrame


class Judge:
    """Judges one partition, in offset order. max_event_time_us: of valid events so far, NO_TIME if none."""

    def __init__(self, spec: SourceSpec, partition: int, max_event_time_us: int, journal: VerdictJournal) -> None:
        self._spec = spec
        self._partition = partition
        self._journal = journal
        self.max_event_time_us = max_event_time_us

    def judge(
        self, raw: RawMessages, decoded: Decoded, rows: np.ndarray, wall_us: int, next_offset: int
    ) -> Judged:
        """Verdicts on the messages at positions `rows` (one partition, offsets ascending).

        wall_us: the clock at reading. The future verdicts are remembered before this returns.
        """
        mine = np.flatnonzero(np.isin(decoded.good, rows, assume_unique=True)) if len(rows) != len(raw.offsets) else None
        good = decoded.good if mine is None else decoded.good[mine]
        frame = decoded.frame if mine is None else decoded.frame[mine]
        dead: list[tuple[int, str, str]] = []
        if decoded.bad:
            wanted = set(rows.tolist())
            dead = [(bad.index, bad.reason, bad.error) for bad in decoded.bad if bad.index in wanted]
        time = frame[self._spec.event_time].dt.epoch("us")
        if time.null_count():
            missing = time.is_null().to_numpy()
            text = f"event time field '{self._spec.event_time}' is null"
            dead.extend((int(index), "event_time_missing", text) for index in good[missing])
            frame, good, time = frame.filter(~missing), good[~missing], time.drop_nulls()
        event_us = time.to_numpy()
        offsets = raw.offsets[good]
        future = self._future(raw, good, event_us, offsets, wall_us)
        self._journal.record(offsets[future], next_offset)
        if future.any():
            dead.extend(self._future_letters(good[future], event_us[future]))
            frame, good, event_us, offsets = frame.filter(~future), good[~future], event_us[~future], offsets[~future]
        before = max_before(event_us, self.max_event_time_us)
        watermark = watermark_before(before, self._spec.max_out_of_orderness_us)
        late = too_late(event_us, watermark, self._spec.allowed_lateness_us)
        if len(event_us):
            self.max_event_time_us = max(self.max_event_time_us, int(event_us.max()))
        events = frame.with_columns(
            pl.lit(self._partition, dtype=pl.Int32).alias(PARTITION),
            pl.Series(OFFSET, offsets),
            pl.Series(EVENT_TIME, event_us).cast(_INSTANT),
            pl.Series(ARRIVAL_TIME, raw.arrival_us[good]).cast(_INSTANT),
            pl.Series(PARTITION_WATERMARK, watermark),
        )
        return Judged(events.filter(~late) if late.any() else events, _late(events, late), self._dead(raw, dead))

    def _future(
        self, raw: RawMessages, good: np.ndarray, event_us: np.ndarray, offsets: np.ndarray, wall_us: int
    ) -> np.ndarray:
        limit = np.where(raw.broker_time[good], raw.arrival_us[good], wall_us)
        now = in_future(event_us, limit, self._spec.max_future_us)
        judged_before, future_then = self._journal.replayed(offsets)
        return np.where(judged_before, future_then, now)

    def _future_letters(self, good: np.ndarray, event_us: np.ndarray) -> Iterator[tuple[int, str, str]]:
        ahead = format_duration(self._spec.max_future_us)
        for index, us in zip(good.tolist(), event_us.tolist(), strict=True):
            yield index, "event_time_in_future", f"event time {format_instant(us)} is more than {ahead} ahead of its arrival"

    def _dead(self, raw: RawMessages, dead: list[tuple[int, str, str]]) -> pl.DataFrame:
        if not dead:
            return pl.DataFrame(schema=DEAD_SCHEMA)
        dead.sort()
        index = [position for position, _, _ in dead]
        return pl.DataFrame(
            {
                PARTITION: [self._partition] * len(dead),
                OFFSET: raw.offsets[index],
                "key": [raw.messages[position].key() for position in index],
                "value": [raw.values[position] for position in index],
                ARRIVAL_TIME: pl.Series(raw.arrival_us[index]).cast(_INSTANT),
                "reason": [reason for _, reason, _ in dead],
                "error": [error for _, _, error in dead],
            },
            schema=DEAD_SCHEMA,
        )


def _late(events: pl.DataFrame, late: np.ndarray) -> pl.DataFrame:
    rows = events.filter(late) if late.any() else events.clear()
    watermark = pl.col(PARTITION_WATERMARK)
    return rows.with_columns(
        watermark.cast(_INSTANT).alias("watermark"),
        (watermark - pl.col(EVENT_TIME).dt.epoch("us")).alias("lateness"),
    )
