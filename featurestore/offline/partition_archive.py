"""The archive of one partition: an open segment in memory and on disk, and closed ones still to be written.

Each segment's late events and dead letters are written before its accepted events, whose footer alone says
how far the archive reaches. What a crash leaves past that end is removed when the partition is next opened,
for the log brings it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import polars as pl

from featurestore.batches import (
    ARRIVAL_TIME,
    EVENT_TIME,
    NO_TIME,
    OFFSET,
    PARTITION_WATERMARK,
    PartitionBatch,
    PartitionProgress,
)
from featurestore.errors import StoreFormatError
from featurestore.offline import layout
from featurestore.offline.atomic import CrashPoint, remove_durably, remove_temporaries, write_atomically
from featurestore.offline.layout import DEAD_LETTER, EVENTS, LATE, Kind
from featurestore.offline.listing import newest_segment, segment_files
from featurestore.offline.segments import (
    FORMAT_VERSION,
    ArchiveEnd,
    SegmentFooter,
    SegmentLimits,
    SegmentPart,
    SideFooter,
    cut_segments,
)
from featurestore.offline.tables import read_footer, read_frame, read_largest, write_frame

STATISTICS: dict[Kind, tuple[str, ...]] = {
    EVENTS: (OFFSET, EVENT_TIME, ARRIVAL_TIME),
    LATE: (OFFSET, EVENT_TIME, ARRIVAL_TIME),
    DEAD_LETTER: (OFFSET, ARRIVAL_TIME),
}


def _no_frames() -> dict[Kind, list[pl.DataFrame]]:
    return {EVENTS: [], LATE: [], DEAD_LETTER: []}


@dataclass
class _Segment:
    """A segment and what memory holds of it. written_end: how far its events file reaches, else its start."""

    start: int
    columns: list[tuple[str, str]]
    end: ArchiveEnd
    written_end: int
    value_bytes: int = 0
    first_arrival_us: int | None = None
    frames: dict[Kind, list[pl.DataFrame]] = field(default_factory=_no_frames)
    buffered_bytes: int = 0
    duplicates: int = 0

    @property
    def is_durable(self) -> bool:
        return self.end.next_offset == self.written_end


class PartitionArchive:
    """One partition's files. Opened by the process that reads the partition, and by no other at the time.

    start: where the archive begins if it has no file yet; None: at the first offset it is told of.
    Raises StoreFormatError when the newest file is damaged or of another format.
    """

    def __init__(
        self,
        root: Path,
        source: str,
        generation: str,
        partition: int,
        start: ArchiveEnd | None,
        limits: SegmentLimits,
        crash_point: CrashPoint,
    ) -> None:
        self._source = source
        self._generation = generation
        self._partition = partition
        self._limits = limits
        self._crash_point = crash_point
        self._folders = {kind: layout.partition_dir(root, kind, source, generation, partition) for kind in STATISTICS}
        self._closed: list[_Segment] = []
        self._open: _Segment | None = None
        self._end = start
        self.durable_end: ArchiveEnd | None = None
        newest = newest_segment(self._folders[EVENTS])
        if newest is not None:
            footer = read_segment_footer(newest)
            self._end = self.durable_end = ArchiveEnd(footer.end, footer.max_event_time_us)
            if not layout.is_compacted_segment(newest):
                self._open = _Segment(
                    footer.start,
                    footer.columns,
                    self._end,
                    footer.end,
                    footer.value_bytes,
                    footer.first_arrival_us,
                    duplicates=footer.duplicates,
                )
            # A compacted one is the newest only where a user has moved later files away: it stays closed.
        self._remove_leftovers()

    @property
    def has_closed(self) -> bool:
        """Whether a complete segment waits to be written."""
        return bool(self._closed)

    @property
    def has_open(self) -> bool:
        """Whether the open segment has moved since it was last written."""
        return self._open is not None and not self._open.is_durable

    @property
    def open_bytes(self) -> int:
        """Memory of the open segment's rows."""
        return 0 if self._open is None else self._open.buffered_bytes

    def append(self, batch: PartitionBatch) -> None:
        """Take a batch's progress and its rows past the archive's end; what lies below is a replay."""
        progress = batch.progress
        end = self._end or ArchiveEnd(progress.first_offset, NO_TIME)
        if progress.next_offset <= end.next_offset:
            return
        frames = {
            EVENTS: _from_offset(_without_watermark(batch.accepted), end.next_offset),
            LATE: _from_offset(_without_watermark(batch.late), end.next_offset),
            DEAD_LETTER: _from_offset(batch.dead, end.next_offset),
        }
        skipped = int(np.searchsorted(batch.offsets, end.next_offset))
        offsets = batch.offsets[skipped:]
        segment = self._segment_for(frames[EVENTS], end)
        parts = cut_segments(
            self._limits,
            segment.start,
            segment.value_bytes,
            segment.first_arrival_us,
            offsets,
            batch.arrival_us[skipped:],
            batch.sizes[skipped:],
        )
        self._end = ArchiveEnd(progress.next_offset, progress.max_event_time_us)
        ends = self._part_ends(parts, offsets, frames[EVENTS], end.max_event_time_us)
        twice = batch.duplicates[int(np.searchsorted(batch.duplicates, end.next_offset)) :]
        self._take(segment, parts, ends, frames, twice)

    def advance(self, progress: PartitionProgress) -> None:
        """Move the end over a gap. Before the first message there is no file to keep it in."""
        if self._end is None:
            self._end = ArchiveEnd(progress.first_offset, progress.max_event_time_us)
        if self._open is not None and progress.next_offset > self._end.next_offset:
            self._open.end = self._end = ArchiveEnd(progress.next_offset, progress.max_event_time_us)

    def write_closed(self) -> None:
        """Write complete segments, oldest first. When it raises, what was not written is kept."""
        while self._closed:
            self._write(self._closed[0])
            del self._closed[0]

    def write_open(self) -> None:
        """Write complete segments and rewrite the open one as long as it is now."""
        self.write_closed()
        if self._open is not None and not self._open.is_durable:
            self._write(self._open)

    def _segment_for(self, accepted: pl.DataFrame, end: ArchiveEnd) -> _Segment:
        """The open segment, or a new one if there is none or its columns are not those of `accepted`."""
        columns = [(name, str(dtype)) for name, dtype in accepted.schema.items()]
        if self._open is None or self._open.columns != columns:
            self._begin(columns, end)
        assert self._open is not None
        return self._open

    def _begin(self, columns: list[tuple[str, str]], start: ArchiveEnd) -> _Segment:
        if self._open is not None and not self._open.is_durable:
            self._closed.append(self._open)
        self._open = _Segment(start.next_offset, columns, start, written_end=start.next_offset)
        return self._open

    def _part_ends(
        self, parts: Sequence[SegmentPart], offsets: np.ndarray, accepted: pl.DataFrame, max_before_us: int
    ) -> list[ArchiveEnd]:
        """The archive's end after each part: where the next begins, and the running maximum there."""
        assert self._end is not None
        if len(parts) == 1:
            return [self._end]
        highest = np.maximum.accumulate(np.append(max_before_us, accepted[EVENT_TIME].to_physical().to_numpy()))
        if highest[-1] < self._end.max_event_time_us:
            # Only where the archive begins after the log does: the largest event time is older than its
            # first row.
            highest = np.full_like(highest, self._end.max_event_time_us)
        accepted_offsets = accepted[OFFSET].to_numpy()
        starts = [int(offsets[part.first]) for part in parts[1:]]
        ends = [ArchiveEnd(at, int(highest[np.searchsorted(accepted_offsets, at)])) for at in starts]
        return [*ends, self._end]

    def _take(
        self,
        segment: _Segment,
        parts: Sequence[SegmentPart],
        ends: Sequence[ArchiveEnd],
        frames: dict[Kind, pl.DataFrame],
        duplicates: np.ndarray,
    ) -> None:
        for index, (part, end) in enumerate(zip(parts, ends)):
            if index:
                segment = self._begin(segment.columns, ends[index - 1])
            segment.end = end
            segment.value_bytes = part.value_bytes
            segment.first_arrival_us = part.first_arrival_us
            low, high = np.searchsorted(duplicates, [segment.start, end.next_offset])
            segment.duplicates += int(high - low)
            for kind, frame in frames.items():
                # An empty events frame is kept where it is the first: it brings the schema of a file
                # without rows.
                rows = frame if len(parts) == 1 else _between(frame, segment.start, end.next_offset)
                if len(rows) or (kind == EVENTS and not segment.frames[EVENTS]):
                    segment.frames[kind].append(rows)
                    segment.buffered_bytes += int(rows.estimated_size())

    def _write(self, segment: _Segment) -> None:
        footer = SegmentFooter(
            FORMAT_VERSION,
            self._source,
            self._generation,
            self._partition,
            segment.start,
            segment.end.next_offset,
            segment.end.max_event_time_us,
            segment.value_bytes,
            segment.first_arrival_us,
            segment.columns,
            segment.duplicates,
        )
        for kind in (DEAD_LETTER, LATE):
            if segment.frames[kind]:
                side = SideFooter(FORMAT_VERSION, self._source, self._generation, self._partition, segment.start)
                self._write_kind(segment, kind, msgspec.json.encode(side))
        self._write_kind(segment, EVENTS, msgspec.json.encode(footer))
        segment.written_end = segment.end.next_offset
        segment.frames = _no_frames()
        segment.buffered_bytes = 0
        self.durable_end = segment.end

    def _write_kind(self, segment: _Segment, kind: Kind, footer: bytes) -> None:
        path = self._folders[kind] / layout.segment_name(segment.start)
        frames = segment.frames[kind]
        if path.exists():
            # Rows past the end were written by an attempt that failed later on; the buffer still has them.
            existing = _before(read_frame(path), segment.written_end)
            if frames and existing.schema != frames[0].schema:
                existing = existing.cast(frames[0].schema)
            frames = [existing, *frames]
        self._write_file(path, kind, pl.concat(frames), footer)

    def _write_file(self, path: Path, kind: Kind, rows: pl.DataFrame, footer: bytes) -> None:
        def write(file: BinaryIO) -> None:
            write_frame(file, rows, footer=footer, statistics=STATISTICS[kind])

        write_atomically(path, write, lambda point: self._crash_point(f"{kind}_{point}"))

    def _remove_leftovers(self) -> None:
        """Remove what a crash left: half-written files, late events and dead letters past the end."""
        end = 0 if self.durable_end is None else self.durable_end.next_offset
        for kind, folder in self._folders.items():
            if not folder.is_dir():
                continue
            remove_temporaries(folder)
            if kind == EVENTS:
                continue
            for start, path in segment_files(folder):
                if self._open is not None and start == self._open.start:
                    self._trim(path, kind, self._open.written_end)
                elif start >= (end if self._open is None else self._open.start):
                    remove_durably([path])
            self._crash_point(f"{kind}_trimmed")

    def _trim(self, path: Path, kind: Kind, end: int) -> None:
        last = read_largest(path, OFFSET)
        if last is None or last < end:
            return
        rows = _before(read_frame(path), end)
        if len(rows):
            self._write_file(path, kind, rows, read_footer(path)[1])
        else:
            remove_durably([path])


