"""Compaction: small files become large ones, sorted by entity and time, beside running workers and readers.

Only files are touched that nobody writes again: segments below a partition's newest (`closed_segments`), and snapshot
files that no writer's intent names (`snapshot_pieces`). How the files change places stands in `swaps.py`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec
import polars as pl

from featurestore.batches import ARRIVAL_TIME, EVENT_TIME, OFFSET
from featurestore.errors import StoreFullError
from featurestore.offline import layout
from featurestore.offline.atomic import CrashPoint, no_crash, write_atomically
from featurestore.offline.compaction_plan import LIMITS, CompactionLimits, plan_runs
from featurestore.offline.layout import EVENTS, Kind
from featurestore.offline.manifest import Swap, maintenance_lock
from featurestore.offline.partition_archive import STATISTICS, read_segment_footer
from featurestore.offline.pieces import KINDS, Piece, closed_segments, partition_folders, snapshot_pieces
from featurestore.offline.segments import FORMAT_VERSION, SideFooter
from featurestore.offline.snapshots import WINDOW_END
from featurestore.offline.swaps import Wait, finish_swaps, swap_files
from featurestore.offline.tables import read_frame, write_frame

GROUP_ROWS = 131_072
"""Rows of a row group: the least that a reader skips by the statistics of keys and times."""

ZSTD_LEVEL = 3
"""A compacted file is written once and read often; the worker's own files have level 1."""

STAGED_BYTES_MAX = 2 * 2**30
"""So much is compacted before old files are removed: the room that a compaction needs besides."""


@dataclass(frozen=True)
class Merge:
    """One new file. sort_by: columns, those that it lacks aside; footer: our entry in it."""

    folder: str
    name: str
    replaced: tuple[Path, ...]
    sort_by: tuple[str, ...]
    statistics: tuple[str, ...]
    footer: bytes


@dataclass(frozen=True)
class Job:
    """Files that are swapped together. dataset: its folder. files, size_bytes: before."""

    dataset: str
    merges: tuple[Merge, ...]
    files: int
    size_bytes: int


class Compacted(msgspec.Struct, frozen=True):
    """What was done to a dataset. rows: in the files that were written."""

    dataset: str
    files_before: int
    files_after: int
    rows: int
    bytes_before: int
    bytes_after: int


def plan_source(root: Path, source: str, keys: Sequence[str], limits: CompactionLimits = LIMITS) -> list[Job]:
    """What there is to compact in a source's archive. keys: columns to sort by before the time."""
    jobs = []
    for partition in partition_folders(root, source):
        for run in plan_runs(closed_segments(root, source, partition), limits):
            merges = tuple(_segment_merges(root, source, partition, run, keys))
            jobs.append(Job(layout.source_dataset(EVENTS, source), merges, *_before(merges)))
    return jobs


def plan_snapshots(
    root: Path,
    folder: Path,
    keys: Sequence[str],
    intent_dirs: Sequence[Path],
    limits: CompactionLimits = LIMITS,
) -> list[Job]:
    """What there is to compact in a snapshot dataset. keys: the view's; intent_dirs: of all processes and sources."""
    name = folder.relative_to(root).as_posix()
    jobs = []
    for run in plan_runs(snapshot_pieces(root, folder, intent_dirs), limits):
        files = tuple(path for piece in run for path in piece.files[name])
        identity = hashlib.sha256("\n".join(sorted(path.name for path in files)).encode()).hexdigest()[:24]
        merge = Merge(
            folder=name,
            name=layout.compacted_snapshot_name(identity),
            replaced=files,
            sort_by=(*keys, WINDOW_END, "revision"),
            statistics=(*keys, WINDOW_END, "revision"),
            footer=msgspec.json.encode({"format_version": FORMAT_VERSION, "writer": "compaction"}),
        )
        jobs.append(Job(name, (merge,), *_before((merge,))))
    return jobs


