"""`featurestore backfill`: fill views that have never run from the archive, beside the worker that runs the others.

The workers of a run do it, in a data_dir of their own (`staging.py`) and with the archive in place of the topic
(`archive_task.py`), so that the rows are those of a live view that had been there from the beginning. It ends at exact
offsets; from there the next run goes on (`take_in.py`).
"""

from __future__ import annotations

from pathlib import Path

import structlog

from featurestore.config import Settings
from featurestore.definitions.discover import load_definitions
from featurestore.definitions.resolve import resolve_all
from featurestore.errors import StoreLockedError
from featurestore.offline.archive_reader import archived_generations
from featurestore.online.source_store import lock_source, read_store_info
from featurestore.registry import Registry
from featurestore.registry.jobs import OffsetRange
from featurestore.worker.archive_run import ArchiveRun, ArchiveRunOptions
from featurestore.worker.backfill_plan import (
    BackfillOptions,
    SourceBackfill,
    begun_behind,
    choose_views,
    in_the_way,
    look_at_source,
)
from featurestore.worker.prepare import RegisteredSource
from featurestore.worker.process import drain_marker
from featurestore.worker.record import recorded
from featurestore.worker.staging import (
    FORMAT_VERSION,
    StagedView,
    Staging,
    clear_staging,
    read_staging,
    staging_dir,
    write_staging,
)
from featurestore.worker.take_in import staged_references, staged_views, take_in_backfill

log = structlog.get_logger()


def plan_backfill(settings: Settings, options: BackfillOptions) -> list[SourceBackfill]:
    """What a backfill would read. Nothing is written, unless definitions are applied. Errors as `backfill`."""
    sources, registry = choose_views(settings, options)
    return [look_at_source(settings, source, registry) for source in sources]


def backfill(settings: Settings, options: BackfillOptions) -> list[SourceBackfill]:
    """Fill the views, source by source, and take them in where no worker holds the source.

    A signal drains it; called again it goes on, and a finished one that waits for the worker's next start catches up.
    Raises BackfillError when a view has begun already, when nothing is archived, or when another backfill of the source
    is in the way; StoreLockedError when it is being run; PlanRequiredError when definitions are not applied.
    """
    sources, registry = choose_views(settings, options)
    done: list[SourceBackfill] = []
    try:
        with (
            drain_marker() as marker,
            recorded("backfill", settings, registry.database, sources) as record,
        ):
            record.filling()
            for source in sources:
                if marker.exists():
                    break
                done.append(_Backfill(settings, options, source, registry, marker).run())
                record.job.offsets += _read_offsets(settings, source, registry, done[-1])
            record.job.rows = sum(o.end - o.first for o in record.job.offsets if o.end is not None)
            if marker.exists():
                record.job.fail("stopped by a signal; the same command goes on from there")
    finally:
        registry.close()
    return done


def _read_offsets(
    settings: Settings, source: RegisteredSource, registry: Registry, done: SourceBackfill
) -> tuple[OffsetRange, ...]:
    """What a source's backfill has read; of one that was stopped, as far as a look at it shows now."""
    left = () if done.finished else look_at_source(settings, source, registry).to_read
    reached = {(extent.generation, extent.partition): extent.first for extent in left}
    return tuple(
        OffsetRange(done.source, e.generation, e.partition, e.first, reached.get((e.generation, e.partition), e.end))
        for e in done.to_read
    )


def abandon(settings: Settings, options: BackfillOptions) -> list[str]:
    """Give up the backfills of the modules' sources; their names. Raises StoreLockedError when one is being run."""
    resolved = resolve_all(load_definitions(options.modules, options.base_dir), options.base_dir)
    data_dir = Path(settings.store.data_dir)
    given_up = []
    for source in sorted({view.source for view in resolved.views.values()}):
        if read_staging(data_dir, source) is not None:
            lock = lock_source(staging_dir(data_dir, source), source)
            try:
                clear_staging(data_dir, source)
            finally:
                lock.release()
            given_up.append(source)
    return given_up


class _Backfill:
    """The backfill of one source."""

    def __init__(
        self,
        settings: Settings,
        options: BackfillOptions,
        registered: RegisteredSource,
        registry: Registry,
        marker: Path,
    ) -> None:
        self._data_dir = Path(settings.store.data_dir)
        self._source = registered.source
        self._staged = staging_dir(self._data_dir, self._source.name)
        self._settings = settings
        self._registered = registered
        self._registry = registry
        self._marker = marker
        self._views = registered.compile()
        info = read_store_info(self._data_dir, self._source.name)
        assert info is not None, "what is archived has a store"
        run = ArchiveRunOptions(
            options.base_dir, options.processes, options.log_level, options.metrics_dir, options.stderr
        )
        self._run = ArchiveRun(settings, run, self._source, self._staged, info.shards, marker)

    def run(self) -> SourceBackfill:
        name = self._source.name
        lock = lock_source(self._staged, name, wait_s=0.5)
        try:
            report = look_at_source(self._settings, self._registered, self._registry)
            self._begin()
            for generation in archived_generations(self._data_dir / "offline", name):
                if not self._marker.exists():
                    self._run.read(generation, self._views, [lock.descriptor])
            if self._marker.exists():
                log.info("backfill_interrupted", source=name)
                return report
            write_staging(self._data_dir, self._staging(whole=True))
            rows = self._take_in()
        finally:
            lock.release()
        return SourceBackfill(name, report.views, report.to_read, True, rows is not None, rows or {}, report.partial)

    def _staging(self, *, whole: bool) -> Staging:
        views = tuple(StagedView(view.name, view.view_id, view.version) for view in self._views)
        return Staging(FORMAT_VERSION, self._source.name, views, whole)

    def _begin(self) -> None:
        """Start anew or go on with what is there."""
        staging = read_staging(self._data_dir, self._source.name)
        if staging is None or staged_views(staging, self._registry) is None:
            clear_staging(self._data_dir, self._source.name)
        elif not staging.taken and begun_behind(self._data_dir, self._source.name, self._views):
            log.info("backfill_begins_anew", source=self._source.name, reason="older history was imported meanwhile")
            clear_staging(self._data_dir, self._source.name)
        elif staged_references(staging) != {view.reference for view in self._views}:
            raise in_the_way(staging)
        write_staging(self._data_dir, self._staging(whole=False))

    def _take_in(self) -> dict[str, int] | None:
        """Rows by view; None when a worker holds the source: it takes them in when it starts the next time."""
        try:
            lock = lock_source(self._data_dir, self._source.name, wait_s=0.5)
        except StoreLockedError:
            return None
        try:
            return take_in_backfill(self._data_dir, self._source.name, self._registry)
        finally:
            lock.release()
