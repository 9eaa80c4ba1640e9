"""The record of a run or backfill: a job in the registry with its offsets, and lineage events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from featurestore.config import Settings
from featurestore.errors import FeatureStoreError
from featurestore.lineage_events import LineageRun, lineage_of
from featurestore.lineage_events.datasets import Dataset, archive_dataset, topic_dataset, view_datasets
from featurestore.online.reader import OnlineReader
from featurestore.registry.database import Database
from featurestore.registry.jobs import JobRecord, Jobs, Kind, OffsetRange, definitions_hash, last_revision
from featurestore.shard.protocol import fence_key
from featurestore.worker.plan import RunPlan, SourcePlan
from featurestore.worker.prepare import RegisteredSource

log = structlog.get_logger()


class Record:
    """A job under way, and what it reads and writes."""

    def __init__(
        self, job: JobRecord, events: LineageRun, settings: Settings, sources: Sequence[RegisteredSource]
    ) -> None:
        self.job = job
        self._events = events
        self._settings = settings
        self._sources = sources
        self._plans: dict[tuple[str, str], SourcePlan] = {}
        self._first: dict[tuple[str, str, int], int] = {}

    def planned(self, plan: RunPlan) -> None:
        """A start of the workers: from where they read on. Of several the first counts, partition by partition."""
        for source in plan.sources:
            self._plans[source.source.name, source.generation] = source
            for partition, fence in source.resume.items():
                self._first.setdefault((source.source.name, source.generation, partition), fence.next_offset)
        self._tell({})
        self._events.describe(lambda: self._datasets(plan.bootstrap_servers))

    def filling(self) -> None:
        """A backfill begins: it reads the archive."""
        self._events.describe(lambda: self._datasets(None))

    def reached(self) -> None:
        """Take from the stores how far a run came. Called when its processes have ended."""
        ends: dict[tuple[str, str, int], int] = {}
        for (name, generation), plan in self._plans.items():
            try:
                ends |= {(name, generation, p): end for p, end in self._fences(plan).items()}
            except FeatureStoreError as error:
                log.warning("job_offsets_unknown", source=name, error=error.message)
        self._tell(ends)

    def _fences(self, plan: SourcePlan) -> dict[int, int]:
        """By partition, what every view and shard has applied."""
        reader = OnlineReader(Path(self._settings.store.data_dir), plan.source.name)
        try:
            reader.refresh()
            states = [state for view in plan.views for state in reader.states(view.compile(plan.source))]
        finally:
            reader.close()
        ends: dict[int, int] = {}
        for partition in plan.resume:
            key = fence_key(plan.generation, partition)
            offsets = [state.fences[key].next_offset for state in states if key in state.fences]
            if offsets:
                ends[partition] = min(offsets)
        return ends

    def _tell(self, ends: dict[tuple[str, str, int], int]) -> None:
        self.job.offsets = tuple(OffsetRange(*place, first, ends.get(place)) for place, first in self._first.items())
        self.job.rows = sum(end - self._first[place] for place, end in ends.items()) if ends else None

    def _datasets(self, bootstrap_servers: str | None) -> tuple[list[Dataset], list[Dataset]]:
        data_dir = Path(self._settings.store.data_dir)
        inputs, outputs = [], []
        for source in self._sources:
            spec = source.source
            if bootstrap_servers is None:
                origin = archive_dataset(data_dir, spec)
            else:
                origin = topic_dataset(spec, bootstrap_servers)
                outputs.append(archive_dataset(data_dir, spec, origin))
            inputs.append(origin)
            for view in source.views:
                outputs += view_datasets(data_dir, view.spec, view.version, spec, origin)
        return inputs, outputs


@contextmanager
def recorded(
    kind: Kind, settings: Settings, database: Database, sources: Sequence[RegisteredSource], *, streaming: bool = False
) -> Iterator[Record]:
    """Keep the record of what the block does with these views. streaming: it goes on until it is stopped."""
    views = [view for source in sources for view in source.views]
    specs = [*(source.source for source in sources), *(view.spec for view in views)]
    subject = ", ".join(view.reference for view in views)
    # A source is run by one run at a time: its name makes the job's, and each start is a run of the same job.
    name = f"{kind}.{'+'.join(source.source.name for source in sources)}"
    with (
        Jobs(database).record(
            kind, subject, definitions_hash=definitions_hash(specs), git_revision=last_revision(views)
        ) as job,
        lineage_of(job, name, streaming=streaming) as events,
    ):
        yield Record(job, events, settings, sources)


def noting(record: Record, make_plan: Callable[[], RunPlan]) -> Callable[[], RunPlan]:
    """`make_plan`, with each plan noted in the record."""

    def make() -> RunPlan:
        plan = make_plan()
        record.planned(plan)
        return plan

    return make
