"""Runs the workers over a source's archive instead of its topic, into a data_dir of its own."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featurestore.compile.view import CompiledView
from featurestore.config import Settings
from featurestore.definitions.specs import SourceSpec
from featurestore.offline.archive_reader import ArchivedGeneration
from featurestore.offline.snapshots import finish_recovery
from featurestore.online.source_store import open_source_store
from featurestore.online.steps import whole_step
from featurestore.shard.protocol import Fence, fence_key
from featurestore.sources.topics import TopicInfo
from featurestore.worker.plan import ArchivePlan, RunPlan, SourcePlan, ViewPlan
from featurestore.worker.prepare import holds_outbox, outbox_dirs, read_archive_starts, read_fences, recover_outbox
from featurestore.worker.process import run_process, show_metrics
from featurestore.worker.resume import resume_points
from featurestore.worker.supervisor import supervise

MAX_RESTARTS = 5
"""Such a run is waited for: what fails so often at the same place is told."""


@dataclass(frozen=True)
class ArchiveRunOptions:
    """base_dir: of the project; the others as in `RunOptions`."""

    base_dir: Path
    processes: int = 1
    log_level: str = "info"
    metrics_dir: Path | None = None
    stderr: int | None = None


class ArchiveRun:
    """Brings stores in `staged` to the end of a source's archive.

    data_dir: with the archive. staged: with the stores to fill, shards: how many they have. marker: a file whose
    presence drains it. Called again it goes on where it was.
    """

    def __init__(
        self,
        settings: Settings,
        options: ArchiveRunOptions,
        source: SourceSpec,
        staged: Path,
        shards: int,
        marker: Path,
    ) -> None:
        self._data_dir = Path(settings.store.data_dir)
        store = settings.store.model_copy(update={"data_dir": staged})
        worker = settings.worker.model_copy(update={"metrics_port": 0})  # the running worker has the port
        self._settings = settings.model_copy(update={"store": store, "worker": worker})
        self._options = options
        self._source = source
        self._staged = staged
        self._shards = shards
        self._marker = marker

    def read(self, generation: ArchivedGeneration, views: Sequence[CompiledView], locks: Sequence[int]) -> None:
        """Bring the views to the end of one generation. locks: descriptors that children inherit."""

        def make_plan() -> RunPlan:
            run_id = uuid.uuid4().hex[:8]
            options = self._options
            return RunPlan(
                base_dir=str(options.base_dir),
                run_id=run_id,
                bootstrap_servers="",
                close_windows=False,
                drain_marker=str(self._marker),
                replan_marker=str(self._marker.with_name(f"replan-{run_id}")),
                log_level=options.log_level,
                sources=(self._plan(generation, views),),
                metrics_dir=None if options.metrics_dir is None else str(options.metrics_dir),
            )

        plan = make_plan()
        if _all_read(plan.sources[0]) and not holds_outbox(self._staged, self._source.name, plan.sources[0].shards):
            return
        if self._options.processes == 1:
            run_process(plan, self._settings, show_metrics(plan, self._settings, 0))
            return
        plans = iter([plan])
        supervise(
            lambda: next(plans, None) or make_plan(),
            self._settings,
            self._options.processes,
            locks,
            draining=self._marker.exists,
            stderr=self._options.stderr,
            max_restarts=MAX_RESTARTS,
        )

    def _plan(self, generation: ArchivedGeneration, views: Sequence[CompiledView]) -> SourcePlan:
        name = self._source.name
        info = open_source_store(self._staged, name, self._shards)
        first = _first(self._data_dir, name, generation)
        initial = {view.reference: first for view in views}
        spans = {p: (fence.next_offset, generation.ends[p].next_offset) for p, fence in first.items()}
        topic = TopicInfo(generation.generation, spans)
        with whole_step(self._staged):
            covered = recover_outbox(self._staged, name)
            fences = read_fences(self._staged, name, info.shards, views, topic, initial, covered)
            for folder in outbox_dirs(self._staged, name):
                finish_recovery(folder)
        ends = {p: Fence(end.next_offset, end.max_event_time_us) for p, end in generation.ends.items()}
        return SourcePlan(
            source=self._source,
            views=tuple(ViewPlan(view.spec, view.view_id, view.version, first) for view in views),
            generation=generation.generation,
            incarnation=info.incarnation,
            shards=info.shards,
            resume=resume_points(fences, {}, {p: candidates[0] for p, candidates in fences.items()}),
            archive_start={},
            stop_at={p: end.next_offset for p, end in ends.items()},
            archive=ArchivePlan(str(self._data_dir / "offline"), ends),
        )


def _all_read(plan: SourcePlan) -> bool:
    assert plan.archive is not None
    return all(fence.next_offset >= plan.archive.ends[p].next_offset for p, fence in plan.resume.items())


def _first(data_dir: Path, source: str, generation: ArchivedGeneration) -> dict[int, Fence]:
    """Where each partition of the archive begins, with the largest event time before it where that is known."""
    stored = read_archive_starts(data_dir, source)
    first = {}
    for partition, start in generation.first.items():
        known = stored.get(fence_key(generation.generation, partition))
        same = known is not None and known.next_offset == start.next_offset
        first[partition] = known if known is not None and same else Fence(start.next_offset, start.max_event_time_us)
    return first
