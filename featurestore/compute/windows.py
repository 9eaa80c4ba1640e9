"""Which tiles a window covers, and the merged fields of many windows at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from featurestore.batches import NO_TIME
from featurestore.compute.slots import Column, Ranges, Slot, merge_slot
from featurestore.compute.tiles import BASE_START, TileTable, take

TILE_LADDER_US = tuple(
    seconds * 100_000
    for seconds in (1, 5, 10, 50, 100, 300, 600, 3_000, 9_000, 18_000, 36_000, 72_000, 216_000, 432_000, 864_000)
)
"""Tile sizes to choose from, each a divisor of the next: 100ms 500ms 1s 5s 10s 30s 1m 5m 15m 30m 1h 2h 6h 12h 1d."""


def default_tile_us(size_us: int) -> int:
    """Tile size for a window: the largest of the ladder that is at most 1/60 of it, at least 100 ms."""
    fitting = [tile for tile in TILE_LADDER_US if tile * 60 <= size_us]
    return fitting[-1] if fitting else TILE_LADDER_US[0]


class TileIndex:
    """Finds tiles of an entity by time in a `TileTable`.

    entities: how many entities the table's row numbers range over.
    """

    def __init__(self, tiles: TileTable, entities: int) -> None:
        self.tiles = tiles
        self._ranks: np.ndarray | None = None
        # One entity: its tiles are in order of time as they are, the base tile first.
        self._single = entities == 1
        if self._single:
            self._codes = tiles.start
            return
        timed = tiles.start != BASE_START
        starts = tiles.start[timed]
        self._low = int(starts.min()) if len(starts) else 0
        self._span = (int(starts.max()) - self._low + 2) if len(starts) else 2
        if self._span * (entities + 2) >= 2**62:
            self._ranks = np.unique(starts)
            self._span = len(self._ranks) + 2
        self._codes = tiles.entity * self._span + np.where(timed, self._code(tiles.start), 0)

    @cached_property
    def has_late(self) -> bool:
        """Whether any tile was late for a snapshot."""
        return bool((self.tiles.late != NO_TIME).any())

    def _code(self, start_us: np.ndarray) -> np.ndarray:
        if self._ranks is not None:
            ranks: np.ndarray = np.searchsorted(self._ranks, start_us, side="left") + 1
            return ranks
        # Faster than np.clip for the few numbers of a point read.
        clipped: np.ndarray = np.minimum(np.maximum(start_us, self._low), self._low + self._span - 1)
        return clipped - self._low + 1

    def ranges(self, entity: np.ndarray, from_us: np.ndarray, to_us: np.ndarray) -> Ranges:
        """Tiles of `entity[i]` whose start lies in [from_us[i], to_us[i]); from BASE_START takes the base tile too."""
        if self._single:
            lo, hi = self._codes.searchsorted(from_us), self._codes.searchsorted(to_us)
        else:
            row = entity * self._span
            lo = self._codes.searchsorted(row + np.where(from_us == BASE_START, 0, self._code(from_us)))
            hi = self._codes.searchsorted(row + self._code(to_us))
        return Ranges(lo, np.maximum(lo, hi))


def merge_windows(
    index: TileIndex,
    slots: Sequence[Slot],
    entity: np.ndarray,
    from_us: np.ndarray,
    to_us: np.ndarray,
    *,
    snapshot_every_us: int = 0,
) -> dict[str, Column]:
    """Merged slot fields of each window [from_us[i], to_us[i]) of entity[i]; shape (m,).

    snapshot_every_us: for a snapshot of sliding windows, `to_us` being its boundaries: tiles that were late for a
    boundary are left out of it, save those of its own interval. 0: every tile counts.
    """
    ranges = index.ranges(entity, from_us, to_us)
    tiles = index.tiles
    if snapshot_every_us and index.has_late:
        tile, owner = ranges.expand()
        boundary = to_us[owner]
        late = tiles.late[tile]
        keep = (late < boundary) | (tiles.start[tile] >= boundary - snapshot_every_us)
        tiles = take(tiles, tile[keep])
        bounds = np.searchsorted(owner[keep], np.arange(len(entity) + 1))
        ranges = Ranges(bounds[:-1], bounds[1:])
    merged: dict[str, Column] = {}
    for slot in slots:
        merged.update(merge_slot(slot, tiles.fields, ranges))
    return merged
