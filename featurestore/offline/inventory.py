"""What lies in the offline store, dataset by dataset, from Parquet footers: no data is read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from featurestore.batches import ARRIVAL_TIME, EVENT_TIME
from featurestore.offline import layout
from featurestore.offline.batch_rows import EVENT_TIMESTAMP
from featurestore.offline.layout import DEAD_LETTER, EVENTS, LATE, Kind
from featurestore.offline.snapshots import WINDOW_END
from featurestore.offline.tables import read_figures


class DatasetFiles(msgspec.Struct, frozen=True):
    """One dataset. dataset: its folder below the offline store. earliest, latest: of time_column, None without rows."""

    dataset: str
    files: int
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
    return [_figures_of(root, folder, column) for folder, column in _folders(root)]


def _folders(root: Path) -> Iterator[tuple[Path, str]]:
    for folder in _kind_folders(root, EVENTS):
        yield folder, EVENT_TIME
    for folder in sorted((root / layout.FEATURES).glob("*/v*/*")):
        if folder.is_dir():
            yield folder, EVENT_TIMESTAMP if folder.name == layout.BATCH else WINDOW_END
    for folder in _kind_folders(root, LATE):
        yield folder, EVENT_TIME
    for folder in _kind_folders(root, DEAD_LETTER):
        yield folder, ARRIVAL_TIME  # it has no event time


def _kind_folders(root: Path, kind: Kind) -> list[Path]:
    return sorted(folder for folder in (root / kind).glob("*") if folder.is_dir())


def _figures_of(root: Path, folder: Path, time_column: str) -> DatasetFiles:
    paths = (path for path in folder.rglob(f"*{layout.SUFFIX}") if not path.name.startswith("."))
    found = [figures for path in paths if (figures := read_figures(path, time_column)) is not None]
    return DatasetFiles(
        dataset=folder.relative_to(root).as_posix(),
        files=len(found),
        rows=sum(figures.rows for figures in found),
        size_bytes=sum(figures.size_bytes for figures in found),
        time_column=time_column,
        earliest=min((figures.earliest for figures in found if figures.earliest is not None), default=None),
        latest=max((figures.latest for figures in found if figures.latest is not None), default=None),
    )
