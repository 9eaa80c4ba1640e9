"""Give every message its verdict: accepted, too late, a duplicate, or a dead letter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from featurestore.batches import (
    ARRIVAL_TIME,
    EVENT_TIME,
    NO_TIME,
    OFFSET,
    PARTITION,
    PARTITION_WATERMARK,
)
from featurestore.compile.columns import COLUMN_DTYPES
from featurestore.definitions.specs import SourceSpec
from featurestore.durations import format_duration, format_instant
from featurestore.sources.decode import Decoded
from featurestore.sources.duplicates import SeenIds
from featurestore.sources.lateness import in_future, max_before, too_late, watermark_before
from featurestore.sources.messages import RawMessages
from featurestore.sources.verdicts import VerdictJournal

_INSTANT = pl.Datetime("us", "UTC")
DEAD_SCHEMA = pl.Schema(
    {
        PARTITION: pl.Int32(),
        OFFSET: pl.Int64(),
        "key": pl.Binary(),
        "value": pl.Binary(),
        ARRIVAL_TIME: _INSTANT,
        "reason": pl.String(),
        "error": pl.String(),
    }
)


@dataclass(frozen=True)
class Judged:
    """Verdicts on one partition's messages; frames as `PartitionBatch` describes them."""

    partition: int
    accepted: pl.DataFrame
    late: pl.DataFrame
    dead: pl.DataFrame
    duplicates: np.ndarray


