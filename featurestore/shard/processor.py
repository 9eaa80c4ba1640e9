"""The shard processor: takes batches, decides one commit, hands it to the store.

Every decision is a function of the batches received and the state in the store, so that it can be called by bytewax,
by a test, or by a simulator that crashes between any two writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from featurestore.batches import NO_TIME, PartitionState
from featurestore.compile.bind import BoundView
from featurestore.compile.view import CompiledView, EmittedDataset
from featurestore.compute.slots import MAX_TIME
from featurestore.compute.tiles import merge_tiles
from featurestore.shard.aging import age_tiles
from featurestore.shard.boundaries import Span, TouchedRows, emit
from featurestore.shard.emission import boundary_of, correction_line_us
from featurestore.shard.intake import Intake, above_fence, take_in
from featurestore.shard.protocol import (
    Commit,
    Fence,
    PendingClear,
    RevisionClear,
    RowSet,
    RowWrite,
    ShardBatch,
    ShardStore,
    ViewCounts,
    ViewState,
    fence_key,
)
from featurestore.shard.watermark import view_watermark_us


@dataclass(frozen=True)
class CommitReport:
    """What a commit did, for logs and metrics. By "view@version" where a dict."""

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
    by "view@version".
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
                fence = state.fence(generation, partition) or initial[view.compiled.reference][partition]
                work.fences[partition] = fence
            self._works.append(work)

    @property
    def buffered_events(self) -> int:
        """Events received since the last commit."""
        return self._events

    def lines_us(self) -> dict[str, int]:
        """By "view@version", up to which window end its committed rows of this shard are final, NO_TIME before any."""
        return {work.view.compiled.reference: work.state.line_us for work in self._works}

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
            counts[work.view.compiled.reference] = delta
        self._store.write(commit)
        for work, state in new_states:
            work.state, work.frames, work.advanced = state, [], False
        events, self._events = self._events, 0
        return CommitReport(
            events,
            _totals((write.view.reference, len(write.keys)) for write in commit.rows),
            _totals((emitted.view.reference, emitted.rows.height) for emitted in commit.emitted),
            counts,
            {work.view.compiled.reference: work.state.watermark_us for work in self._works},
        )

    def _commit_view(self, work: _ViewWork, commit: Commit, close_windows: bool) -> tuple[ViewState, ViewCounts]:
        compiled = work.view.compiled
        before = work.state
        line_us = max(before.line_us, correction_line_us(compiled, before.watermark_us))
        allowed = view_watermark_us(work.fences, work.states, compiled.max_out_of_orderness_us)
        watermark_us = max(before.watermark_us, allowed)
        intake = take_in(work.view, work.frames, line_us) if work.frames else None
        old = self._store.read_rows(compiled, intake.keys) if intake and intake.keys else None
        closed = dict(before.closed_us)
        touched: TouchedRows | None = None
        if intake and old:
            tiles = merge_tiles([old.tiles, intake.tiles], compiled.slots)
            merged = RowSet(tiles, np.maximum(old.newest_us, intake.newest_us))
            touched = TouchedRows(intake.keys, RowSet(intake.tiles, intake.newest_us), old, merged)
        spans: list[Span] = []
        for dataset in compiled.datasets:
            emitted_us = boundary_of(before.watermark_us, closed.get(dataset.name, NO_TIME))
            if close_windows:
                last = self._last_open_end(work, dataset, intake, emitted_us)
                closed[dataset.name] = max(last, closed.get(dataset.name, NO_TIME))
            spans.append(Span(dataset, emitted_us, boundary_of(watermark_us, closed.get(dataset.name, NO_TIME))))
        emit(self._store, compiled, commit, spans, touched, line_us)
        new_line_us = max(line_us, correction_line_us(compiled, watermark_us))
        self._clear(compiled, commit, spans, line_us, new_line_us)
        if touched:
            rows = touched.merged
            aged = RowSet(age_tiles(compiled, rows.tiles, rows.newest_us, watermark_us), rows.newest_us)
            commit.rows.append(RowWrite(compiled, touched.keys, aged))
        delta = intake.counts if intake else ViewCounts()
        if old:
            delta = delta.plus(ViewCounts(entities=int((old.newest_us == NO_TIME).sum())))
        fences = dict(before.fences)
        fences.update((fence_key(self._generation, partition), fence) for partition, fence in work.fences.items())
        closed = {name: end for name, end in closed.items() if end != NO_TIME}
        state = ViewState(fences, watermark_us, closed, before.counts.plus(delta), new_line_us)
        commit.states.append((compiled, state))
        return state, delta

    @staticmethod
    def _clear(compiled: CompiledView, commit: Commit, spans: Sequence[Span], line_us: int, new_line_us: int) -> None:
        """Drop index entries whose last window was emitted, and revisions that can't grow any more."""
        for span in spans:
            if span.boundary_us > span.emitted_us:
                last = span.boundary_us - span.dataset.size_us
                commit.pending_clear.append(PendingClear(compiled, span.dataset.index, last))
            if new_line_us > line_us:
                commit.revision_clear.append(RevisionClear(compiled, span.dataset.index, new_line_us))

    def _last_open_end(self, work: _ViewWork, dataset: EmittedDataset, intake: Intake | None, emitted_us: int) -> int:
        compiled = work.view.compiled
        from_us = emitted_us - dataset.size_us + 1 if emitted_us != NO_TIME else NO_TIME
        waiting = self._store.read_pending(compiled, dataset.index, from_us, MAX_TIME)
        panes = [pane for pane, _ in waiting]
        if intake and len(intake.tiles):
            panes.append(int(dataset.pane_of(intake.tiles.start).max()))
        return max(panes) + dataset.size_us if panes else NO_TIME


def _totals(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for name, number in pairs:
        totals[name] = totals.get(name, 0) + number
    return totals
