"""What lies in the offline store, as frames and counts: for the command line, tests and a first look.

Nothing here is needed to read it: the files are plain Parquet for every tool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from featurestore.batches import OFFSET
from featurestore.offline import layout
from featurestore.offline.layout import DEAD_LETTER, EVENTS, LATE, Kind, SnapshotDataset
from featurestore.offline.listing import list_files, newest_segment, segment_files, with_fresh_files
from featurestore.offline.manifest import read_manifest
from featurestore.offline.partition_archive import read_segment_footer
from featurestore.offline.snapshots import WINDOW_END
from featurestore.offline.tables import read_column, read_footer, read_frame, read_largest


@dataclass(frozen=True)
class ArchiveCounts:
    """Messages of a source by verdict, dead letters by reason: what was read up to its archive's ends.

    duplicates: events that were brought twice. imported: events of history by generation; no message brought them.
    What retention has removed since is counted too.
    """

    accepted: int = 0
    late: int = 0
    dead_letters: dict[str, int] = field(default_factory=dict)
    imported: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0

    @property
    def read(self) -> int:
        """All messages."""
        return self.accepted + self.late + sum(self.dead_letters.values()) + self.duplicates


def read_events(root: Path, source: str) -> pl.DataFrame:
    """Accepted events of all generations, files in order; an empty frame when there is no file."""
    return with_fresh_files(lambda: _read_all(_kind_files(root, EVENTS, source)))


def read_late(root: Path, source: str) -> pl.DataFrame:
    """Too-late events, as `read_events`."""
    return with_fresh_files(lambda: _read_all(_kind_files(root, LATE, source)))


def read_dead_letters(root: Path, source: str) -> pl.DataFrame:
    """Dead letters, as `read_events`."""
    return with_fresh_files(lambda: _read_all(_kind_files(root, DEAD_LETTER, source)))


def read_snapshots(
    root: Path, view: str, version: int, window: str, join_keys: Sequence[str] | None = None
) -> pl.DataFrame:
    """Rows of a snapshot dataset; an empty frame without columns when there is none.

    join_keys: the view's; with them only the valid row of each key and window, the one of the highest
    revision.
    """
    folder = layout.snapshot_dir(root, SnapshotDataset(view, version, window))
    rows = with_fresh_files(lambda: _read_all(list_files(root, folder)))
    if join_keys is None or rows.is_empty():
        return rows
    return (
        rows.sort("revision")
        .unique([*join_keys, WINDOW_END], keep="last", maintain_order=True)
        .sort(WINDOW_END, *join_keys)
    )


def scan_valid_snapshots(
    root: Path, dataset: SnapshotDataset, join_keys: Sequence[str], schema: pl.Schema
) -> pl.LazyFrame:
    """The valid rows of a snapshot dataset, not yet read: of each key and window the one of the highest revision.

    schema: columns of the dataset, for the case that it has no file yet. Files that appear later are not seen; those
    that a compaction replaces meanwhile stay for its grace period.
    """
    files = list_files(root, layout.snapshot_dir(root, dataset))
    rows = pl.scan_parquet(files, hive_partitioning=False) if files else pl.LazyFrame(schema=schema)
    # Filters on keys and window_end go through `sort` and `unique` down to the files; through `over` they would not.
    return rows.sort("revision").unique([*join_keys, WINDOW_END], keep="last", maintain_order=True)


def read_side(root: Path, kind: Kind, source: str) -> pl.DataFrame:
    """Late events or dead letters up to the archive's ends, with the topic's `generation` as a column, files in order.

    An empty frame without columns when there is none. Right beside a running archive, as `archive_counts`.
    """
    return with_fresh_files(lambda: _read_side(root, kind, source))


def _read_side(root: Path, kind: Kind, source: str) -> pl.DataFrame:
    frames = []
    for events in _partition_dirs(root, EVENTS, source):
        newest = newest_segment(events)
        if newest is None:
            continue
        footer = read_segment_footer(newest)
        inside = events.relative_to(layout.source_dir(root, EVENTS, source))
        for _, path in segment_files(layout.source_dir(root, kind, source) / inside):
            rows = read_frame(path).filter(pl.col(OFFSET) < footer.end)
            frames.append(rows.with_columns(pl.lit(footer.generation).alias("generation")))
    return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()


def archive_counts(root: Path, source: str) -> ArchiveCounts:
    """Count the archive by verdict, mostly from footers. Right beside a running archive and after a crash:
    late events and dead letters past a partition's end are not counted before its events are.

    Raises StoreFormatError when a file is damaged.
    """
    return with_fresh_files(lambda: _archive_counts(root, source))


def _archive_counts(root: Path, source: str) -> ArchiveCounts:
    dataset = layout.source_dir(root, EVENTS, source).relative_to(root).as_posix()
    while True:
        removed = read_manifest(root).retention.get(dataset)
        counts: Counter[str] = Counter({} if removed is None else removed.rows)
        reasons: Counter[str] = Counter({} if removed is None else removed.dead_letters)
        for events in _partition_dirs(root, EVENTS, source):
            _count_partition(root, source, events, counts, reasons)
        # Files that retention removes are counted by the manifest from the moment on that it hides them.
        if read_manifest(root).retention.get(dataset) == removed:
            imported = {name: count for name, count in sorted(counts.items()) if layout.is_history(name)}
            dead = dict(sorted(reasons.items()))
            return ArchiveCounts(counts[EVENTS], counts[LATE], dead, imported, counts["duplicates"])


def _count_partition(root: Path, source: str, events: Path, counts: Counter[str], reasons: Counter[str]) -> None:
    newest = newest_segment(events)
    if newest is None:
        return
    end = read_segment_footer(newest).end
    counts[layout.history_of(events) or EVENTS] += sum(read_footer(path)[0] for _, path in segment_files(events))
    if layout.history_of(events):
        return
    counts["duplicates"] += sum(read_segment_footer(path).duplicates for _, path in segment_files(events))
    inside = events.relative_to(layout.source_dir(root, EVENTS, source))
    for _, path in segment_files(layout.source_dir(root, LATE, source) / inside):
        counts[LATE] += _rows_below(path, end)
    for _, path in segment_files(layout.source_dir(root, DEAD_LETTER, source) / inside):
        found = read_column(path, "reason").head(_rows_below(path, end))
        reasons.update(dict(found.value_counts().iter_rows()))


def _rows_below(path: Path, end: int) -> int:
    last = read_largest(path, OFFSET)
    if last is None or last < end:
        return read_footer(path)[0]
    return int((read_column(path, OFFSET) < end).sum())


def _partition_dirs(root: Path, kind: Kind, source: str) -> Iterator[Path]:
    for folder in sorted(layout.source_dir(root, kind, source).glob("*/*")):
        if layout.partition_of(folder) is not None:
            yield folder


def _kind_files(root: Path, kind: Kind, source: str) -> list[Path]:
    return [path for folder in _partition_dirs(root, kind, source) for _, path in segment_files(folder)]


def _read_all(files: list[Path]) -> pl.DataFrame:
    # Columns that came or went with a schema change are null where they are missing.
    return pl.concat([read_frame(path) for path in files], how="diagonal_relaxed") if files else pl.DataFrame()
