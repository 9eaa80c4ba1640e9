"""The ids of a partition's newest archived events: what tells a duplicate from an event after a restart."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from featurestore.batches import EVENT_TIME, NO_TIME, OFFSET
from featurestore.offline import layout
from featurestore.offline.layout import EVENTS
from featurestore.offline.listing import segment_files, with_fresh_files
from featurestore.offline.partition_archive import read_segment_footer
from featurestore.offline.segments import ArchiveEnd
from featurestore.offline.tables import read_columns


def read_recent_ids(
    root: Path, source: str, generation: str, partition: int, column: str, end: ArchiveEnd, within_us: int
) -> pl.DataFrame | None:
    """Ids of the accepted events before `end` that are at most `within_us` older than its event time; None: none.

    column: of the id. Returns `id` (without nulls, each once) and `us`, its largest event time in µs. Raises
    StoreFormatError when a file is damaged.
    """
    if end.max_event_time_us == NO_TIME:
        return None
    folder = layout.partition_dir(root, EVENTS, source, generation, partition)
    return with_fresh_files(lambda: _read(folder, column, end.next_offset, end.max_event_time_us - within_us))


def _read(folder: Path, column: str, end: int, oldest_us: int) -> pl.DataFrame | None:
    frames = []
    for start, path in reversed(segment_files(folder)):
        footer = read_segment_footer(path)
        if start < end and footer.max_event_time_us < oldest_us:
            # The largest event time before the segment's end: no event of it or before it is newer.
            break
        if start >= end or column not in (name for name, _ in footer.columns):
            continue
        rows = read_columns(path, [column, OFFSET, EVENT_TIME]).select(
            pl.col(column).alias("id"), pl.col(EVENT_TIME).dt.epoch("us").alias("us"), OFFSET
        )
        frames.append(rows.filter((pl.col(OFFSET) < end) & (pl.col("us") >= oldest_us)).drop(OFFSET).drop_nulls("id"))
    if not frames:
        return None
    return pl.concat(frames, how="vertical_relaxed").group_by("id").agg(pl.col("us").max())
