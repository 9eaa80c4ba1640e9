"""Snapshots of a dataset replaced from one window end on: what lies before stays as it is, to the file.

For a rebuild, whose rows take the place of those that the lost store had emitted and could still have corrected. Our
readers see all of it at one moment (`swaps.py`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import BinaryIO

import msgspec
import polars as pl

from featurestore.batches import NO_TIME
from featurestore.errors import StoreFormatError
from featurestore.offline import layout
from featurestore.offline.atomic import write_atomically
from featurestore.offline.layout import SnapshotDataset
from featurestore.offline.listing import list_files
from featurestore.offline.manifest import Swap
from featurestore.offline.snapshots import FORMAT_VERSION, WINDOW_END
from featurestore.offline.tables import read_figures, read_frame, write_frame

ROWS_OF_A_FILE = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FOOTER = msgspec.json.encode({"format_version": FORMAT_VERSION, "writer": "rebuild"})


@dataclass
class Replacement:
    """Files that are staged to be swapped in. damaged: of the replaced ones, what nothing could be read of."""

    swaps: list[Swap] = field(default_factory=list)
    rows: int = 0
    damaged: list[Path] = field(default_factory=list)

    def discard(self, root: Path) -> None:
        """Remove what was staged, for it will not be swapped in."""
        for swap in self.swaps:
            if swap.merged is not None:
                layout.staged_path(root, swap.folder, swap.merged).unlink(missing_ok=True)


def stage_replacement(
    root: Path, origin: Path, dataset: SnapshotDataset, after_us: int, into: Replacement, *, drop_damaged: bool
) -> None:
    """Stage that the rows of `dataset` with a window_end after `after_us` are those of `origin`, and no others.

    root, origin: offline stores; after_us: µs, NO_TIME for all rows. The caller holds the maintenance lock, and no
    writer is at work on the dataset. drop_damaged: a file that can't be read is replaced, else it raises
    StoreFormatError. Raises StoreFullError; then call `into.discard`.
    """
    folder = layout.snapshot_dir(root, dataset)
    border = None if after_us == NO_TIME else _EPOCH + timedelta(microseconds=after_us)
    replaced: list[str] = []
    kept: list[pl.DataFrame] = []
    for path in list_files(root, folder):
        try:
            figures = read_figures(path, WINDOW_END)
            if border is not None and (figures.latest is None or figures.latest <= border):
                continue
            if border is not None and figures.earliest is not None and figures.earliest <= border:
                kept.append(read_frame(path).filter(pl.col(WINDOW_END) <= border))
        except StoreFormatError:
            if not drop_damaged:
                raise
            into.damaged.append(path)
        replaced.append(path.name)
    place = folder.relative_to(root).as_posix()
    sources = list_files(origin, layout.snapshot_dir(origin, dataset))
    for rows in _gathered(kept, sources, border):
        name = layout.compacted_snapshot_name(uuid.uuid4().hex[:24])
        into.swaps.append(Swap(place, replaced, name))
        replaced = []
        write_atomically(layout.staged_path(root, place, name), lambda file, rows=rows: _write(file, rows))  # type: ignore[misc]
        into.rows += rows.height
    if replaced:
        into.swaps.append(Swap(place, replaced))


def _gathered(kept: Sequence[pl.DataFrame], sources: Sequence[Path], border: datetime | None) -> Iterator[pl.DataFrame]:
    """The rows of files-to-be, some at a time."""
    frames, height = list(kept), sum(frame.height for frame in kept)
    for path in sources:
        rows = read_frame(path)
        if border is not None:
            rows = rows.filter(pl.col(WINDOW_END) > border)
        frames.append(rows)
        height += rows.height
        if height >= ROWS_OF_A_FILE:
            yield pl.concat(frames, how="diagonal_relaxed").sort(WINDOW_END, maintain_order=True)
            frames, height = [], 0
    if height:
        yield pl.concat(frames, how="diagonal_relaxed").sort(WINDOW_END, maintain_order=True)


def _write(file: BinaryIO, rows: pl.DataFrame) -> None:
    write_frame(file, rows, footer=_FOOTER, statistics=[WINDOW_END, "revision"])
