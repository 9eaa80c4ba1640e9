"""`featurestore rebuild`: make a source's online store again from the archive, also when the old one can't be opened.

    1. the archive is read through the workers' own code into a store beside the old one     rebuild/<source>/
    2. the old store is set aside, the new one takes its place                               set-aside/<time>-<source>/
    3. the next run reads the topic on from where the archive ends, at exact offsets

Snapshots that are final stay as they are, file by file. Those that the lost store could still have corrected are
replaced by the ones of the new store, whose revisions begin anew: so no row is there twice, and corrections go on from
what is there. Journals and outboxes of the old store go with it: nothing between the archive's end and the new
store's fences has been decided.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import structlog

from featurestore.batches import NO_TIME
from featurestore.compile.view import CompiledView
from featurestore.config import Settings
from featurestore.durations import format_instant
from featurestore.errors import RegistryError, StoreError, StoreFormatError, StoreFullError
from featurestore.offline.archive_reader import ArchivedGeneration, archived_extent, archived_generations
from featurestore.offline.atomic import CrashPoint, make_folder, no_crash, sync_folders
from featurestore.offline.completeness import read_marker_us, remove_marker, write_marker
from featurestore.offline.coverage import Gap, archive_gaps, archive_holes, complete_from_us
from featurestore.offline.layout import SnapshotDataset
from featurestore.offline.manifest import maintenance_lock
from featurestore.offline.replacement import Replacement, stage_replacement
from featurestore.offline.swaps import Wait, finish_swaps, swap_files
from featurestore.online import layout
from featurestore.online.reader import OnlineReader
from featurestore.online.source_store import lock_source, open_source_store, read_store_info, rebuild_dir
from featurestore.online.steps import whole_step
from featurestore.recovery.rebuilding import (
    FORMAT_VERSION,
    Exchange,
    Rebuilding,
    clear_rebuild,
    read_exchange,
    read_rebuilding,
    write_exchange,
    write_rebuilding,
)
from featurestore.recovery.restore import SET_ASIDE
from featurestore.registry import Registry
from featurestore.worker import offset_gaps
from featurestore.worker.archive_run import ArchiveRun, ArchiveRunOptions
from featurestore.worker.backfill_plan import PartialView, partial_view
from featurestore.worker.prepare import RegisteredSource, read_archive_starts
from featurestore.worker.process import drain_marker

log = structlog.get_logger()


@dataclass(frozen=True)
class RebuildOptions:
    """snapshots: replace final snapshots too, as far as the archive goes back. grace_s: how long replaced files stay
    for readers that have listed them. wait: sleeps so many seconds. run: of the workers.
    """

    run: ArchiveRunOptions
    snapshots: bool = False
    grace_s: float = 30.0
    wait: Wait = time.sleep
    crash_point: CrashPoint = no_crash


@dataclass(frozen=True)
class RebuiltSource:
    """What was made of a source. events: that were read, at most. entities: rows of each "view@version".

    finished: False when a signal stopped it. set_aside: where the old store and the replaced snapshot files lie, None
    where none were. partial: views whose windows reach before what is archived. holes: what is missing in the middle
    of the archive. damaged: snapshot files that could not be read; their rows are those of the archive now.
    """

    source: str
    views: tuple[str, ...]
    events: int
    finished: bool = False
    entities: dict[str, int] = field(default_factory=dict)
    snapshot_rows: int = 0
    set_aside: str | None = None
    partial: tuple[PartialView, ...] = ()
    holes: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


def rebuild(
    settings: Settings, registry: Registry, sources: Sequence[str], options: RebuildOptions
) -> list[RebuiltSource]:
    """Rebuild the online stores of sources, one after another. No worker may run them.

    A signal drains it, and called again it goes on; a killed one likewise. Raises StoreError when no view has run,
    StoreFormatError naming an archive file that is damaged, StoreLockedError when a worker runs, StoreFullError.
    """
    chosen = [_of_source(registry, name) for name in sources]
    done: list[RebuiltSource] = []
    with drain_marker() as marker:
        for source in chosen:
            done.append(_Rebuild(settings, options, source, marker).run())
            if marker.exists():
                break
    return done


def _of_source(registry: Registry, name: str) -> RegisteredSource:
    views = registry.live_views()
    found = {view.name: view.spec.source for view in views}
    if name in found and name not in found.values():
        raise RegistryError(
            f"'{name}' is a view: the views of a source share one store, which is rebuilt as a whole",
            hint=f"featurestore rebuild {found[name]}",
        )
    return RegisteredSource(registry.source(name), tuple(view for view in views if view.spec.source == name))


class _Rebuild:
    """The rebuild of one source."""

    def __init__(self, settings: Settings, options: RebuildOptions, registered: RegisteredSource, marker: Path) -> None:
        self._settings = settings
        self._options = options
        self._registered = registered
        self._source = registered.source
        self._marker = marker
        self._point = options.crash_point
        self._data_dir = Path(settings.store.data_dir)
        self._offline = self._data_dir / "offline"
        self._store = layout.source_dir(self._data_dir, self._source.name)
        self._staged = rebuild_dir(self._data_dir, self._source.name)

    def run(self) -> RebuiltSource:
        name = self._source.name
        lock = lock_source(self._data_dir, name, wait_s=0.5, mending=True)
        try:
            staged_lock = lock_source(self._staged, name, wait_s=0.5)
            try:
                return self._run([lock.descriptor, staged_lock.descriptor])
            finally:
                staged_lock.release()
        finally:
            lock.release()

    def _run(self, locks: Sequence[int]) -> RebuiltSource:
        name = self._source.name
        generations = archived_generations(self._offline, name)
        self._move_damaged_starts()
        begun = self._begin(generations)
        views = [view for view in self._registered.compile() if view.reference in begun.reads]
        report = self._report(generations, views)
        exchange = read_exchange(self._data_dir, name)
        if exchange is None:
            # Where nothing is archived yet it stays empty, and the next run reads the topic from its beginning.
            open_source_store(self._staged, name, self._shards())
            run = ArchiveRun(
                self._settings, self._options.run, self._source, self._staged, self._shards(), self._marker
            )
            for generation in generations:
                mine = [view for view in views if generation.generation in begun.reads[view.reference]]
                if mine and not self._marker.exists():
                    run.read(generation, mine, locks)
            if self._marker.exists():
                log.info("rebuild_interrupted", source=name)
                return report
        replaced = Replacement()
        with whole_step(self._data_dir), maintenance_lock(self._offline):
            if exchange is None or not exchange.snapshots_done:
                exchange = self._exchange_snapshots(exchange, views, replaced)
            aside = self._exchange_store(exchange)
            entities = self._entities(views)
            clear_rebuild(self._data_dir, name)
        log.info("rebuilt", source=name, entities=entities)
        return replace(
            report,
            finished=True,
            entities=entities,
            snapshot_rows=replaced.rows,
            set_aside=aside,
            damaged=tuple(str(path) for path in replaced.damaged),
        )

    def _begin(self, generations: Sequence[ArchivedGeneration]) -> Rebuilding:
        """Go on with what is there, or begin anew."""
        begun = read_rebuilding(self._data_dir, self._source.name)
        live = {view.reference for view in self._registered.views}
        names = {one.generation for one in generations}
        if begun is not None and read_exchange(self._data_dir, self._source.name) is not None:
            return begun
        reads = self._wanted(generations)
        if begun is None or begun.reads != reads or not names >= {g for read in reads.values() for g in read}:
            clear_rebuild(self._data_dir, self._source.name)
        if not reads:
            raise StoreError(
                f"no view of source '{self._source.name}' has run yet"
                if live
                else f"no view reads '{self._source.name}'",
                hint="there is nothing to make again: featurestore run MODULE",
            )
        begun = Rebuilding(FORMAT_VERSION, self._source.name, reads)
        write_rebuilding(self._data_dir, begun)
        return begun

    def _wanted(self, generations: Sequence[ArchivedGeneration]) -> dict[str, list[str]]:
        """By view, the generations of the archive that it holds as far as the old store tells, else all."""
        views = self._registered.compile()
        every = [one.generation for one in generations]
        try:
            reader = OnlineReader(self._data_dir, self._source.name)
            try:
                reader.refresh()
                known = {
                    view.reference: {key.rpartition("/")[0] for state in reader.states(view) for key in state.fences}
                    for view in views
                }
            finally:
                reader.close()
        except (StoreError, msgspec.DecodeError) as error:
            log.warning("old_store_unreadable", source=self._source.name, error=str(error).split("\n")[0])
            return {view.reference: every for view in views}
        # A view that has never run begins by itself, where it says.
        return {
            reference: [one for one in every if one in generations_of_view]
            for reference, generations_of_view in known.items()
            if generations_of_view
        }

    def _shards(self) -> int:
        """How many the new store gets: as many as the old one, as far as that can be told."""
        for data_dir in (self._data_dir, self._staged):
            try:
                info = read_store_info(data_dir, self._source.name)
            except StoreFormatError:
                continue
            if info is not None:
                return info.shards
        return len(list(self._store.glob("shard-*"))) or self._settings.store.shards

    def _report(self, generations: Sequence[ArchivedGeneration], views: Sequence[CompiledView]) -> RebuiltSource:
        name = self._source.name
        events = sum(
            archived_extent(self._offline, name, one.generation, p, start.next_offset, one.ends[p].next_offset)[0]
            for one in generations
            for p, start in one.first.items()
        )
        holes = archive_holes(self._offline, name)
        gaps = [*archive_gaps(self._offline, name)]
        if holes:
            gaps.append(Gap(None, max([hole.until_us for hole in holes] + [gap.to_us for gap in gaps]) + 1))
        told = tuple(
            f"partition {hole.partition}, offsets {hole.first:,} to {hole.end - 1:,}, events before "
            f"{format_instant(hole.until_us)}"
            for hole in holes
        )
        partial = tuple(partial_view(view, gaps) for view in views if gaps)
        return RebuiltSource(name, tuple(view.reference for view in views), events, partial=partial, holes=told)

    def _wait(self, seconds: float) -> None:
        log.info("waiting_for_readers", seconds=seconds)
        self._options.wait(seconds)

    def _exchange_snapshots(
        self, exchange: Exchange | None, views: Sequence[CompiledView], replaced: Replacement
    ) -> Exchange:
        """Swap in the new store's snapshots behind what stays, and say up to where all is final."""
        root, grace_s = self._offline, self._options.grace_s
        finish_swaps(root, grace_s=grace_s, wait=self._wait)
        if exchange is None:
            exchange = self._planned(views)
        try:
            for view in views:
                for dataset in view.datasets:
                    stage_replacement(
                        root,
                        self._staged / "offline",
                        SnapshotDataset(view.name, view.version, dataset.name),
                        exchange.kept_us[view.reference],
                        replaced,
                        drop_damaged=self._options.snapshots,
                    )
        except (StoreFormatError, StoreFullError):
            replaced.discard(root)
            raise
        self._point("staged")
        write_exchange(self._data_dir, self._source.name, exchange)
        self._point("exchange_begun")
        self._keep(replaced, self._data_dir / exchange.set_aside / "offline")
        for view in views:
            # No claim on what is about to be replaced.
            kept_us = exchange.kept_us[view.reference]
            if (read_marker_us(root, view.name, view.version) or NO_TIME) > kept_us:
                if kept_us == NO_TIME:
                    remove_marker(root, view.name, view.version)
                else:
                    write_marker(root, view.name, view.version, kept_us)
            self._point("marker_taken_back")
        swap_files(root, replaced.swaps, grace_s=grace_s, wait=self._wait, crash_point=self._point)
        for view in views:
            line_us = exchange.lines_us[view.reference]
            if line_us != NO_TIME:
                write_marker(root, view.name, view.version, line_us)
        done = msgspec.structs.replace(exchange, snapshots_done=True)
        write_exchange(self._data_dir, self._source.name, done)
        self._point("snapshots_exchanged")
        return done

    def _keep(self, replaced: Replacement, aside: Path) -> None:
        """Second names for the snapshot files that are about to go: should the topic not bring their rows again."""
        for swap in replaced.swaps:
            for name in swap.replaced:
                make_folder(aside / swap.folder)
                with suppress(FileExistsError):
                    os.link(self._offline / swap.folder / name, aside / swap.folder / name)
        sync_folders(path for path in [aside, *aside.rglob("*")] if path.is_dir())

    def _planned(self, views: Sequence[CompiledView]) -> Exchange:
        """Which snapshots stay: those that the old store said are final, as far as the new one says so too."""
        reader = OnlineReader(self._staged, self._source.name)
        try:
            reader.refresh()
            lines = {
                view.reference: min((state.line_us for state in reader.states(view)), default=NO_TIME) for view in views
            }
        finally:
            reader.close()
        kept = {}
        gaps = archive_gaps(self._offline, self._source.name)
        for view in views:
            marker_us = self._marker_us(view)
            kept_us = min(marker_us, lines[view.reference])
            if self._options.snapshots:
                complete_us = complete_from_us(view.groups, gaps[-1]) if gaps else NO_TIME
                kept_us = kept_us if complete_us is None else min(kept_us, complete_us)
            kept[view.reference] = kept_us
        now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        return Exchange(f"{SET_ASIDE}/{now}-{self._staged.name}", kept, lines)

    def _marker_us(self, view: CompiledView) -> int:
        try:
            return read_marker_us(self._offline, view.name, view.version) or NO_TIME
        except StoreFormatError:
            # Nothing is known to be final then.
            return NO_TIME

    def _exchange_store(self, exchange: Exchange) -> str | None:
        """Where the old store lies now, None where there was none."""
        name = self._source.name
        new = layout.source_dir(self._staged, name)
        aside = self._data_dir / exchange.set_aside
        if (new / "store.json").exists():
            if self._store.exists():
                self._keep_notes(new)
                make_folder(aside)
                # A shell is what locking makes where the old one has been moved already.
                self._store.replace(aside / ("online" if not (aside / "online").exists() else f"lock-{os.getpid()}"))
                sync_folders([aside, self._store.parent])
                self._point("store_set_aside")
            new.replace(self._store)
            sync_folders([self._store.parent, new.parent])
            self._point("store_in_place")
        return str(aside) if aside.exists() else None

    def _move_damaged_starts(self) -> None:
        try:
            read_archive_starts(self._data_dir, self._source.name)
        except StoreFormatError as error:
            log.warning("archive_starts_unreadable", source=self._source.name, error=error.message)
            path = self._store / "archive_starts.json"
            path.replace(path.with_suffix(".damaged"))

    def _keep_notes(self, new: Path) -> None:
        """Where the archive of each partition began, and what it was told to go on without, is older than any store."""
        if read_archive_starts(self._data_dir, self._source.name):
            shutil.copyfile(self._store / "archive_starts.json", new / "archive_starts.json")
        if (self._store / offset_gaps.FILE_NAME).exists():
            shutil.copyfile(self._store / offset_gaps.FILE_NAME, new / offset_gaps.FILE_NAME)

    def _entities(self, views: Sequence[CompiledView]) -> dict[str, int]:
        reader = OnlineReader(self._data_dir, self._source.name)
        try:
            reader.refresh()
            return {view.reference: sum(state.counts.entities for state in reader.states(view)) for view in views}
        finally:
            reader.close()
