"""`featurestore run`: check the definitions against the registry, then run the workers."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from featurestore.config import Settings
from featurestore.definitions.discover import load_definitions
from featurestore.definitions.resolve import ResolvedDefinitions, resolve_all
from featurestore.errors import PlanRequiredError
from featurestore.observability import create_metrics, serve_metrics
from featurestore.registry import Registry
from featurestore.sources.embedded import resolve_bootstrap
from featurestore.worker.plan import RunPlan
from featurestore.worker.prepare import RegisteredSource, lock_sources, plan_source
from featurestore.worker.process import install_drain_handlers, run_process
from featurestore.worker.supervisor import supervise

log = structlog.get_logger()


@dataclass(frozen=True)
class RunOptions:
    """How to run. until_end: stop at the topics' present ends. close_windows: emit open windows at that end."""

    modules: tuple[str, ...]
    base_dir: Path
    processes: int = 1
    until_end: bool = False
    close_windows: bool = False
    apply: bool = False


def run(settings: Settings, options: RunOptions) -> None:
    """Run workers until they are drained, or with `until_end` until the recorded ends.

    Raises PlanRequiredError when definitions differ from the registry and `apply` is off; ConfigError, SourceError and
    StoreError for what keeps the run from starting.
    """
    definitions = load_definitions(options.modules, options.base_dir)
    resolved = resolve_all(definitions, options.base_dir)
    sources = _registered(settings, resolved, apply=options.apply)
    folder = Path(tempfile.mkdtemp(prefix="featurestore-drain-"))
    marker = folder / "drain"
    install_drain_handlers(marker)
    locks = lock_sources(settings, sources)
    try:
        if options.processes == 1:
            plan = _plan(settings, options, sources, marker)
            metrics = create_metrics()
            if settings.worker.metrics_port:
                serve_metrics(settings.worker.metrics_port)
            if not plan.drain_requested():
                run_process(plan, settings, definitions, resolved.views, metrics)
        else:
            supervise(
                lambda: _plan(settings, options, sources, marker),
                settings,
                options.processes,
                [lock.descriptor for lock in locks],
                draining=marker.exists,
            )
    finally:
        for lock in locks:
            lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _registered(settings: Settings, resolved: ResolvedDefinitions, *, apply: bool) -> list[RegisteredSource]:
    registry = Registry.open(Path(settings.store.data_dir) / "registry" / "registry.db")
    plan = registry.plan(resolved)
    if plan.has_changes:
        if not apply:
            raise PlanRequiredError(
                f"the definitions differ from what is applied:\n{plan.render()}",
                hint="review it, then run `featurestore apply`, or `featurestore run --apply`",
            )
        registry.apply(plan)
    views = {view.spec.name: view for view in registry.views() if view.spec.name in resolved.views}
    return [
        RegisteredSource(
            registry.source(name), tuple(view for view in views.values() if view.spec.source == name)
        )
        for name in sorted({view.spec.source for view in views.values()})
    ]


def _plan(settings: Settings, options: RunOptions, sources: Sequence[RegisteredSource], marker: Path) -> RunPlan:
    bootstrap = resolve_bootstrap(settings.kafka.bootstrap_servers, Path(settings.store.data_dir), stop=marker.exists)
    return RunPlan(
        modules=options.modules,
        base_dir=str(options.base_dir),
        run_id=uuid.uuid4().hex[:8],
        bootstrap_servers=bootstrap,
        close_windows=options.close_windows,
        drain_marker=str(marker),
        sources=tuple(
            plan_source(settings, source, until_end=options.until_end, stop=marker.exists)
            for source in sources
        ),
    )


