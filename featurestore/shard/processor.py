"""The shard processor: takes batches, decides one commit, hands it to the store.

Every decision is a function of the batches received and the state in the store, so that it can be called by bytewax,
by a test, or by a simulator that crashes between any two writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from featurestore.batches import NO_TIME, PartitionState
from featurestore.compile.bind import BoundView
from featurestore.compile.view import EmittedDataset
from featurestore.compute.slots import MAX_TIME
from featurestore.compute.tiles import merge_tiles
from featurestore.compute.windows import TileIndex
from featurestore.shard.aging import age_tiles
from featurestore.shard.emission import (
    Touched,
    boundary_of,
    correction_line_us,
    emitted_rows,
    pending_ends,
    touched_windows,
)
from featurestore.shard.intake import Intake, above_fence, take_in
from featurestore.shard.protocol import (
    KEY,
    Commit,
    Emitted,
    Fence,
    PendingClear,
    PendingWrite,
    RevisionClear,
    RevisionWrite,
    RowSet,
    RowWrite,
    ShardBatch,
    ShardStore,
    ViewCounts,
    ViewState,
    fence_key,
)
from featurestore.shard.watermark import view_watermark_us

EMISSION_CHUNK = 20_000
"""Rows read at a time when a boundary emits entities that have no new events."""


@dataclass(frozen=True)
class CommitReport:
    """What a commit did, for logs and metrics. By view name where a dict."""

    events: int
    rows_written: Mapping[str, int]
    snapshot_rows: Mapping[str, int]
    counts: Mapping[str, ViewCounts]
    watermark_us: Mapping[str, int]


@dataclass
class _ViewWork:
    view: BoundView
    state: ViewState
    frames: list[pl.DataFrame] = field(default_factory=list)
    fences: dict[int, Fence] = field(default_factory=dict)
    states: dict[int, PartitionState] = field(default_factory=dict)
    advanced: bool = False


class ShardProcessor:
    """Aggregates one shard of a source for all its views.

    generation: of the topic; partitions: all of them. initial: fences that a view starts with where the store has none,
    by view name.
    """

    def __init__(
        self,
        views: Sequence[BoundView],
        generation: str,
        partitions: Sequence[int],
        store: ShardStore,
        initial: Mapping[str, Mapping[int, Fence]],
    ) -> None:
        self._generation = generation
        self._store = store
        self._events = 0
        self._works: list[_ViewWork] = []
        for view in views:
            state = store.read_state(view.compiled) or ViewState()
            work = _ViewWork(view, state)
            for partition in partitions:
                fence = state.fence(generation, partition) or initial[view.compiled.name][partition]
                work.fences[partition] = fence
            self._works.append(work)

    @property
    def buffered_events(self) -> int:
        """Events received since the last commit."""
        return self._events

    @property
    def advanced(self) -> bool:
        """Whether anything was received that a commit would write."""
        return any(work.advanced for work in self._works)

    def receive(self, batch: ShardBatch) -> None:
        """Buffer a batch until the next commit. Batches of a partition come in offset order, without gaps."""
        first_offsets = {progress.partition: progress.first_offset for progress in batch.progress}
        for work in self._works:
            frame = batch.slices.get(work.view.group)
            if frame is not None and frame.height:
                fresh = above_fence(frame, first_offsets, work.fences)
                if fresh.height:
                    work.frames.append(fresh)
                    work.advanced = True
            for progress in batch.progress:
                fence = work.fences[progress.partition]
                if progress.next_offset < fence.next_offset:
                    continue
                if progress.next_offset > fence.next_offset or work.states.get(progress.partition) != progress.state:
                    work.advanced = True
                work.fences[progress.partition] = Fence(progress.next_offset, progress.max_event_time_us)
                work.states[progress.partition] = progress.state
        self._events += max((frame.height for frame in batch.slices.values()), default=0)

    def commit(self, *, close_windows: bool = False) -> CommitReport | None:
        """Write what was received and emit what is due; None when there was nothing to write.

        close_windows: emit the open windows too, at the end of a bounded run.
        """
        if not self.advanced and not close_windows:
            return None
        commit = Commit()
        counts: dict[str, ViewCounts] = {}
        new_states: list[tuple[_ViewWork, ViewState]] = []
        for work in self._works:
            state, delta = self._commit_view(work, commit, close_windows)
            new_states.append((work, state))
            counts[work.view.compiled.name] = delta
        self._store.write(commit)
        for work, state in new_states:
            work.state, work.frames, work.advanced = state, [], False
        events, self._events = self._events, 0
        return CommitReport(
            events,
            _totals((write.view.name, len(write.keys)) for write in commit.rows),
            _totals((emitted.view.name, emitted.rows.height) for emitted in commit.emitted),
            counts,
            {work.view.compiled.name: work.state.watermark_us for work in self._works},
        )

    def _commit_view(self, work: _ViewWork, commit: Commit, close_windows: bool) -> tuple[ViewState, ViewCounts]:
        compiled = work.view.compiled
        before = work.state
        line_us = correction_line_us(compiled, before.watermark_us)
        allowed = view_watermark_us(work.fences, work.states, compiled.max_out_of_orderness_us)
        watermark_us = max(before.watermark_us, allowed)
        intake = take_in(work.view, work.frames, line_us) if work.frames else None
        old = self._store.read_rows(compiled, intake.keys) if intake and intake.keys else None
        closed = dict(before.closed_us)
        merged: RowSet | None = None
        if intake and old:
            tiles = merge_tiles([old.tiles, intake.tiles], compiled.slots)
            merged = RowSet(tiles, np.maximum(old.newest_us, intake.newest_us))
        for dataset in compiled.datasets:
            emitted_us = boundary_of(before.watermark_us, closed.get(dataset.name, NO_TIME))
            if close_windows:
                last = self._last_open_end(work, dataset, intake, emitted_us)
                closed[dataset.name] = max(last, closed.get(dataset.name, NO_TIME))
            boundary_us = boundary_of(watermark_us, closed.get(dataset.name, NO_TIME))
            self._emit(work, dataset, commit, intake, old, merged, emitted_us, boundary_us, line_us)
            if boundary_us > emitted_us:
                commit.pending_clear.append(PendingClear(compiled, dataset.index, boundary_us - dataset.size_us))
            new_line_us = correction_line_us(compiled, watermark_us)
            if new_line_us > line_us:
                commit.revision_clear.append(RevisionClear(compiled, dataset.index, new_line_us))
        if intake and merged:
            aged = RowSet(age_tiles(compiled, merged.tiles, merged.newest_us, watermark_us), merged.newest_us)
            commit.rows.append(RowWrite(compiled, intake.keys, aged))
        delta = intake.counts if intake else ViewCounts()
        if old:
            delta = delta.plus(ViewCounts(entities=int((old.newest_us == NO_TIME).sum())))
        fences = dict(before.fences)
        fences.update((fence_key(self._generation, partition), fence) for partition, fence in work.fences.items())
        closed = {name: end for name, end in closed.items() if end != NO_TIME}
        state = ViewState(fences, watermark_us, closed, before.counts.plus(delta))
        commit.states.append((compiled, state))
        return state, delta

    def _last_open_end(self, work: _ViewWork, dataset: EmittedDataset, intake: Intake | None, emitted_us: int) -> int:
        compiled = work.view.compiled
        from_us = emitted_us - dataset.size_us + 1 if emitted_us != NO_TIME else NO_TIME
        waiting = self._store.read_pending(compiled, dataset.index, from_us, MAX_TIME)
        panes = [pane for pane, _ in waiting]
        if intake and len(intake.tiles):
            panes.append(int(dataset.pane_of(intake.tiles.start).max()))
        return max(panes) + dataset.size_us if panes else NO_TIME

    def _emit(
        self,
        work: _ViewWork,
        dataset: EmittedDataset,
        commit: Commit,
        intake: Intake | None,
        old: RowSet | None,
        merged: RowSet | None,
        emitted_us: int,
        boundary_us: int,
        line_us: int,
    ) -> None:
        compiled = work.view.compiled
        due = self._pending_due(work, dataset, emitted_us, boundary_us)
        if intake and old and merged:
            old_index = TileIndex(old.tiles, len(intake.keys))
            touched = touched_windows(
                dataset, intake.tiles, old_index, emitted_us=emitted_us, boundary_us=boundary_us, line_us=line_us
            )
            commit.pending.extend(_pending_writes(work.view, dataset, touched, intake.keys))
            keys = pl.Series(KEY, intake.keys, dtype=pl.String)
            numbered = pl.DataFrame([keys]).with_row_index("entity")
            if due.height:
                here = due.join(numbered, on=KEY, how="inner")
                due = due.join(numbered, on=KEY, how="anti", maintain_order="left")
                both = pl.DataFrame({"entity": touched.due[0], "end": touched.due[1]}, schema={"entity": pl.Int64, "end": pl.Int64})
                both = pl.concat([both, here.select(pl.col("entity").cast(pl.Int64), "end")]).unique().sort("entity", "end")
                pairs = both["entity"].to_numpy(), both["end"].to_numpy()
            else:
                pairs = touched.due
            index = TileIndex(merged.tiles, len(intake.keys))
            self._append(commit, work, dataset, index, keys, pairs, np.zeros(len(pairs[0]), dtype=np.int32))
            revisions = self._revisions(work, dataset, commit, touched, old_index, intake.keys)
            self._append(commit, work, dataset, index, keys, touched.corrected, revisions)
        waiting = due[KEY].unique(maintain_order=True)
        for chunk in (waiting.slice(at, EMISSION_CHUNK) for at in range(0, len(waiting), EMISSION_CHUNK)):
            chunk = chunk.alias(KEY)
            rows = self._store.read_rows(compiled, chunk.to_list())
            pairs_frame = due.join(pl.DataFrame([chunk]).with_row_index("entity"), on=KEY, maintain_order="left")
            pairs = pairs_frame["entity"].cast(pl.Int64).to_numpy(), pairs_frame["end"].to_numpy()
            index = TileIndex(rows.tiles, len(chunk))
            self._append(commit, work, dataset, index, chunk, pairs, np.zeros(len(pairs[0]), dtype=np.int32))

    def _pending_due(self, work: _ViewWork, dataset: EmittedDataset, emitted_us: int, boundary_us: int) -> pl.DataFrame:
        compiled = work.view.compiled
        panes: list[tuple[int, list[str]]] = []
        if boundary_us > emitted_us:
            from_us = emitted_us - dataset.size_us + 1 if emitted_us != NO_TIME else NO_TIME
            panes = self._store.read_pending(compiled, dataset.index, from_us, boundary_us - dataset.every_us)
        return pending_ends(dataset, panes, emitted_us=emitted_us, boundary_us=boundary_us)

    def _revisions(
        self,
        work: _ViewWork,
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
            last = self._store.read_revisions(work.view.compiled, dataset.index, times, names)
            revisions[again] = np.asarray(last, dtype=np.int32) + 1
            written = revisions[again].tolist()
            commit.revisions.append(RevisionWrite(work.view.compiled, dataset.index, times, names, written))
        return revisions

    def _append(
        self,
        commit: Commit,
        work: _ViewWork,
        dataset: EmittedDataset,
        index: TileIndex,
        keys: pl.Series,
        pairs: tuple[np.ndarray, np.ndarray],
        revisions: np.ndarray,
    ) -> None:
        if len(pairs[0]):
            rows = emitted_rows(work.view.compiled, dataset, index, keys, pairs[0], pairs[1], revisions)
            commit.emitted.append(Emitted(work.view.compiled, dataset.name, rows))


def _pending_writes(
    view: BoundView, dataset: EmittedDataset, touched: Touched, keys: Sequence[str]
) -> Iterator[PendingWrite]:
    entity, panes = touched.pending
    for pane_us in np.unique(panes).tolist():
        members = entity[panes == pane_us].tolist()
        yield PendingWrite(view.compiled, dataset.index, pane_us, [keys[i] for i in members])


def _totals(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for name, number in pairs:
        totals[name] = totals.get(name, 0) + number
    return totals
