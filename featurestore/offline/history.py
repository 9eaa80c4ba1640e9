"""History under a source's archive: events older than its topic, as one more generation, before all others.

    events/<source>/topic_generation=history-<id>/topic_partition=<p>/<first offset>.parquet

Its events are in the order of their event time: segment after segment, dealt to the partitions in turn, so that several
processes can read them in step. Events of one instant stay in one segment, in the order in which they came: so which of
them is the last does not depend on the number of partitions. Offsets count the rows of a partition.

No event may count twice. History therefore ends before the earliest event that the archive has, and before any that the
topic can still bring: what is older than a partition's newest event by out-of-orderness and allowed lateness is too
late there (docs/guarantees.md). What is imported later must be older still.

It is written under _maintenance and appears by one replacement of the manifest, as a compacted file does (`swaps.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from featurestore.batches import ARRIVAL_TIME, EVENT_TIME, NO_TIME, OFFSET, PARTITION
from featurestore.definitions.specs import SourceSpec
from featurestore.errors import BackfillError
from featurestore.offline import layout
from featurestore.offline.archive_reader import archived_generations
from featurestore.offline.atomic import CrashPoint, make_folder, no_crash, store_full_errors, write_atomically
from featurestore.offline.layout import EVENTS
from featurestore.offline.listing import segment_files, with_fresh_files
from featurestore.offline.manifest import Swap, read_manifest
from featurestore.offline.partition_archive import STATISTICS
from featurestore.offline.segments import FORMAT_VERSION, SegmentFooter
from featurestore.offline.swaps import swap_files
from featurestore.offline.tables import read_figures, write_frame

PARTITIONS = 8
"""As many processes can fill a view from it side by side."""

SEGMENT_ROWS = 125_000
SEGMENT_BYTES = 64 * 2**20
"""As of a worker's segments: a reader of all partitions has one of each in memory."""

SPILL_BYTES = 32 * 2**20
"""So much is in memory before it is sorted into its segments on disk."""

GRACE_S = 30.0
"""As of compaction: how long a file keeps the name that readers may have listed."""

_MINUTE_US = 60_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Border:
    """Where history must end, µs. archive_us: earliest event that the topics' archive has. open_us: older than this
    nothing is accepted any more. history_us: where imported history begins, None without.
    """

    archive_us: int
    open_us: int
    history_us: int | None

    @property
    def latest_us(self) -> int:
        """History may reach up to here, as far as the topic is concerned."""
        return min(self.archive_us, self.open_us)


def history_border(root: Path, source: SourceSpec) -> Border:
    """Where the archive of a source begins.

    Raises BackfillError when nothing of the topic is archived yet: then it is not known where history would have to
    end. Raises StoreFormatError when a file is damaged.
    """
    generations = archived_generations(root, source.name)
    topics = [one for one in generations if not layout.is_history(one.generation)]
    spans = {one.generation: event_span_us(root, source.name, one.generation) for one in generations}
    begun = [span[0] for one in topics if (span := spans[one.generation]) is not None]
    if not begun:
        raise BackfillError(
            f"nothing of source '{source.name}' is archived yet, so it is not known where its topic begins",
            hint="run the worker first; what is older than the first archived event can then be imported",
        )
    newest = [end.max_event_time_us for end in topics[-1].ends.values() if end.max_event_time_us != NO_TIME]
    slack_us = source.max_out_of_orderness_us + source.allowed_lateness_us
    older = [span[0] for name, span in spans.items() if layout.is_history(name) and span is not None]
    return Border(min(begun), min(newest, default=min(begun) + slack_us) - slack_us, min(older, default=None))


def event_span_us(root: Path, source: str, generation: str) -> tuple[int, int] | None:
    """Earliest and latest event time of a generation, µs, from footers; None without events."""
    return with_fresh_files(lambda: _span_us(layout.generation_dir(root, EVENTS, source, generation)))


def _span_us(folder: Path) -> tuple[int, int] | None:
    spans = []
    for child in sorted(folder.iterdir()) if folder.is_dir() else []:
        if layout.partition_of(child) is not None:
            found = (read_figures(path, EVENT_TIME) for _, path in segment_files(child))
            spans += [(one.earliest, one.latest) for one in found if one.earliest and one.latest]
    return (_us(min(low for low, _ in spans)), _us(max(high for _, high in spans))) if spans else None


def remove_leftovers(root: Path) -> None:
    """Remove what a killed import had sorted. The caller holds `maintenance_lock`."""
    shutil.rmtree(root / layout.MAINTENANCE / "import", ignore_errors=True)


