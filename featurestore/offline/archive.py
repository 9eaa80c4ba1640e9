"""The event archive of one source: every message's verdict as Parquet, the same files whatever was replayed.

A file begins where the log says (`segments.py`), is named by its first offset and rewritten longer until
its segment is complete; its footer says how far it reaches. So a replay writes the same files, and the
archive needs no fence but its own.

The newest events file of each partition is what a restart resumes from: compaction and retention
(`compaction.py`, `retention.py`) never touch that one. When the columns of a source change, the open segment
ends there and a new one begins; then alone does a restart decide where a file begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from featurestore.batches import PartitionBatch, PartitionProgress
from featurestore.offline import layout
from featurestore.offline.atomic import CrashPoint, no_crash
from featurestore.offline.layout import EVENTS
from featurestore.offline.listing import newest_segment, with_fresh_files
from featurestore.offline.partition_archive import PartitionArchive, read_segment_footer
from featurestore.offline.segments import ArchiveEnd, SegmentLimits

__all__ = ["ArchiveEnd", "SourceArchive", "read_ends"]


class SourceArchive:
    """Writes the archive of the partitions that this process reads; one is opened at its first message.

    root: the offline store. generation: of the topic. starts: where the archive of a partition begins that
    has no file yet (without: at the first offset it hears of). segment_events, segment_bytes,
    segment_span_us: a new file at each multiple of so many offsets, after so many raw value bytes, and with
    the first arrival in a later bucket of so many µs. flush_interval_s: how long rows may stay in memory
    alone; buffer_bytes_max: how many, over all partitions.
    """

    def __init__(
        self,
        root: Path,
        source: str,
        generation: str,
        *,
        starts: Mapping[int, ArchiveEnd] | None = None,
        segment_events: int = 125_000,
        segment_bytes: int = 64 * 2**20,
        segment_span_us: int = 3_600_000_000,
        flush_interval_s: float = 10.0,
        buffer_bytes_max: int = 64 * 2**20,
        crash_point: CrashPoint = no_crash,
    ) -> None:
        self._root = root
        self._source = source
        self._generation = generation
        self._starts = starts or {}
        self._limits = SegmentLimits(segment_events, segment_bytes, segment_span_us)
        self._flush_interval_s = flush_interval_s
        self._buffer_bytes_max = buffer_bytes_max
        self._crash_point = crash_point
        self._partitions: dict[int, PartitionArchive] = {}
        self._flushed_at: dict[int, float] = {}

    def append(self, batch: PartitionBatch) -> None:
        """Buffer one partition's next batch; nothing is copied or written.

        Batches of a partition come in offset order. Rows below the archived end are skipped, so a replay
        may begin anywhere below it; a batch that begins past it means a gap in the log, which the archive
        then has too. Raises StoreFormatError at a partition's first batch when its newest file can't be
        used.
        """
        self._partition(batch.partition).append(batch)

    def advance(self, progress: PartitionProgress) -> None:
        """Hear of progress without messages (transactions, compaction), so that the end follows it."""
        self._partition(progress.partition).advance(progress)

    def maybe_flush(self, now: float) -> None:
        """Write what is due: complete segments at once, open ones by age or when memory is short.

        now: monotonic clock, seconds. At most one partition's open segment is rewritten a call for its age,
        so that many partitions do not stop the reading together: call it after each poll. Raises
        StoreFullError when there is no room; nothing is lost then, and it may be called again.
        """
        for partition in self._partitions.values():
            partition.write_closed()
        for number, partition in self._partitions.items():
            if not partition.has_open:
                self._flushed_at[number] = now
            self._flushed_at.setdefault(number, now)
        if self._flushed_at:
            oldest = min(self._flushed_at, key=self._flushed_at.__getitem__)
            if now - self._flushed_at[oldest] >= self._flush_interval_s:
                self._partitions[oldest].write_open()
                self._flushed_at[oldest] = now
        while sum(partition.open_bytes for partition in self._partitions.values()) > self._buffer_bytes_max:
            # The fullest alone: the others stay in memory until their segments are complete and are written
            # only once.
            fullest = max(self._partitions, key=lambda number: self._partitions[number].open_bytes)
            self._partitions[fullest].write_open()
            self._flushed_at[fullest] = now

    def flush(self) -> None:
        """Make all that was appended durable. Raises StoreFullError without room; it may be called again."""
        for partition in self._partitions.values():
            partition.write_open()

    def durable_ends(self) -> dict[int, ArchiveEnd]:
        """How far the files reach, for the partitions that this archive has opened and that have a file."""
        ends = {number: partition.durable_end for number, partition in self._partitions.items()}
        return {number: end for number, end in ends.items() if end is not None}

    def _partition(self, number: int) -> PartitionArchive:
        partition = self._partitions.get(number)
        if partition is None:
            start = self._starts.get(number)
            partition = PartitionArchive(
                self._root, self._source, self._generation, number, start, self._limits, self._crash_point
            )
            self._partitions[number] = partition
        return partition


def read_ends(root: Path, source: str, generation: str) -> dict[int, ArchiveEnd]:
    """How far each partition is archived, from its newest file's footer; absent without files.

    Writes nothing, so it may be called beside a running archive.
    Raises StoreFormatError, naming the file and the way out, when a newest file is damaged.
    """
    return with_fresh_files(lambda: _read_ends(layout.generation_dir(root, EVENTS, source, generation)))


def _read_ends(folder: Path) -> dict[int, ArchiveEnd]:
    ends: dict[int, ArchiveEnd] = {}
    for child in sorted(folder.iterdir()) if folder.is_dir() else []:
        partition = layout.partition_of(child)
        newest = newest_segment(child)
        if partition is not None and newest is not None:
            footer = read_segment_footer(newest)
            ends[partition] = ArchiveEnd(footer.end, footer.max_event_time_us)
    return ends
