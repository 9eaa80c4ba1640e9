"""What reaching a boundary makes of a view's windows: rows to emit, corrections, and what goes on waiting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from featurestore.batches import NO_TIME
from featurestore.compile.view import CompiledView, EmittedDataset
from featurestore.compute.windows import TileIndex
from featurestore.shard.emission import Touched, distinct_pairs, emitted_rows, pending_ends, touched_windows
from featurestore.shard.protocol import (
    KEY,
    Commit,
    Emitted,
    PendingWrite,
    RevisionWrite,
    RowSet,
    ShardStore,
)

EMISSION_CHUNK = 20_000
"""Rows read at a time when a boundary emits entities that have no new events."""


@dataclass(frozen=True)
class Span:
    """A dataset and its boundaries: reached before this commit, and reached now (never less)."""

    dataset: EmittedDataset
    emitted_us: int
    boundary_us: int


@dataclass(frozen=True)
class TouchedRows:
    """Entities with new events. keys: sorted; new: their new tiles; old, merged: their rows without and with them."""

    keys: Sequence[str]
    new: RowSet
    old: RowSet
    merged: RowSet


def emit(
    store: ShardStore,
    compiled: CompiledView,
    commit: Commit,
    spans: Sequence[Span],
    touched: TouchedRows | None,
    line_us: int,
) -> None:
    """Add to `commit` what the boundaries of `spans` bring. line_us: see `correction_line_us`."""
    due = {span.dataset.index: _pending_due(store, compiled, span) for span in spans}
    if touched is not None:
        due = _emit_touched(store, compiled, commit, spans, touched, due, line_us)
    waiting = [
        frame.with_columns(dataset=pl.lit(index, dtype=pl.Int32)) for index, frame in due.items() if frame.height
    ]
    if waiting:
        _emit_waiting(store, compiled, commit, spans, pl.concat(waiting))


def _pending_due(store: ShardStore, compiled: CompiledView, span: Span) -> pl.DataFrame:
    dataset, panes = span.dataset, []
    if span.boundary_us > span.emitted_us:
        from_us = span.emitted_us - dataset.size_us + 1 if span.emitted_us != NO_TIME else NO_TIME
        panes = store.read_pending(compiled, dataset.index, from_us, span.boundary_us - dataset.every_us)
    return pending_ends(dataset, panes, emitted_us=span.emitted_us, boundary_us=span.boundary_us)


def _emit_touched(
    store: ShardStore,
    compiled: CompiledView,
    commit: Commit,
    spans: Sequence[Span],
    rows: TouchedRows,
    due: dict[int, pl.DataFrame],
    line_us: int,
) -> dict[int, pl.DataFrame]:
    """Emit for the entities with new events; returns what is due for the others."""
    keys = pl.Series(KEY, rows.keys, dtype=pl.String)
    numbered = pl.DataFrame([keys, pl.Series("entity", np.arange(len(keys)), dtype=pl.Int64)])
    old_index, index = TileIndex(rows.old.tiles, len(keys)), TileIndex(rows.merged.tiles, len(keys))
    others: dict[int, pl.DataFrame] = {}
    for span in spans:
        dataset = span.dataset
        touched = touched_windows(
            dataset,
            rows.new.tiles,
            old_index,
            index,
            emitted_us=span.emitted_us,
            boundary_us=span.boundary_us,
            line_us=line_us,
        )
        commit.pending.extend(_pending_writes(compiled, dataset, touched, rows.keys))
        joined = due[dataset.index].join(numbered, on=KEY, how="left")
        here = joined.filter(pl.col("entity").is_not_null())
        others[dataset.index] = joined.filter(pl.col("entity").is_null()).select(KEY, "end")
        pairs = distinct_pairs(
            np.concatenate((touched.due[0], here["entity"].to_numpy())),
            np.concatenate((touched.due[1], here["end"].to_numpy())),
        )
        _append(commit, compiled, dataset, index, keys, pairs, np.zeros(len(pairs[0]), dtype=np.int32))
        revisions = _revisions(store, compiled, dataset, commit, touched, old_index, rows.keys)
        _append(commit, compiled, dataset, index, keys, touched.corrected, revisions)
    return others


def _emit_waiting(
    store: ShardStore, compiled: CompiledView, commit: Commit, spans: Sequence[Span], waiting: pl.DataFrame
) -> None:
    """Emit for entities without new events: rows are read once for all datasets, a chunk at a time."""
    entities = waiting[KEY].unique().sort()
    for at in range(0, len(entities), EMISSION_CHUNK):
        keys = entities.slice(at, EMISSION_CHUNK)
        index = TileIndex(store.read_rows(compiled, keys.to_list()).tiles, len(keys))
        numbered = pl.DataFrame([keys, pl.Series("entity", np.arange(len(keys)), dtype=pl.Int64)])
        part = waiting.join(numbered, on=KEY).sort("entity", "end")
        for span in spans:
            mine = part.filter(pl.col("dataset") == span.dataset.index)
            pairs = mine["entity"].to_numpy(), mine["end"].to_numpy()
            _append(commit, compiled, span.dataset, index, keys, pairs, np.zeros(mine.height, dtype=np.int32))


def _revisions(
    store: ShardStore,
    compiled: CompiledView,
    dataset: EmittedDataset,
    commit: Commit,
    touched: Touched,
    old: TileIndex,
    keys: Sequence[str],
) -> np.ndarray:
    """Revision of each corrected window: 0 where it was empty until now, else one more than the last."""
    entity, ends = touched.corrected
    revisions = np.zeros(len(entity), dtype=np.int32)
    again = old.ranges(entity, ends - dataset.size_us, ends).filled
    if again.any():
        names = [keys[i] for i in entity[again].tolist()]
        times = ends[again].tolist()
        last = store.read_revisions(compiled, dataset.index, times, names)
        revisions[again] = np.asarray(last, dtype=np.int32) + 1
        commit.revisions.append(RevisionWrite(compiled, dataset.index, times, names, revisions[again].tolist()))
    return revisions


def _append(
    commit: Commit,
    compiled: CompiledView,
    dataset: EmittedDataset,
    index: TileIndex,
    keys: pl.Series,
    pairs: tuple[np.ndarray, np.ndarray],
    revisions: np.ndarray,
) -> None:
    if len(pairs[0]):
        rows = emitted_rows(compiled, dataset, index, keys, pairs[0], pairs[1], revisions)
        commit.emitted.append(Emitted(compiled, dataset.name, rows))


def _pending_writes(
    compiled: CompiledView, dataset: EmittedDataset, touched: Touched, keys: Sequence[str]
) -> Iterator[PendingWrite]:
    entity, panes = touched.pending
    for pane_us in np.unique(panes).tolist():
        members = entity[panes == pane_us].tolist()
        yield PendingWrite(compiled, dataset.index, pane_us, [keys[i] for i in members])