class HistoryWriter:
    """Writes one generation of history. The caller holds `maintenance_lock` and has called `finish_swaps` before.

    rows_by_minute: how many events will come, by minute since the epoch; segment_rows: of a file, about. Killed at any
    moment it leaves nothing that a reader sees, unless `publish` has named the files in the manifest: then they are all
    there.
    """

    def __init__(
        self,
        root: Path,
        source: str,
        generation: str,
        rows_by_minute: Mapping[int, int],
        *,
        segment_rows: int,
        crash_point: CrashPoint = no_crash,
    ) -> None:
        self._root = root
        self._source = source
        self._generation = generation
        self._crash_point = crash_point
        self._segment_rows = segment_rows
        self._starts = _bucket_starts(rows_by_minute, segment_rows)
        self._spill = root / layout.MAINTENANCE / "import"
        self._waiting: list[pl.DataFrame] = []
        self._swaps: list[Swap] = []
        self.size_bytes = 0
        self.discard()
        make_folder(self._spill)

    @property
    def partitions(self) -> int:
        """How many it has."""
        return min(PARTITIONS, len(self._starts))

    @property
    def segments(self) -> int:
        """How many files were staged."""
        return len(self._swaps)

    def add(self, rows: pl.DataFrame) -> None:
        """Take some events, in any order of time: the source's columns, event_time, arrival_time.

        Raises StoreFullError when there is no room.
        """
        self._waiting.append(rows)
        if sum(int(frame.estimated_size()) for frame in self._waiting) >= SPILL_BYTES:
            self._write_spill()

    def stage(self, done: Callable[[int], None] = lambda rows: None) -> None:
        """Write the files where no reader looks. done: told of the rows of each. Raises StoreFullError."""
        self._write_spill()
        ends = dict.fromkeys(range(self.partitions), 0)
        number = 0
        for bucket in range(len(self._starts)):
            rows = self._bucket(bucket).sort(EVENT_TIME, maintain_order=True)
            for segment in _cut(rows, self._segment_rows):
                partition = number % self.partitions
                self._stage_segment(segment, partition, ends[partition])
                ends[partition] += segment.height
                number += 1
                done(segment.height)

    def publish(self) -> None:
        """Show what was staged, all at once."""
        for swap in self._swaps:
            make_folder(self._root / swap.folder)
        swap_files(self._root, self._swaps, grace_s=GRACE_S, crash_point=self._crash_point)
        remove_leftovers(self._root)

    def discard(self) -> None:
        """Remove what was not published, for the room that it takes."""
        remove_leftovers(self._root)
        base = layout.generation_dir(self._root, EVENTS, self._source, self._generation).relative_to(self._root)
        if not any(Path(swap.folder).parent == base for swap in read_manifest(self._root).swaps):
            shutil.rmtree(layout.staged_path(self._root, base.as_posix(), "x").parent, ignore_errors=True)

    def _write_spill(self) -> None:
        if not self._waiting:
            return
        rows, self._waiting = pl.concat(self._waiting), []
        minute = rows[EVENT_TIME].dt.epoch("us") // _MINUTE_US
        bucket = pl.Series("_bucket", np.searchsorted(self._starts, minute.to_numpy(), side="right") - 1)
        parts = rows.with_columns(bucket).partition_by("_bucket", as_dict=True, include_key=False, maintain_order=True)
        for (number,), part in parts.items():
            stream = BytesIO()
            part.write_ipc_stream(stream, compression="lz4", compat_level=pl.CompatLevel.oldest())
            path = self._spill / f"{number}.arrows"
            with store_full_errors(path), path.open("ab") as file:
                file.write(stream.getbuffer())
        self._crash_point("spilled")

    def _bucket(self, number: int) -> pl.DataFrame:
        """The rows of a bucket in the order in which they came: streams of batches, one behind the other."""
        path = self._spill / f"{number}.arrows"
        frames = []
        with path.open("rb") as file:
            while file.peek(1):
                with pa.ipc.open_stream(file) as stream:
                    frames.append(cast(pl.DataFrame, pl.from_arrow(stream.read_all())))
        path.unlink()
        return pl.concat(frames)

    def _stage_segment(self, rows: pl.DataFrame, partition: int, start: int) -> None:
        own = rows.select(pl.exclude(EVENT_TIME, ARRIVAL_TIME))
        place = [
            pl.Series(PARTITION, [partition], dtype=pl.Int32).new_from_index(0, rows.height),
            pl.Series(OFFSET, np.arange(start, start + rows.height, dtype=np.int64)),
        ]
        frame = own.hstack([*place, rows[EVENT_TIME], rows[ARRIVAL_TIME]])
        footer = SegmentFooter(
            FORMAT_VERSION,
            self._source,
            self._generation,
            partition,
            start,
            start + rows.height,
            int(frame[EVENT_TIME].dt.epoch("us")[-1]),
            0,
            int(frame[ARRIVAL_TIME].dt.epoch("us")[0]),
            [(name, str(dtype)) for name, dtype in frame.schema.items()],
        )
        folder = layout.partition_dir(self._root, EVENTS, self._source, self._generation, partition)
        swap = Swap(folder.relative_to(self._root).as_posix(), [], layout.segment_name(start))
        path = layout.staged_path(self._root, swap.folder, layout.segment_name(start))
        write_atomically(path, partial(_write, frame, msgspec.json.encode(footer)))
        self._crash_point("staged")
        self._swaps.append(swap)
        self.size_bytes += path.stat().st_size


def _write(frame: pl.DataFrame, footer: bytes, file: BinaryIO) -> None:
    write_frame(file, frame, footer=footer, statistics=STATISTICS[EVENTS], level=3)


def _bucket_starts(rows_by_minute: Mapping[int, int], rows: int) -> np.ndarray:
    """First minutes of runs of whole minutes that have about so many rows, int64, ascending."""
    starts, held = [], rows
    for minute, count in sorted(rows_by_minute.items()):
        if held + count > rows:
            starts.append(minute)
            held = 0
        held += count
    return np.array(starts, dtype=np.int64)


def _cut(rows: pl.DataFrame, size: int) -> Iterator[pl.DataFrame]:
    """Rows sorted by event time in parts of about `size`; those of one instant stay together."""
    times = rows[EVENT_TIME].to_physical().to_numpy()
    first = 0
    while first < len(times):
        last = min(first + size, len(times)) - 1
        stop = int(np.searchsorted(times, times[last], side="right"))
        yield rows.slice(first, stop - first)
        first = stop


def _us(instant: datetime) -> int:
    return (instant.astimezone(timezone.utc) - _EPOCH) // timedelta(microseconds=1)
