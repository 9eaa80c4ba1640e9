"""What a run of worker processes needs to know, decided once before they start, as plain data."""

from __future__ import annotations

from pathlib import Path

import msgspec

from featurestore.compile.view import CompiledView, compile_view
from featurestore.definitions.specs import SourceSpec, ViewSpec
from featurestore.shard.protocol import Fence
from featurestore.sources.epochs import EarlierSource


class ViewPlan(msgspec.Struct, frozen=True):
    """A view version as the registry has it, and the fences it starts with where a shard has none, by partition."""

    spec: ViewSpec
    view_id: int
    version: int
    initial: dict[int, Fence]

    @property
    def reference(self) -> str:
        """ "view@version"."""
        return f"{self.spec.name}@{self.version}"

    def compile(self, source: SourceSpec) -> CompiledView:
        """The version, compiled. source: that it reads."""
        return compile_view(self.spec, source, view_id=self.view_id, version=self.version)


class ArchivePlan(msgspec.Struct, frozen=True):
    """An archive to read instead of a topic. root: of the offline store; ends: how far to read, by partition."""

    root: str
    ends: dict[int, Fence]


class SourcePlan(msgspec.Struct, frozen=True):
    """One source's share of a run.

    resume: by partition, the pair to read on from; the least over shards, views and archive. archive_start: where the
    archive begins for a partition that has no file yet. stop_at: recorded ends of a bounded run. archive: read this
    instead of the topic, and write no archive. earlier: definitions of the source that decide about messages before
    some offset, the oldest first. read_from: of partitions with an accepted gap at `resume`, the offset behind it;
    offsets_lost: by partition, how many were ever left out so.
    """

    source: SourceSpec
    views: tuple[ViewPlan, ...]
    generation: str
    incarnation: str
    shards: int
    resume: dict[int, Fence]
    archive_start: dict[int, Fence]
    stop_at: dict[int, int] | None
    archive: ArchivePlan | None = None
    earlier: tuple[EarlierSource, ...] = ()
    read_from: dict[int, int] = {}
    offsets_lost: dict[int, int] = {}


class RunPlan(msgspec.Struct, frozen=True):
    """One run. base_dir: of the project. run_id: unique for each start of the cluster. log_level: of the children's
    logs. drain_marker, replan_marker: files whose presence ends every process: for good, or to be
    started again with a new plan. metrics_dir: where each process keeps writing its metrics for a live display, None
    without one. accept_gap: leave out what the broker has no more. planned_at_ns: by the clock of the run.
    """

    base_dir: str
    run_id: str
    bootstrap_servers: str
    close_windows: bool
    drain_marker: str
    replan_marker: str
    log_level: str
    sources: tuple[SourcePlan, ...]
    metrics_dir: str | None = None
    accept_gap: bool = False
    planned_at_ns: int = 0

    @property
    def reads_archive(self) -> bool:
        """Whether it is a backfill's: its processes need not hear of each other."""
        return all(source.archive is not None for source in self.sources)

    def drain_requested(self) -> bool:
        """Whether a signal to any process asked all of them to finish."""
        return Path(self.drain_marker).exists()

    def request_replan(self) -> None:
        """Ask all processes to finish what they have read and to be started again: the topics have changed."""
        Path(self.replan_marker).touch()

    def replan_requested(self) -> bool:
        """Whether a process asked for a new plan."""
        return Path(self.replan_marker).exists()


def write_plan(plan: RunPlan, path: Path) -> None:
    """Write a plan for child processes."""
    path.write_bytes(msgspec.json.encode(plan))


def read_plan(path: Path) -> RunPlan:
    """Read what `write_plan` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=RunPlan)