def compact(
    root: Path,
    plan: Callable[[], Sequence[Job]],
    *,
    grace_s: float,
    wait: Wait = time.sleep,
    on_plan: Callable[[Sequence[Job]], None] = lambda jobs: None,
    on_job: Callable[[Job], None] = lambda job: None,
    staged_bytes_max: int = STAGED_BYTES_MAX,
    crash_point: CrashPoint = no_crash,
) -> list[Compacted]:
    """Finish what an earlier call left, then carry out what `plan` finds.

    grace_s: how long readers may take to open the files that they have listed. Raises StoreLockedError when another
    compaction or removal is at work, StoreFullError when there is no room: nothing is lost then.
    """
    with maintenance_lock(root):
        finish_swaps(root, grace_s=grace_s, wait=wait, crash_point=crash_point)
        jobs = plan()
        on_plan(jobs)
        done: list[Compacted] = []
        for batch in _batches(jobs, staged_bytes_max):
            swaps: list[Swap] = []
            try:
                for job in batch:
                    done.append(_stage(root, job, crash_point))
                    swaps.extend(Swap(m.folder, [path.name for path in m.replaced], m.name) for m in job.merges)
                    on_job(job)
            except StoreFullError:
                # The workers need the room more.
                for merge in (merge for job in batch for merge in job.merges):
                    layout.staged_path(root, merge.folder, merge.name).unlink(missing_ok=True)
                raise
            swap_files(root, swaps, grace_s=grace_s, wait=wait, crash_point=crash_point)
    return _by_dataset(done)


def _segment_merges(
    root: Path, source: str, partition: str, run: Sequence[Piece], keys: Sequence[str]
) -> Iterator[Merge]:
    folders: dict[Kind, str] = {
        k: (layout.source_dir(root, k, source) / partition).relative_to(root).as_posix() for k in KINDS
    }
    footers = [read_segment_footer(piece.files[folders[EVENTS]][0]) for piece in run]
    first, last = footers[0], footers[-1]
    whole = msgspec.structs.replace(
        last,
        start=first.start,
        value_bytes=sum(footer.value_bytes for footer in footers),
        duplicates=sum(footer.duplicates for footer in footers),
        first_arrival_us=next((f.first_arrival_us for f in footers if f.first_arrival_us is not None), None),
    )
    side = SideFooter(FORMAT_VERSION, first.source, first.generation, first.partition, first.start)
    for kind, folder in folders.items():
        files = tuple(path for piece in run for path in piece.files.get(folder, ()))
        if len(files) > 1:
            yield Merge(
                folder=folder,
                name=layout.compacted_segment_name(first.start, last.end),
                replaced=files,
                sort_by=(*keys, EVENT_TIME, ARRIVAL_TIME, OFFSET),
                statistics=(*STATISTICS[kind], *keys),
                footer=msgspec.json.encode(whole if kind == EVENTS else side),
            )


def _stage(root: Path, job: Job, crash_point: CrashPoint) -> Compacted:
    rows = size = 0
    for merge in job.merges:
        frame = pl.concat([read_frame(file) for file in merge.replaced], how="diagonal_relaxed")
        frame = frame.sort([name for name in merge.sort_by if name in frame.columns], maintain_order=True)
        path = layout.staged_path(root, merge.folder, merge.name)
        write_atomically(path, partial(_write, merge, frame), lambda point: crash_point(f"staged_{point}"))
        rows += frame.height
        size += path.stat().st_size
    return Compacted(job.dataset, job.files, len(job.merges), rows, job.size_bytes, size)


def _write(merge: Merge, frame: pl.DataFrame, file: BinaryIO) -> None:
    statistics = [name for name in merge.statistics if name in frame.columns]
    write_frame(file, frame, footer=merge.footer, statistics=statistics, group_rows=GROUP_ROWS, level=ZSTD_LEVEL)


def _before(merges: Sequence[Merge]) -> tuple[int, int]:
    files = [path for merge in merges for path in merge.replaced]
    return len(files), sum(path.stat().st_size for path in files)


def _batches(jobs: Sequence[Job], size_bytes_max: int) -> Iterator[list[Job]]:
    batch: list[Job] = []
    size = 0
    for job in jobs:
        if batch and size + job.size_bytes > size_bytes_max:
            yield batch
            batch, size = [], 0
        batch.append(job)
        size += job.size_bytes
    if batch:
        yield batch


def _by_dataset(done: Sequence[Compacted]) -> list[Compacted]:
    together: dict[str, Compacted] = {}
    for one in done:
        sum_of = together.get(one.dataset, Compacted(one.dataset, 0, 0, 0, 0, 0))
        together[one.dataset] = Compacted(
            one.dataset,
            sum_of.files_before + one.files_before,
            sum_of.files_after + one.files_after,
            sum_of.rows + one.rows,
            sum_of.bytes_before + one.bytes_before,
            sum_of.bytes_after + one.bytes_after,
        )
    return list(together.values())
