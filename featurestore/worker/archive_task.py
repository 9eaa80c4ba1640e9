"""A backfill's way to the shards: archived events instead of a topic; one task for each source and process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from featurestore.batches import (
    ARRIVAL_TIME,
    EVENT_TIME,
    NO_TIME,
    OFFSET,
    PARTITION_WATERMARK,
    PartitionBatch,
    PartitionProgress,
    SourcePoll,
)
from featurestore.compile.bind import BoundView
from featurestore.compile.columns import conform
from featurestore.observability import Metrics
from featurestore.offline import ArchiveEnd
from featurestore.offline.archive_reader import ArchivedPart, PartitionReader
from featurestore.shard.protocol import ShardBatch
from featurestore.sources.lateness import max_before, watermark_before
from featurestore.worker.plan import RunPlan, SourcePlan
from featurestore.worker.routing import Router

_NO_DEAD = pl.DataFrame(schema={"reason": pl.String})


class ArchiveTask:
    """Reads the archive, its partitions in step by event time, and hands on what this process's shards must hear.

    Every process reads all of it: that costs less than handing events from one to another. The verdicts are those of
    the archive: what was too late or dead once is not asked again.
    """

    def __init__(
        self,
        plan: SourcePlan,
        views: Sequence[BoundView],
        metrics: Metrics,
        run: RunPlan,
        *,
        process: int,
        processes: int,
    ) -> None:
        assert plan.archive is not None, "the plan is one of a backfill"
        self._source = plan.source
        self._metrics = metrics
        self._run = run
        self._router = Router(views, plan.shards, range(process, plan.shards, processes))
        # So that all processes together count each event once.
        self._counted = {partition for partition in plan.resume if partition % processes == process}
        self._ends = plan.archive.ends
        self._readers = {
            p: PartitionReader(
                Path(plan.archive.root),
                plan.source.name,
                plan.generation,
                p,
                ArchiveEnd(fence.next_offset, fence.max_event_time_us),
                ArchiveEnd(plan.archive.ends[p].next_offset, plan.archive.ends[p].max_event_time_us),
            )
            for p, fence in sorted(plan.resume.items())
        }
        self._unfinished = set(self._readers)
        self._announced = False

    def next_batches(self) -> list[tuple[int, ShardBatch]] | None:
        """What every shard must hear next, None at the archive's recorded end or when the run is to be drained."""
        if not self._announced:
            # Every shard must hear of all partitions before it emits anything.
            self._announced = True
            return self._router.announce([self._progress(p, r.reached, r.reached) for p, r in self._readers.items()])
        if self._run.drain_requested() or not self._unfinished:
            return None
        # The one that is furthest behind, so that no partition's tiles wait long for the others' watermark.
        partition = min(self._unfinished, key=lambda p: (self._readers[p].reached.max_event_time_us, p))
        before = self._readers[partition].reached
        part = self._readers[partition].next_part()
        if part is None:
            self._unfinished.remove(partition)
            return self._router.announce([self._progress(partition, before, before, ended=True)])
        progress = self._progress(partition, before, part.end)
        poll = SourcePoll((self._batch(part, progress),) if part.rows.height else (), (progress,))
        if partition in self._counted:
            self._metrics.observe_poll(self._source.name, poll, self._source.max_out_of_orderness_us)
            left = self._ends[partition].next_offset - part.end.next_offset
            self._metrics.observe_lag(self._source.name, {partition: left})
        return self._router.route(poll)

    def close(self) -> None:
        """Nothing is open between parts."""

    def _progress(
        self, partition: int, first: ArchiveEnd, end: ArchiveEnd, *, ended: bool = False
    ) -> PartitionProgress:
        known = end.max_event_time_us != NO_TIME
        state = ("ended" if known else "empty") if ended else "active"
        return PartitionProgress(partition, first.next_offset, end.next_offset, end.max_event_time_us, state)  # type: ignore[arg-type]

    def _batch(self, part: ArchivedPart, progress: PartitionProgress) -> PartitionBatch:
        event_us = part.rows[EVENT_TIME].dt.epoch("us").to_numpy()
        watermark = watermark_before(max_before(event_us, part.before_us), self._source.max_out_of_orderness_us)
        accepted = conform(part.rows, self._source.columns).with_columns(pl.Series(PARTITION_WATERMARK, watermark))
        offsets = part.rows[OFFSET].to_numpy()
        arrival_us = part.rows[ARRIVAL_TIME].dt.epoch("us").to_numpy()
        return PartitionBatch(
            progress, offsets, arrival_us, np.zeros_like(offsets), accepted, accepted.clear(), _NO_DEAD
        )