def read_segment_footer(path: Path) -> SegmentFooter:
    """What an events file says of itself. Raises StoreFormatError when damaged or of another version."""
    _, entry = read_footer(path)
    try:
        footer = msgspec.json.decode(entry, type=SegmentFooter)
    except msgspec.ValidationError as error:
        raise StoreFormatError(f"{path}: its footer can't be understood ({error})") from error
    if footer.format_version != FORMAT_VERSION:
        raise StoreFormatError(
            f"{path} has format version {footer.format_version}, this program writes {FORMAT_VERSION}",
            hint="run the version of featurestore that wrote it, or begin a new data_dir",
        )
    return footer


def _without_watermark(frame: pl.DataFrame) -> pl.DataFrame:
    # `drop` goes through the query engine: 65 µs a call (measured), more than the rest of an append.
    return pl.DataFrame([column for column in frame.get_columns() if column.name != PARTITION_WATERMARK])


def _from_offset(frame: pl.DataFrame, offset: int) -> pl.DataFrame:
    if not len(frame) or frame[OFFSET][0] >= offset:
        return frame
    return frame.slice(int(np.searchsorted(frame[OFFSET].to_numpy(), offset)))


def _before(frame: pl.DataFrame, offset: int) -> pl.DataFrame:
    return frame.head(int(np.searchsorted(frame[OFFSET].to_numpy(), offset)))


def _between(frame: pl.DataFrame, first: int, end: int) -> pl.DataFrame:
    low, high = np.searchsorted(frame[OFFSET].to_numpy(), [first, end])
    return frame.slice(int(low), int(high - low))
