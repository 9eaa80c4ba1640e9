"""Where the archive begins a new file: decided by the log, not by batches, restarts or the clock.

A segment is a run of offsets of one partition; its accepted events, late events and dead letters are one
file each.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ArchiveEnd:
    """How far a partition is archived: one past the last offset, and the largest event time before it."""

    next_offset: int
    max_event_time_us: int


@dataclass(frozen=True)
class SegmentLimits:
    """When a segment ends. span_us: width of the arrival-time buckets, aligned to the epoch."""

    events: int
    value_bytes: int
    span_us: int


class SegmentFooter(msgspec.Struct, frozen=True):
    """What a segment's events file carries in its Parquet metadata.

    start, end: half-open span of offsets, gaps included. max_event_time_us: largest event time of the
    partition before `end` (NO_TIME if none). value_bytes: raw bytes of all messages of the segment so far.
    first_arrival_us: arrival time of the segment's first message, None as long as it has none. columns:
    (name, dtype) of the accepted events. duplicates: how many messages of the segment were duplicates.
    """

    format_version: int
    source: str
    generation: str
    partition: int
    start: int
    end: int
    max_event_time_us: int
    value_bytes: int
    first_arrival_us: int | None
    columns: list[tuple[str, str]]
    duplicates: int = 0


class SideFooter(msgspec.Struct, frozen=True):
    """What files of late events and dead letters carry; the events file says how far they reach."""

    format_version: int
    source: str
    generation: str
    partition: int
    start: int


@dataclass(frozen=True)
class SegmentPart:
    """Messages [first, stop) of a batch, all of one segment, and its size and first arrival after them."""

    first: int
    stop: int
    value_bytes: int
    first_arrival_us: int | None


def cut_segments(
    limits: SegmentLimits,
    start: int,
    value_bytes: int,
    first_arrival_us: int | None,
    offsets: np.ndarray,
    arrival_us: np.ndarray,
    sizes: np.ndarray,
) -> list[SegmentPart]:
    """Divide a batch between the open segment and new ones.

    start, value_bytes, first_arrival_us: of the open segment so far. offsets (ascending), arrival_us,
    sizes: int64, shape (n,).

    Returns at least one part. Part 0 continues the open segment and may be empty; each further part begins
    a segment at its first message. A message begins one when it lies past a multiple of limits.events that
    the segment's start does not, when the segment already holds limits.value_bytes, or when it arrived in a
    later bucket than the segment's first message.
    """
    size = len(offsets)
    bytes_before = np.zeros(size + 1, dtype=np.int64)
    np.cumsum(sizes, out=bytes_before[1:])
    buckets = arrival_us // limits.span_us
    parts = []
    first = 0
    while True:
        stop = int(np.searchsorted(offsets, (start // limits.events + 1) * limits.events))
        if stop > first:
            if first_arrival_us is None:
                first_arrival_us = int(arrival_us[first])
            full_at = limits.value_bytes - value_bytes + bytes_before[first]
            stop = min(stop, max(first, int(np.searchsorted(bytes_before[:size], full_at))))
            later = buckets[first:stop] > first_arrival_us // limits.span_us
            if later.any():
                stop = first + int(later.argmax())
        value_bytes += int(bytes_before[stop] - bytes_before[first])
        parts.append(SegmentPart(first, stop, value_bytes, first_arrival_us))
        if stop == size:
            return parts
        start, value_bytes, first_arrival_us, first = int(offsets[stop]), 0, None, stop
