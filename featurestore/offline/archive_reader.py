"""Reads the archived events of one partition back in the order of their offsets, a part at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import polars as pl

from featurestore.batches import EVENT_TIME, NO_TIME, OFFSET
from featurestore.offline import layout
from featurestore.offline.layout import EVENTS
from featurestore.offline.listing import segment_files, with_fresh_files
from featurestore.offline.partition_archive import read_segment_footer
from featurestore.offline.segments import ArchiveEnd, SegmentFooter
from featurestore.offline.tables import read_columns, read_footer, read_frame

PART_ROWS = 20_000
"""As many as one poll of a topic gives at most."""


@dataclass(frozen=True)
class ArchivedPart:
    """Accepted events [first_offset, end.next_offset) of a partition in the order of their offsets; there may be none.

    before_us: largest event time of the partition before the part, NO_TIME if none; end: how far it reaches.
    """

    rows: pl.DataFrame
    first_offset: int
    before_us: int
    end: ArchiveEnd


@dataclass(frozen=True)
class ArchivedGeneration:
    """One generation of a topic in the archive. first: where each partition begins; ends: how far it reaches."""

    generation: str
    first: dict[int, ArchiveEnd]
    ends: dict[int, ArchiveEnd]


class PartitionReader:
    """The events of one partition between two places. Beside a running archive what lies past `end` is not there.

    start, end: as pairs; the pair of `end` must be what the archive said of itself.
    Raises StoreFormatError when a file is damaged.
    """

    def __init__(
        self, root: Path, source: str, generation: str, partition: int, start: ArchiveEnd, end: ArchiveEnd
    ) -> None:
        self._folder = layout.partition_dir(root, EVENTS, source, generation, partition)
        self._at = start
        self._end = end
        self._parts = self._read()

    @property
    def reached(self) -> ArchiveEnd:
        """How far the parts given so far reach."""
        return self._at

    def next_part(self) -> ArchivedPart | None:
        """The next part, None at the end."""
        part = next(self._parts, None)
        if part is not None:
            self._at = part.end
        return part

    def _read(self) -> Iterator[ArchivedPart]:
        while self._at.next_offset < self._end.next_offset:
            found = with_fresh_files(self._next_file)
            if found is None:
                # What is missing here was removed: the archive's end stands.
                yield ArchivedPart(pl.DataFrame(), self._at.next_offset, self._at.max_event_time_us, self._end)
                return
            footer, rows = found
            whole = footer.end <= self._end.next_offset
            end = ArchiveEnd(footer.end, footer.max_event_time_us) if whole else self._end
            yield from self._cut(rows, end)

    def _next_file(self) -> tuple[SegmentFooter, pl.DataFrame] | None:
        """The file of the next offset, or the first one past it; listed anew, for files come and are replaced."""
        files = segment_files(self._folder)
        for start, path in reversed(files):
            if start <= self._at.next_offset:
                if read_segment_footer(path).end > self._at.next_offset:
                    return read_segment_footer(path), read_frame(path)
                break
        later = [path for start, path in files if self._at.next_offset < start < self._end.next_offset]
        return (read_segment_footer(later[0]), read_frame(later[0])) if later else None

    def _cut(self, rows: pl.DataFrame, end: ArchiveEnd) -> Iterator[ArchivedPart]:
        first = self._at.next_offset
        rows = rows.filter(pl.col(OFFSET).is_between(first, end.next_offset, closed="left")).sort(OFFSET)
        before_us = self._at.max_event_time_us
        for begin in range(0, max(rows.height, 1), PART_ROWS):
            part = rows.slice(begin, PART_ROWS)
            reaches = end
            if begin + PART_ROWS < rows.height:
                newest = part[EVENT_TIME].dt.epoch("us").max()
                assert isinstance(newest, int)
                reaches = ArchiveEnd(int(part[OFFSET][-1]) + 1, max(before_us, newest))
            yield ArchivedPart(part, first, before_us, reaches)
            first, before_us = reaches.next_offset, reaches.max_event_time_us


def archived_generations(root: Path, source: str) -> list[ArchivedGeneration]:
    """All generations of a source's archive, the oldest first: imported history, then the topics' as they arrived.

    Writes nothing, so it may be called beside a running archive. Raises StoreFormatError when a file is damaged.
    """
    return with_fresh_files(lambda: _archived_generations(root, source))


def _archived_generations(root: Path, source: str) -> list[ArchivedGeneration]:
    found: list[tuple[tuple[bool, int], ArchivedGeneration]] = []
    base = layout.source_dir(root, EVENTS, source)
    for folder in sorted(base.iterdir()) if base.is_dir() else []:
        first: dict[int, ArchiveEnd] = {}
        ends: dict[int, ArchiveEnd] = {}
        arrivals: list[int] = []
        generation = None
        for child in sorted(folder.iterdir()) if folder.is_dir() else []:
            partition = layout.partition_of(child)
            files = [path for _, path in segment_files(child)] if partition is not None else []
            if partition is None or not files:
                continue
            oldest, newest = read_segment_footer(files[0]), read_segment_footer(files[-1])
            generation = oldest.generation
            first[partition] = ArchiveEnd(oldest.start, NO_TIME)
            ends[partition] = ArchiveEnd(newest.end, newest.max_event_time_us)
            arrivals.append(oldest.first_arrival_us or 0)
        if generation is not None:
            # Each import of history ends before the one that was there already begins.
            newest_us = max(end.max_event_time_us for end in ends.values())
            place = (False, newest_us) if layout.is_history(generation) else (True, min(arrivals))
            found.append((place, ArchivedGeneration(generation, first, ends)))
    return [generation for _, generation in sorted(found, key=lambda pair: pair[0])]


def largest_event_time_before(root: Path, source: str, generation: str, partition: int, offset: int) -> int:
    """Largest event time, µs, of what the archive has of a partition before an offset; NO_TIME without any.

    Raises StoreFormatError when a file is damaged.
    """
    folder = layout.partition_dir(root, EVENTS, source, generation, partition)
    return with_fresh_files(lambda: _newest_before(folder, offset))


def _newest_before(folder: Path, offset: int) -> int:
    files = [path for start, path in segment_files(folder) if start < offset]
    if not files:
        return NO_TIME
    footer = read_segment_footer(files[-1])
    if footer.end <= offset:
        return footer.max_event_time_us
    rows = read_columns(files[-1], [OFFSET, EVENT_TIME]).filter(pl.col(OFFSET) < offset)
    newest = rows[EVENT_TIME].dt.epoch("us").max()
    return max(
        NO_TIME if newest is None else cast(int, newest),
        read_segment_footer(files[-2]).max_event_time_us if len(files) > 1 else NO_TIME,
    )


def archived_extent(root: Path, source: str, generation: str, partition: int, first: int, end: int) -> tuple[int, int]:
    """(events, bytes of files) of the archive's files that hold offsets of [first, end); from footers alone."""
    folder = layout.partition_dir(root, EVENTS, source, generation, partition)
    return with_fresh_files(lambda: _extent(folder, first, end))


def _extent(folder: Path, first: int, end: int) -> tuple[int, int]:
    rows = size = 0
    for _, path in segment_files(folder):
        footer = read_segment_footer(path)
        if footer.start < end and footer.end > first:
            rows += read_footer(path)[0]
            size += path.stat().st_size
    return rows, size