class Judge:
    """Judges the partitions of one source, each in offset order.

    max_event_time_us: of each partition's valid events so far, NO_TIME if none; `judge` moves it on.
    journals: one for each partition. seen: where the source has `dedupe_by`, one for each partition.
    """

    def __init__(
        self,
        spec: SourceSpec,
        max_event_time_us: Mapping[int, int],
        journals: Mapping[int, VerdictJournal],
        seen: Mapping[int, SeenIds] | None = None,
    ) -> None:
        assert (seen is not None) == (spec.dedupe_by is not None)
        self._seen = seen
        self._spec = spec
        self._journals = journals
        self.max_event_time_us = dict(max_event_time_us)
        events = {column.name: COLUMN_DTYPES[column.dtype] for column in spec.columns}
        events |= {PARTITION: pl.Int32(), OFFSET: pl.Int64(), EVENT_TIME: _INSTANT, ARRIVAL_TIME: _INSTANT}
        events |= {PARTITION_WATERMARK: pl.Int64()}
        self._no_late = pl.DataFrame(schema={**events, "watermark": _INSTANT, "lateness": pl.Int64()})
        self._no_dead = pl.DataFrame(schema=DEAD_SCHEMA)

    def judge(self, raw: RawMessages, decoded: Decoded, wall_us: int) -> list[Judged]:
        """Verdicts on messages, by partition as in `raw.spans`; their offsets follow those of earlier calls.

        wall_us: the clock at reading. Verdicts in which it spoke are remembered before this returns.
        """
        frame, good = decoded.frame, decoded.good
        dead = [(value.index, value.reason, value.error) for value in decoded.bad]
        time = frame[self._spec.event_time].dt.epoch("us")
        if time.null_count():
            missing = time.is_null().to_numpy()
            text = f"event time field '{self._spec.event_time}' is null"
            dead.extend((index, "event_time_missing", text) for index in good[missing].tolist())
            frame, good, time = frame.filter(~missing), good[~missing], time.drop_nulls()
        event_us = time.to_numpy()
        future = self._future(raw, good, event_us, wall_us)
        self._remember(raw, good[future])
        if future.any():
            dead.extend(self._future_letters(good[future], event_us[future]))
            frame, good, event_us = frame.filter(~future), good[~future], event_us[~future]
        duplicate = None if self._seen is None else self._duplicates(self._seen, raw, good, frame, event_us)
        watermark, late = self._lateness(raw, good, event_us, duplicate)
        rows_of = np.repeat([p for p, _, _ in raw.spans], [end - start for _, start, end in raw.spans])
        events = frame.hstack(
            [
                pl.Series(PARTITION, rows_of[good].astype(np.int32)),
                pl.Series(OFFSET, raw.offsets[good]),
                pl.Series(EVENT_TIME, event_us).cast(_INSTANT),
                pl.Series(ARRIVAL_TIME, raw.arrival_us[good]).cast(_INSTANT),
                pl.Series(PARTITION_WATERMARK, watermark),
            ]
        )
        return self._by_partition(raw, good, events, late, duplicate, sorted(dead))

    def _future(self, raw: RawMessages, good: np.ndarray, event_us: np.ndarray, wall_us: int) -> np.ndarray:
        limit = np.where(raw.broker_time[good], raw.arrival_us[good], wall_us)
        future = in_future(event_us, limit, self._spec.max_future_us)
        for partition, low, high in _spans_of(raw, good):
            journal = self._journals[partition]
            offsets = raw.offsets[good[low:high]]
            if len(offsets) and offsets[0] < journal.replay_end:
                decided, then = journal.replayed(offsets)
                future[low:high] = np.where(decided, then, future[low:high])
        return future

    def _remember(self, raw: RawMessages, future: np.ndarray) -> None:
        cuts = {partition: (low, high) for partition, low, high in _spans_of(raw, future)}
        for partition, _, end in raw.spans:
            low, high = cuts[partition]
            self._journals[partition].record(raw.offsets[future[low:high]], int(raw.offsets[end - 1]) + 1)

    def _duplicates(
        self, seen: Mapping[int, SeenIds], raw: RawMessages, good: np.ndarray, frame: pl.DataFrame, event_us: np.ndarray
    ) -> np.ndarray | None:
        """Which rows are duplicates, None where none is."""
        assert self._spec.dedupe_by is not None
        ids = frame[self._spec.dedupe_by]
        found = [
            seen[partition].find(ids[low:high], event_us[low:high], self.max_event_time_us[partition])
            for partition, low, high in _spans_of(raw, good)
            if low < high
        ]
        duplicate = np.concatenate(found) if found else np.empty(0, dtype=bool)
        return duplicate if duplicate.any() else None

    def _lateness(
        self, raw: RawMessages, good: np.ndarray, event_us: np.ndarray, duplicate: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Partition watermark before each row, and which rows are too late."""
        # Duplicates move no watermark.
        moving = event_us if duplicate is None else np.where(duplicate, NO_TIME, event_us)
        before = np.empty(len(good), dtype=np.int64)
        for partition, low, high in _spans_of(raw, good):
            if low < high:
                newest = self.max_event_time_us[partition]
                before[low:high] = max_before(moving[low:high], newest)
                self.max_event_time_us[partition] = max(newest, int(moving[low:high].max()))
        watermark = watermark_before(before, self._spec.max_out_of_orderness_us)
        late = too_late(event_us, watermark, self._spec.allowed_lateness_us)
        return watermark, late if duplicate is None else late & ~duplicate

    def _future_letters(self, good: np.ndarray, event_us: np.ndarray) -> Iterator[tuple[int, str, str]]:
        ahead = format_duration(self._spec.max_future_us)
        for index, us in zip(good.tolist(), event_us.tolist(), strict=True):
            text = f"event time {format_instant(us)} is more than {ahead} ahead of its arrival"
            yield index, "event_time_in_future", text

    def _by_partition(
        self,
        raw: RawMessages,
        good: np.ndarray,
        events: pl.DataFrame,
        late: np.ndarray,
        duplicate: np.ndarray | None,
        dead: list[tuple[int, str, str]],
    ) -> list[Judged]:
        any_late = bool(late.any())
        kept = ~late if duplicate is None else ~(late | duplicate)
        whole = not any_late and duplicate is None
        accepted = events if whole else events.filter(kept)
        late_events = _with_lateness(events.filter(late)) if any_late else self._no_late
        letters = _letters(raw, dead) if dead else self._no_dead
        accepted_cuts = _spans_of(raw, good if whole else good[kept])
        late_cuts = _spans_of(raw, good[late])
        dead_cuts = _spans_of(raw, np.array([index for index, _, _ in dead], dtype=np.int64))
        twice = good[duplicate] if duplicate is not None else good[:0]
        return [
            Judged(
                partition,
                accepted.slice(low, high - low),
                late_events.slice(late_low, late_high - late_low),
                letters.slice(dead_low, dead_high - dead_low),
                raw.offsets[twice[first:end]],
            )
            for (partition, low, high), (_, late_low, late_high), (_, dead_low, dead_high), (_, first, end) in zip(
                accepted_cuts, late_cuts, dead_cuts, _spans_of(raw, twice), strict=True
            )
        ]


def _spans_of(raw: RawMessages, rows: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(partition, first, end) into `rows`, ascending rows of `raw`, for each of its partitions."""
    edges = np.searchsorted(rows, [0, *(end for _, _, end in raw.spans)]).tolist()
    for (partition, _, _), low, high in zip(raw.spans, edges, edges[1:]):
        yield partition, low, high


def _letters(raw: RawMessages, dead: list[tuple[int, str, str]]) -> pl.DataFrame:
    index = np.array([position for position, _, _ in dead], dtype=np.int64)
    partitions = np.concatenate(
        [np.full(high - low, partition, dtype=np.int32) for partition, low, high in _spans_of(raw, index)]
    )
    return pl.DataFrame(
        {
            PARTITION: partitions,
            OFFSET: raw.offsets[index],
            "key": [raw.messages[position].key() for position in index],
            "value": [raw.values[position] for position in index],
            ARRIVAL_TIME: pl.Series(raw.arrival_us[index]).cast(_INSTANT),
            "reason": [reason for _, reason, _ in dead],
            "error": [error for _, _, error in dead],
        },
        schema=DEAD_SCHEMA,
    )


def _with_lateness(events: pl.DataFrame) -> pl.DataFrame:
    watermark = events[PARTITION_WATERMARK]
    return events.hstack(
        [
            watermark.cast(_INSTANT).alias("watermark"),
            (watermark - events[EVENT_TIME].dt.epoch("us")).alias("lateness"),
        ]
    )
