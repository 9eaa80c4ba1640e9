"""Which windows are due, which are corrected, and their rows.

A window is due when the boundary (the view's watermark, or what `--close-windows` closed) passes its end. An accepted
event in a window that was emitted already corrects it: revision + 1, as long as its end is past the correction line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from featurestore.batches import NO_TIME
from featurestore.compile.keys import decode_keys
from featurestore.compile.view import CompiledView, EmittedDataset
from featurestore.compute.tiles import TileTable
from featurestore.compute.windows import TileIndex


@dataclass(frozen=True)
class Touched:
    """What new tiles mean for one dataset; arrays of (entity row, time µs) pairs.

    due: windows to emit now. corrected: windows emitted earlier. pending: panes first touched that some later boundary
    will emit.
    """

    due: tuple[np.ndarray, np.ndarray]
    corrected: tuple[np.ndarray, np.ndarray]
    pending: tuple[np.ndarray, np.ndarray]


def touched_windows(
    dataset: EmittedDataset,
    new: TileTable,
    old: TileIndex,
    merged: TileIndex,
    *,
    emitted_us: int,
    boundary_us: int,
    line_us: int,
) -> Touched:
    """Decide for every window that holds a new tile.

    old, merged: the entities' tiles without and with the new ones. emitted_us: boundary that was reached before this
    commit; boundary_us: the one reached now (never less).
    """
    pane = dataset.pane_of(new.start)
    distinct = np.append(True, (new.entity[1:] != new.entity[:-1]) | (pane[1:] != pane[:-1])) if len(pane) else pane > 0
    entity, pane = new.entity[distinct], pane[distinct]
    last_end = dataset.last_end_of(pane)
    open_pane = last_end > boundary_us
    waiting = np.zeros(len(pane), dtype=bool)
    if open_pane.any():
        seen = old.ranges(entity[open_pane], pane[open_pane], pane[open_pane] + dataset.every_us).filled
        waiting[open_pane] = ~seen
    ends = pane[:, None] + dataset.every_us * np.arange(1, dataset.ends_per_pane + 1)
    owners = np.broadcast_to(entity[:, None], ends.shape)
    due = (ends > emitted_us) & (ends <= boundary_us)
    corrected = (ends <= emitted_us) & (ends > line_us)
    again = owners[corrected], ends[corrected]
    if dataset.is_snapshot:
        missed = missed_snapshots(dataset, new, merged, emitted_us=emitted_us, line_us=line_us)
        again = np.concatenate((again[0], missed[0])), np.concatenate((again[1], missed[1]))
    return Touched(distinct_pairs(owners[due], ends[due]), distinct_pairs(*again), (entity[waiting], pane[waiting]))


def missed_snapshots(
    dataset: EmittedDataset, new: TileTable, merged: TileIndex, *, emitted_us: int, line_us: int
) -> tuple[np.ndarray, np.ndarray]:
    """Snapshots after a new tile's own interval that were emitted without it although it was on time for them.

    Possible only when its partition did not hold the watermark back: it was idle or empty. Sorted (entity row, end)
    pairs; it may name more snapshots of such an entity than have changed.
    """
    every, reach_us = dataset.every_us, dataset.reach_us
    from_us = np.maximum(dataset.pane_of(new.start) + every, new.late)
    to_us = np.minimum(emitted_us, new.start + reach_us) if reach_us else np.full(len(new), emitted_us)
    tile = np.flatnonzero(np.maximum(from_us, line_us) < to_us)
    if not len(tile):
        return tile, tile
    entity = new.entity[tile]
    first = np.flatnonzero(np.append(True, entity[1:] != entity[:-1]))
    least = np.maximum(np.minimum.reduceat(from_us[tile], first), line_us) // every * every
    most = np.maximum.reduceat(to_us[tile], first) // every * every
    found, owner = merged.ranges(entity[first], least, most).expand()
    ends = merged.tiles.start[found] // every * every + every
    return distinct_pairs(entity[first][owner], ends)


def distinct_pairs(entity: np.ndarray, time_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs, sorted by entity, then time."""
    if len(entity) < 2:
        return entity, time_us
    order = np.lexsort((time_us, entity))
    entity, time_us = entity[order], time_us[order]
    new = np.append(True, (entity[1:] != entity[:-1]) | (time_us[1:] != time_us[:-1]))
    return entity[new], time_us[new]


def pending_ends(
    dataset: EmittedDataset, panes: Sequence[tuple[int, list[str]]], *, emitted_us: int, boundary_us: int
) -> pl.DataFrame:
    """Windows due because of panes in the index: distinct rows of `_key` (String) and `end` (Int64 µs), unordered."""
    frames: list[pl.DataFrame] = []
    for pane_us, keys in panes:
        ends = [
            end
            for end in range(pane_us + dataset.every_us, pane_us + dataset.size_us + 1, dataset.every_us)
            if emitted_us < end <= boundary_us
        ]
        series = pl.Series("_key", keys, dtype=pl.String)
        frames.extend(
            pl.DataFrame([series, pl.repeat(end, len(keys), dtype=pl.Int64, eager=True).alias("end")]) for end in ends
        )
    if not frames:
        return pl.DataFrame(schema={"_key": pl.String, "end": pl.Int64})
    rows: pl.DataFrame = pl.concat(frames)
    # An entity is in a pane's index once; only windows of several panes meet it again.
    return rows.unique() if dataset.ends_per_pane > 1 else rows


def emitted_rows(
    compiled: CompiledView,
    dataset: EmittedDataset,
    index: TileIndex,
    keys: pl.Series,
    entity: np.ndarray,
    ends_us: np.ndarray,
    revisions: np.ndarray,
) -> pl.DataFrame:
    """Rows of the windows that end at ends_us[i] of entity keys[entity[i]]: join keys, features, window, revision."""
    columns = decode_keys(compiled.spec.join_keys, keys.gather(entity))
    values: dict[str, pl.Series] = {}
    for group in dataset.groups:
        every = dataset.every_us if dataset.is_snapshot else 0
        for series in group.read(index, entity, ends_us, snapshot_every_us=every):
            values[series.name] = series
    columns += [values[name] for name in compiled.features if name in values]
    instant = pl.Datetime("us", "UTC")
    if not dataset.is_snapshot:
        columns.append(pl.Series("window_start", ends_us - dataset.size_us).cast(instant))
    columns.append(pl.Series("window_end", ends_us).cast(instant))
    columns.append(pl.Series("revision", revisions, dtype=pl.Int32))
    return pl.DataFrame(columns)


def boundary_of(watermark_us: int, closed_us: int) -> int:
    """How far a dataset is emitted: the watermark, or what was closed beyond it."""
    return max(watermark_us, closed_us)


def correction_line_us(compiled: CompiledView, watermark_us: int) -> int:
    """Windows that end at or before it can't be corrected: the watermark minus the allowed lateness."""
    return NO_TIME if watermark_us == NO_TIME else watermark_us - compiled.allowed_lateness_us
