"""Tiles of many entities as columns, and their merge.

A tile is a partial aggregate of one entity's events in one time slice. `late` marks events that came behind the
watermark of later snapshots: a tile with late = K is left out of the snapshots at boundaries after its own interval up
to K, so that what a snapshot holds is a function of the log alone (docs/guarantees.md). NO_TIME: on time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from featurestore.batches import NO_TIME
from featurestore.compute.slots import Column, Ranges, Slot, merge_slot

BASE_START = NO_TIME
"""Start of the tile that holds everything rolled up for lifetime features."""


@dataclass(frozen=True)
class TileTable:
    """Tiles sorted by (entity, start, late).

    entity: row number of the entity, int64, shape (n,). start: µs since the epoch. late: µs or NO_TIME.
    fields: slot fields by name, shape (n,).
    """

    entity: np.ndarray
    start: np.ndarray
    late: np.ndarray
    fields: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.entity)


def empty_tiles(slots: Sequence[Slot]) -> TileTable:
    """No tiles, with the fields of `slots`."""
    fields: dict[str, Column] = {}
    for slot in slots:
        for name, dtype in slot.fields:
            fields[name] = pl.Series([], dtype=pl.String) if dtype == "str" else np.empty(0, dtype=dtype)
    none = np.empty(0, dtype=np.int64)
    return TileTable(none, none, none, fields)


def take(table: TileTable, index: np.ndarray) -> TileTable:
    """The tiles at `index` (int64 or a boolean mask), in that order."""
    fields = {name: _take(values, index) for name, values in table.fields.items()}
    return TileTable(table.entity[index], table.start[index], table.late[index], fields)


def merge_tiles(tables: Sequence[TileTable], slots: Sequence[Slot]) -> TileTable:
    """One table in which tiles of the same (entity, start, late) are merged."""
    tables = [table for table in tables if len(table)] or [empty_tiles(slots)]
    entity = np.concatenate([table.entity for table in tables])
    start = np.concatenate([table.start for table in tables])
    late = np.concatenate([table.late for table in tables])
    fields = {name: _concat([table.fields[name] for table in tables]) for name in tables[0].fields}
    order = tile_order(entity, start, late)
    if order is not None:
        entity, start, late = entity[order], start[order], late[order]
        fields = {name: _take(values, order) for name, values in fields.items()}
    if len(entity) < 2:
        return TileTable(entity, start, late, fields)
    new = np.empty(len(entity), dtype=bool)
    new[0] = True
    np.not_equal(start[1:], start[:-1], out=new[1:])
    new[1:] |= entity[1:] != entity[:-1]
    new[1:] |= late[1:] != late[:-1]
    if bool(new.all()):
        return TileTable(entity, start, late, fields)
    lo = np.flatnonzero(new)
    ranges = Ranges(lo, np.append(lo[1:], len(entity)))
    merged: dict[str, Column] = {}
    for slot in slots:
        merged.update(merge_slot(slot, fields, ranges))
    return TileTable(entity[lo], start[lo], late[lo], merged)


def tile_order(entity: np.ndarray, start: np.ndarray, late: np.ndarray) -> np.ndarray | None:
    """Stable order by (entity, start, late), int64; None when the tiles are in that order already."""
    if len(entity) < 2:
        return None
    same_entity = entity[1:] == entity[:-1]
    same_start = start[1:] == start[:-1]
    rising = (entity[1:] > entity[:-1]) | (same_entity & (start[1:] > start[:-1]))
    if bool((rising | (same_entity & same_start & (late[1:] >= late[:-1]))).all()):
        return None
    if bool((late == NO_TIME).all()):
        timed = start != BASE_START
        low = int(start[timed].min()) if timed.any() else 0
        span = (int(start[timed].max()) - low + 2) if timed.any() else 2
        if span * (int(entity.max()) + 1) < 2**62:
            # One integer key: numpy's stable sort runs in linear time on the two sorted runs that a merge brings.
            return np.argsort(entity * span + np.where(timed, start - low + 1, 0), kind="stable")
    return np.lexsort((late, start, entity))


def _take(values: Column, index: np.ndarray) -> Column:
    if isinstance(values, pl.Series):
        return values.filter(pl.Series(index)) if index.dtype == bool else values.gather(index)
    assert isinstance(values, np.ndarray), "text that is only read is not rearranged"
    taken: np.ndarray = values[index]
    return taken


def _concat(parts: Sequence[Column]) -> Column:
    if isinstance(parts[0], pl.Series):
        return pl.concat([part for part in parts if isinstance(part, pl.Series)])
    return np.concatenate([np.asarray(part) for part in parts])
