"""A worker's share of a source: poll, archive, route; one task for each source and process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import structlog

from featurestore.batches import PartitionProgress, SourcePoll
from featurestore.compile.bind import BoundView
from featurestore.config import Settings
from featurestore.errors import OffsetGapError
from featurestore.observability import Metrics
from featurestore.offline import ArchiveEnd, SourceArchive
from featurestore.offline.recent_ids import read_recent_ids
from featurestore.online import layout
from featurestore.shard.protocol import Fence, ShardBatch
from featurestore.sources.clock import SteadyClock
from featurestore.sources.consumer import ResumePoint, SourceReader
from featurestore.sources.schema_registry import SchemaRegistry
from featurestore.sources.topics import TopicInfo, look_at_topic, made_again
from featurestore.sources.watch import TopicWatch
from featurestore.worker.plan import RunPlan, SourcePlan
from featurestore.worker.routing import Router

log = structlog.get_logger()

POLL_TIMEOUT_S = 0.02
"""librdkafka waits the whole timeout when fewer messages are there than asked for: freshness wants it short."""

REPORT_EVERY_S = 5.0

CLOCK_STEP_S = 0.02
"""A wall clock that falls behind the monotonic one by so much within a poll was set back."""


class SourceTask:
    """Reads this process's partitions of one source and hands on what each shard must hear."""

    def __init__(
        self,
        plan: SourcePlan,
        views: Sequence[BoundView],
        settings: Settings,
        metrics: Metrics,
        run: RunPlan,
        *,
        process: int,
        processes: int,
    ) -> None:
        self._plan = plan
        self._offline = Path(settings.store.data_dir) / "offline"
        self._metrics = metrics
        self._run = run
        self._router = Router(views, plan.shards)
        data_dir = Path(settings.store.data_dir)
        name = plan.source.name
        mine = [partition for partition in sorted(plan.resume) if partition % processes == process]
        resume = {
            p: ResumePoint(plan.resume[p].next_offset, plan.resume[p].max_event_time_us, plan.read_from.get(p))
            for p in mine
        }
        for partition in mine:
            metrics.observe_offsets_lost(name, partition, plan.offsets_lost.get(partition, 0))
        stop_at = None if plan.stop_at is None else {p: plan.stop_at[p] for p in mine}
        starts = {
            p: ArchiveEnd(plan.archive_start[p].next_offset, plan.archive_start[p].max_event_time_us) for p in mine
        }
        self._archive = SourceArchive(self._offline, name, plan.generation, starts=starts)
        registry_url = settings.schema_registry.url
        self._reader = SourceReader(
            plan.source,
            run.bootstrap_servers,
            f"{settings.kafka.group_id}.{name}",
            resume,
            plan.generation,
            stop_at,
            layout.source_dir(data_dir, name) / "verdicts",
            settings.kafka.settings,
            earlier=plan.earlier,
            registry=SchemaRegistry(registry_url) if registry_url and plan.source.format == "avro-confluent" else None,
            archived_ids=self._archived_ids,
            clock=SteadyClock(run.planned_at_ns),
        )
        self._watch: TopicWatch | None = None
        if stop_at is None and process == 0:
            self._watch = TopicWatch(
                lambda: look_at_topic(run.bootstrap_servers, plan.source.topic, settings.kafka.settings, data_dir),
                settings.kafka.settings,
            )
        self._announced = False
        self._clock_ahead_s = time.time() - time.monotonic()
        self._mine = mine
        self._offsets = {p: point.next_offset for p, point in resume.items()}
        self._started_at = time.monotonic()
        self._reported_at = self._started_at
        self._events = 0

    def next_batches(self) -> list[tuple[int, ShardBatch]] | None:
        """What every shard must hear next, None when the source has come to its end or is to be drained."""
        if not self._announced:
            # Every shard must exist, even where nothing new comes: it may have windows to emit.
            self._announced = True
            return self._router.announce([self._resumed(partition) for partition in self._mine])
        if self._run.drain_requested() or self._run.replan_requested() or self._reader.finished:
            return None
        if self._watch is not None and self._has_grown(self._watch.seen):
            self._run.request_replan()
            return None
        if self._clock_was_set_back():
            # bytewax waits for the shards' next commits by the wall clock; a batch makes it ask them again.
            return self._router.announce([])
        try:
            poll = self._reader.poll(POLL_TIMEOUT_S)
        except OffsetGapError as error:
            if not self._run.accept_gap:
                raise
            # A new plan finds what is left; it alone decides about gaps.
            log.warning("offsets_gone", source=self._plan.source.name, error=error.message)
            self._run.request_replan()
            return None
        now = time.monotonic()
        if poll is None:
            self._archive.maybe_flush(now)
            self._report(now)
            return []
        covered = {batch.partition for batch in poll.batches}
        for batch in poll.batches:
            self._archive.append(batch)
        for progress in poll.progress:
            if progress.partition not in covered:
                self._archive.advance(progress)
        self._archive.maybe_flush(now)
        self._observe(poll)
        self._report(now)
        return self._router.route(poll)

    def close(self) -> None:
        """Make the archive durable and leave the broker."""
        self._archive.flush()
        self._report(time.monotonic(), last=True)
        if self._watch is not None:
            self._watch.close()
        self._reader.close()

    def _archived_ids(self, partition: int, point: ResumePoint) -> pl.DataFrame | None:
        source = self._plan.source
        assert source.dedupe_by is not None
        return read_recent_ids(
            self._offline,
            source.name,
            self._plan.generation,
            partition,
            source.dedupe_by,
            ArchiveEnd(point.next_offset, point.max_event_time_us),
            source.dedupe_within_us,
        )

    def _clock_was_set_back(self) -> bool:
        before, self._clock_ahead_s = self._clock_ahead_s, time.time() - time.monotonic()
        return self._clock_ahead_s < before - CLOCK_STEP_S

    def _has_grown(self, topic: TopicInfo | None) -> bool:
        if topic is None:
            return False
        if topic.generation != self._plan.generation:
            raise made_again(self._plan.source.topic)
        added = sorted(topic.partitions.keys() - self._plan.resume.keys())
        if added:
            log.info("partitions_added", source=self._plan.source.name, partitions=added)
        return bool(added)

    def _resumed(self, partition: int) -> PartitionProgress:
        fence: Fence = self._plan.resume[partition]
        return PartitionProgress(partition, fence.next_offset, fence.next_offset, fence.max_event_time_us)

    def _observe(self, poll: SourcePoll) -> None:
        for batch in poll.batches:
            self._events += len(batch.offsets)
        for progress in poll.progress:
            self._offsets[progress.partition] = progress.next_offset
        self._metrics.observe_poll(self._plan.source.name, poll, self._plan.source.max_out_of_orderness_us)

    def _report(self, now: float, *, last: bool = False) -> None:
        if not last and now - self._reported_at < REPORT_EVERY_S:
            return
        lag = self._reader.lag()
        self._metrics.observe_lag(self._plan.source.name, lag)
        self._reader.commit_for_tools(self._offsets)
        log.info(
            "progress" if not last else "source_closed",
            source=self._plan.source.name,
            events=self._events,
            events_per_s=round(self._events / max(now - self._started_at, 1e-9)),
            lag=sum(lag.values()),
        )
        self._reported_at = now
