"""How tiles age: finer ones are rolled up behind the correction line, and go when nothing can read them any more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featurestore.batches import NO_TIME
from featurestore.compile.view import CompiledView
from featurestore.compute.tiles import BASE_START, TileTable, merge_tiles, take


def age_tiles(compiled: CompiledView, tiles: TileTable, newest_us: np.ndarray, watermark_us: int) -> TileTable:
    """Tiles as they are to be kept at this watermark.

    newest_us: newest event time of each entity, int64, indexed by tiles.entity. A tile goes, or into the base tile of
    lifetime features, only when it is older than min(watermark, newest event of its row) - retention.
    """
    if watermark_us == NO_TIME or not len(tiles):
        return tiles
    line_us = watermark_us - compiled.allowed_lateness_us
    # A row may be silent for long while the watermark runs: a read after its newest event still needs its fine tiles.
    start = compiled.tile_start(tiles.start, np.minimum(newest_us, line_us)[tiles.entity])
    late = np.where(tiles.late <= line_us, NO_TIME, tiles.late)
    keep_from = np.minimum(newest_us, watermark_us)[tiles.entity] - compiled.retention_us
    gone = (tiles.start != BASE_START) & (start + compiled.levels[-1].granularity_us <= keep_from)
    if gone.any():
        if compiled.has_lifetime:
            start = np.where(gone, BASE_START, start)
            late = np.where(gone, NO_TIME, late)
        else:
            tiles, start, late = take(tiles, ~gone), start[~gone], late[~gone]
    aged = replace(tiles, start=start, late=late)
    if bool((start == tiles.start).all()) and bool((late == tiles.late).all()):
        return aged
    return merge_tiles([aged], compiled.slots)
