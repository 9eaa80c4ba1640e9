"""`featurestore run`: check the definitions against the registry, then run the workers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from featurestore.config import Settings
from featurestore.definitions.discover import load_definitions
from featurestore.definitions.governance import require_owners
from featurestore.definitions.resolve import ResolvedDefinitions, resolve_all
from featurestore.definitions.specs import SourceSpec
from featurestore.errors import DefinitionError, PlanRequiredError, SourceError
from featurestore.online.source_store import SourceLock
from featurestore.registry import Registry
from featurestore.registry.review import review
from featurestore.shard.protocol import Fence
from featurestore.sources.clock import SteadyClock
from featurestore.sources.embedded import resolve_bootstrap
from featurestore.sources.epochs import EarlierSource
from featurestore.worker.plan import RunPlan, SourcePlan
from featurestore.worker.prepare import RegisteredSource, lock_sources, plan_source
from featurestore.worker.process import drain_marker, run_process, show_metrics
from featurestore.worker.record import noting, recorded
from featurestore.worker.source_changes import settle_source_changes
from featurestore.worker.supervisor import supervise
from featurestore.worker.take_in import settle_backfill

log = structlog.get_logger()


@dataclass(frozen=True)
class RunOptions:
    """How to run. until_end: stop at the topics' present ends. close_windows: emit open windows at that end.
    accept_gap: leave out, and count, what the broker has removed before it was read.

    apply: write changed definitions to the registry first; revision: of git, that they are of. log_level: of child
    processes. metrics_dir: where processes keep writing their metrics for a live display; stderr: a file descriptor for
    the log of child processes.
    """

    modules: tuple[str, ...]
    base_dir: Path
    processes: int = 1
    until_end: bool = False
    close_windows: bool = False
    apply: bool = False
    log_level: str = "info"
    metrics_dir: Path | None = None
    stderr: int | None = None
    revision: str | None = None
    accept_gap: bool = False


def run(settings: Settings, options: RunOptions) -> None:
    """Run workers until they are drained, or with `until_end` until the recorded ends.

    Raises PlanRequiredError when definitions differ from the registry and `apply` is off; ConfigError, SourceError and
    StoreError for what keeps the run from starting.
    """
    definitions = load_definitions(options.modules, options.base_dir)
    resolved = resolve_all(definitions, options.base_dir)
    if not resolved.views:
        raise DefinitionError(
            "these modules define no stream view, so there is nothing to run",
            hint=f"batch views are kept by: featurestore materialize {' '.join(options.modules)}",
        )
    with drain_marker() as marker:
        locks = lock_sources(settings, sorted({view.source for view in resolved.views.values()}))
        try:
            registry = Registry.open(settings.registry_place)
            sources = _registered(settings, registry, resolved, options)
            streaming = not options.until_end
            with recorded("run", settings, registry.database, sources, streaming=streaming) as record:
                make_plan = noting(record, _Planner(settings, options, sources, marker))
                try:
                    _work(settings, options, make_plan, locks, marker)
                except SourceError:
                    # Waiting for a broker or a topic ends with its last error when a signal comes: a drain, no failure.
                    if not marker.exists():
                        raise
                    log.info("drained_before_start")
                finally:
                    record.reached()
        finally:
            for lock in locks:
                lock.release()


def _work(
    settings: Settings,
    options: RunOptions,
    make_plan: Callable[[], RunPlan],
    locks: Sequence[SourceLock],
    marker: Path,
) -> None:
    """Run the processes until they are done or drained, with a new plan for each start."""
    if options.processes == 1:
        plan = make_plan()
        metrics = show_metrics(plan, settings, 0)
        run_process(plan, settings, metrics)
        while plan.replan_requested() and not plan.drain_requested():
            plan = make_plan()
            run_process(plan, settings, metrics)
    else:
        supervise(
            make_plan,
            settings,
            options.processes,
            [lock.descriptor for lock in locks],
            draining=marker.exists,
            stderr=options.stderr,
        )


def _registered(
    settings: Settings, registry: Registry, resolved: ResolvedDefinitions, options: RunOptions
) -> list[RegisteredSource]:
    """What to run, by source: without paused views, and those that a backfill is filling."""
    data_dir = Path(settings.store.data_dir)
    if options.apply and settings.registry.require_owner:
        require_owners(resolved)
    in_use_days = settings.registry.in_use_days
    sources = registered_views(
        registry, resolved, apply=options.apply, in_use_days=in_use_days, revision=options.revision
    )
    left_out: dict[str, str] = {}
    for name, since in sorted(registry.paused().items()):
        if name in resolved.views:
            log.warning("view_paused", view=name, since=since.isoformat())
            left_out[name] = f"take it in again: featurestore view resume {name}"
    for source in sources:
        for reference in sorted(settle_backfill(data_dir, source.source.name, registry)):
            log.warning("view_in_backfill", view=reference)
            left_out[reference] = "finish the backfill, or give it up: featurestore backfill MODULE --abandon"
    kept = [
        RegisteredSource(
            source.source, tuple(view for view in source.views if not {view.name, view.reference} & left_out.keys())
        )
        for source in sources
    ]
    if not any(source.views for source in kept):
        raise PlanRequiredError(
            "every view of these modules is paused or being backfilled", hint=next(iter(left_out.values()))
        )
    return [source for source in kept if source.views]


def registered_views(
    registry: Registry, resolved: ResolvedDefinitions, *, apply: bool, in_use_days: int, revision: str | None
) -> list[RegisteredSource]:
    """The deployed views of these definitions, by source.

    All versions that are computed, of each view. apply: write what has changed first, served at once but for batch
    views, which a run does not fill; without it changed definitions raise PlanRequiredError, which shows the plan, and
    with it what would break something in use raises BreakingChangeError.
    """
    reviewed = review(registry, registry.plan(resolved), in_use_days)
    if reviewed.plan.has_changes:
        if not apply:
            raise PlanRequiredError(
                f"the definitions differ from what is applied:\n{reviewed.render()}",
                hint="review it, then run `featurestore apply`, or this command with --apply",
            )
        reviewed.refuse_breaking()
        registry.apply(reviewed.plan, revision=revision, promote="view")
    views = [view for view in registry.live_views() if view.name in resolved.views]
    return [
        RegisteredSource(registry.source(name), tuple(view for view in views if view.spec.source == name))
        for name in sorted({view.spec.source for view in views})
    ]


class _Planner:
    """Makes the plan of each start of the cluster. A bounded run keeps the ends that its first start recorded."""

    def __init__(
        self, settings: Settings, options: RunOptions, sources: Sequence[RegisteredSource], marker: Path
    ) -> None:
        self._settings = settings
        self._options = options
        self._sources = sources
        self._marker = marker
        self._clock = SteadyClock()
        self._recorded: dict[tuple[str, str], dict[int, int] | None] = {}
        self._earlier: dict[tuple[str, str], tuple[EarlierSource, ...]] = {}

    def __call__(self) -> RunPlan:
        settings, options, stop = self._settings, self._options, self._marker.exists
        bootstrap = resolve_bootstrap(settings.kafka.bootstrap_servers, Path(settings.store.data_dir), stop=stop)
        run_id = uuid.uuid4().hex[:8]
        return RunPlan(
            base_dir=str(options.base_dir),
            run_id=run_id,
            bootstrap_servers=bootstrap,
            close_windows=options.close_windows,
            drain_marker=str(self._marker),
            replan_marker=str(self._marker.with_name(f"replan-{run_id}")),
            log_level=options.log_level,
            sources=tuple(self._plan(source) for source in self._sources),
            metrics_dir=None if options.metrics_dir is None else str(options.metrics_dir),
            accept_gap=options.accept_gap,
            planned_at_ns=self._clock(),
        )

    def _plan(self, source: RegisteredSource) -> SourcePlan:
        plan = plan_source(
            self._settings,
            source,
            self._earlier_sources,
            until_end=self._options.until_end,
            accept_gap=self._options.accept_gap,
            stop=self._marker.exists,
        )
        ends = self._recorded.setdefault((plan.source.name, plan.generation), plan.stop_at)
        return msgspec.structs.replace(plan, stop_at=ends)

    def _earlier_sources(
        self, source: SourceSpec, generation: str, resume: Mapping[int, Fence], decided: Mapping[int, int]
    ) -> tuple[EarlierSource, ...]:
        """As the registry has them; asked once, so that a run starts its workers again while the registry is down."""
        known = self._earlier.get((source.name, generation))
        if known is None:
            registry = Registry.open(self._settings.registry_place)
            try:
                known = settle_source_changes(registry.source_changes, source, generation, resume, decided)
            finally:
                registry.close()
            self._earlier[source.name, generation] = known
        return known
