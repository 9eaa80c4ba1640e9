"""What lies in the offline store, dataset by dataset, from Parquet footers: no data is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec

from featurestore.batches import ARRIVAL_TIME, EVENT_TIME
from featurestore.offline import layout
from featurestore.offline.batch_rows import EVENT_TIMESTAMP
from featurestore.offline.compaction_plan import plan_runs
from featurestore.offline.layout import DEAD_LETTER, EVENTS, LATE, Kind
from featurestore.offline.listing import list_files, with_fresh_files
from featurestore.offline.pieces import Piece, closed_segments, partition_folders, snapshot_folders, snapshot_pieces
from featurestore.offline.snapshots import WINDOW_END
from featurestore.offline.tables import FileFigures, read_figures


class DatasetFiles(msgspec.Struct, frozen=True):
    """One dataset. dataset: its folder below the offline store. earliest, latest: of time_column, None without rows.

    files_compacted: how many files compaction would leave.
    """

    dataset: str
    files: int
    files_compacted: int
    rows: int
    size_bytes: int
    time_column: str
    earliest: datetime | None
    latest: datetime | None


def list_datasets(root: Path) -> list[DatasetFiles]:
    """Every dataset under `root`, events first, then snapshots, late events and dead letters; none: an empty list.

    Right beside a running worker: a file that is replaced or removed meanwhile is counted as it is found.
    Raises StoreFormatError when a file is damaged.
    """
    saved = with_fresh_files(lambda: _saved(root))
    return [_figures_of(root, folder, column, saved) for folder, column in _folders(root)]


def _folders(root: Path) -> Iterator[tuple[Path, str]]:
    for folder in _kind_folders(root, EVENTS):
        yield folder, EVENT_TIME
    for folder in snapshot_folders(root):
        yield folder, WINDOW_END
    for folder in sorted((root / layout.FEATURES).glob(f"*/v*/{layout.BATCH}")):
        yield folder, EVENT_TIMESTAMP
    for folder in _kind_folders(root, LATE):
        yield folder, EVENT_TIME
    for folder in _kind_folders(root, DEAD_LETTER):
        yield folder, ARRIVAL_TIME  # it has no event time


def _saved(root: Path) -> dict[str, int]:
    """By folder with files in it, how many fewer there would be."""
    fewer: dict[str, int] = {}

    def plan(pieces: list[Piece]) -> None:
        for run in plan_runs(pieces):
            for piece in run:
                for folder, paths in piece.files.items():
                    fewer[folder] = fewer.get(folder, 0) + len(paths)
            for folder in {folder for piece in run for folder in piece.files}:
                fewer[folder] -= 1

    for base in _kind_folders(root, EVENTS):
        for partition in partition_folders(root, base.name):
            plan(closed_segments(root, base.name, partition))
    for folder in snapshot_folders(root):
        plan(snapshot_pieces(root, folder, []))
    return fewer


def _kind_folders(root: Path, kind: Kind) -> list[Path]:
    return sorted(folder for folder in (root / kind).glob("*") if folder.is_dir())


def _figures_of(root: Path, folder: Path, time_column: str, saved: dict[str, int]) -> DatasetFiles:
    found: list[FileFigures] = []
    for path in list_files(root, folder):
        with suppress(FileNotFoundError):
            found.append(read_figures(path, time_column))
    name = folder.relative_to(root).as_posix()
    fewer = sum(count for place, count in saved.items() if f"{place}/".startswith(f"{name}/"))
    return DatasetFiles(
        dataset=name,
        files=len(found),
        files_compacted=max(len(found) - fewer, 0),
        rows=sum(figures.rows for figures in found),
        size_bytes=sum(figures.size_bytes for figures in found),
        time_column=time_column,
        earliest=min((figures.earliest for figures in found if figures.earliest is not None), default=None),
        latest=max((figures.latest for figures in found if figures.latest is not None), default=None),
    )
