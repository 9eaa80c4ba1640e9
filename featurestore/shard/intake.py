"""From a view's buffered events to partial tiles: fence, filter, derive, aggregate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from featurestore.batches import EVENT_TIME, NO_TIME, OFFSET, PARTITION, PARTITION_WATERMARK
from featurestore.compile.bind import BoundView
from featurestore.compile.expressions import derived
from featurestore.compile.expressions import filtered as filtered_rows
from featurestore.compile.view import CompiledView
from featurestore.compute.slots import Column
from featurestore.compute.tiles import TileTable, empty_tiles
from featurestore.shard.protocol import KEY, Fence, ViewCounts

_START = "_tile_start"
_LATE = "_late"
_NEWEST = "_newest"


@dataclass(frozen=True)
class Intake:
    """A view's new events as partial tiles. keys: distinct, sorted; tiles.entity numbers them, as newest_us does."""

    keys: list[str]
    tiles: TileTable
    newest_us: np.ndarray
    counts: ViewCounts


def above_fence(frame: pl.DataFrame, first_offsets: Mapping[int, int], fences: Mapping[int, Fence]) -> pl.DataFrame:
    """Drop the events that the view has applied already.

    first_offsets: the least offset that the frame can hold of each partition; a frame wholly above the fences is
    returned as it is.
    """
    behind = [p for p, first in first_offsets.items() if p in fences and first < fences[p].next_offset]
    if not behind:
        return frame
    applied = pl.any_horizontal(
        (pl.col(PARTITION) == partition) & (pl.col(OFFSET) < fences[partition].next_offset) for partition in behind
    )
    return frame.filter(~applied)


def take_in(view: BoundView, frames: Sequence[pl.DataFrame], line_us: int) -> Intake:
    """Aggregate events to tiles of the view's head size.

    frames: routed events above the fence (see `ShardBatch.slices`). line_us: windows that end at or before it can no
    longer be corrected, NO_TIME before there is a watermark.
    """
    compiled = view.compiled
    frame = pl.concat(frames) if len(frames) != 1 else frames[0]
    read = frame.height
    if view.where is not None:
        frame = filtered_rows(frame, view.where)
    filtered = read - frame.height
    kept = frame.height
    frame = frame.filter(pl.col(KEY).is_not_null())
    null_key = kept - frame.height
    if frame.is_empty():
        counts = ViewCounts(0, filtered, null_key, 0)
        return Intake([], empty_tiles(compiled.slots), np.empty(0, dtype=np.int64), counts)
    if view.derive:
        frame = derived(frame, view.derive)
    frame = frame.select(
        KEY, EVENT_TIME, PARTITION, OFFSET, *_late_column(compiled), _start_column(compiled), *_inputs(compiled)
    )
    beyond = _beyond_retention(compiled, frame, line_us)
    by = [KEY, _START, _LATE]
    if not compiled.keeps_late or frame[_LATE].max() == NO_TIME:
        by = [KEY, _START]
    if any(slot.kind in ("first", "last") for slot in compiled.slots):
        frame = frame.sort(EVENT_TIME, PARTITION, OFFSET)
    partial = (
        frame.group_by(by)
        .agg(*(expr for slot in compiled.slots for expr in slot.lift()), pl.col(EVENT_TIME).max().alias(_NEWEST))
        .sort(by)
    )
    tiles, keys, newest = _as_tiles(compiled, partial)
    return Intake(keys, tiles, newest, ViewCounts(frame.height, filtered, null_key, beyond))


def _start_column(compiled: CompiledView) -> pl.Expr:
    return (pl.col(EVENT_TIME) // compiled.head_us * compiled.head_us).alias(_START)


def _late_column(compiled: CompiledView) -> list[pl.Expr]:
    if not compiled.keeps_late:
        return []
    every = compiled.spec.snapshot_every_us
    own_boundary = (pl.col(EVENT_TIME) // every + 1) * every
    watermark = pl.col(PARTITION_WATERMARK)
    passed = watermark // every * every
    # Rounding NO_TIME down would wrap around to a time far ahead.
    known = watermark != NO_TIME
    return [pl.when(known & (passed > own_boundary)).then(passed).otherwise(pl.lit(NO_TIME)).alias(_LATE)]


def _inputs(compiled: CompiledView) -> list[pl.Expr]:
    dtypes = {slot.column: slot.dtype for slot in compiled.slots if slot.column and slot.kind != "n"}
    casts = {"Int64": pl.Int64, "Float64": pl.Float64, "String": pl.String}
    return [
        pl.col(column).cast(casts[dtypes[column]]) if column in dtypes else pl.col(column)
        for column in compiled.input_columns
    ]


def _beyond_retention(compiled: CompiledView, frame: pl.DataFrame, line_us: int) -> int:
    oldest = frame[EVENT_TIME].min()
    if line_us == NO_TIME or not isinstance(oldest, int) or oldest >= line_us:
        return 0
    times = frame[EVENT_TIME].to_numpy()
    missed = np.zeros(len(times), dtype=bool)
    for dataset in compiled.datasets:
        missed |= dataset.pane_of(times) + dataset.every_us <= line_us
    return int(missed.sum())


def _as_tiles(compiled: CompiledView, partial: pl.DataFrame) -> tuple[TileTable, list[str], np.ndarray]:
    entity = partial[KEY].rle_id().cast(pl.Int64).to_numpy()
    first = np.flatnonzero(np.append(True, entity[1:] != entity[:-1]))
    fields: dict[str, Column] = {}
    for slot in compiled.slots:
        for name, dtype in slot.fields:
            fields[name] = partial[name] if dtype == "str" else partial[name].to_numpy()
    late = partial[_LATE].to_numpy() if _LATE in partial.columns else np.full(partial.height, NO_TIME)
    tiles = TileTable(entity, partial[_START].to_numpy(), late, fields)
    keys = partial[KEY].gather(first).to_list()
    return tiles, keys, np.maximum.reduceat(partial[_NEWEST].to_numpy(), first)
