"""The hand-over of a backfill: its rows and files become the view's, and the worker goes on where it ended.

Only while no run holds the source; before the first read of a run, so that it finds the view with the fences of the
backfill. All steps may be repeated: the rows are copied again as they are, files that have moved are gone from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from featurestore.compile.view import CompiledView, compile_view
from featurestore.errors import StoreLockedError
from featurestore.offline.atomic import make_folder, sync_folders
from featurestore.offline.completeness import MARKER_NAME
from featurestore.offline.layout import version_dir
from featurestore.online import layout
from featurestore.online.rocks import RocksMemory
from featurestore.online.source_store import lock_source, open_source_store
from featurestore.online.steps import whole_step
from featurestore.online.transfer import copy_view, knows_view
from featurestore.registry import Registry
from featurestore.worker.staging import Staging, clear_staging, read_staging, staging_dir, write_staging

log = structlog.get_logger()


def settle_backfill(data_dir: Path, source: str, registry: Registry) -> frozenset[str]:
    """Before a run: take in a backfill that is whole; "view@version" of those whose backfill is not, for they
    must not begin.

    The caller holds the lock of the source.
    """
    staging = read_staging(data_dir, source)
    if staging is None:
        return frozenset()
    try:
        lock = lock_source(staging_dir(data_dir, source), source, wait_s=0.5)
    except StoreLockedError:
        return staged_references(staging)
    try:
        take_in_backfill(data_dir, source, registry)
        staging = read_staging(data_dir, source)
        current = staging is not None and staged_views(staging, registry) is not None
        return staged_references(staging) if staging is not None and current else frozenset()
    finally:
        lock.release()


def take_in_backfill(data_dir: Path, source: str, registry: Registry) -> dict[str, int]:
    """Take in a source's backfill when it is whole; rows in the online store, by "view@version".

    Empty when there is nothing to take in. A backfill is dropped when its versions are not computed any more, or when a
    worker has begun them meanwhile. The caller holds the locks of the source and of its backfill.
    """
    staging = read_staging(data_dir, source)
    if staging is None or not staging.whole:
        return {}
    views = staged_views(staging, registry)
    rows: dict[str, int] = {}
    with whole_step(data_dir):
        if views is None or not _fits(data_dir, staging, views):
            log.warning("backfill_dropped", source=source, views=sorted(staged_references(staging)))
        else:
            write_staging(data_dir, msgspec.structs.replace(staging, taken=True))
            rows = _take(data_dir, source, views)
            log.info("backfill_taken_in", source=source, rows=rows)
        clear_staging(data_dir, source)
    return rows


def staged_references(staging: Staging) -> frozenset[str]:
    """ "view@version" of what a backfill fills."""
    return frozenset(f"{view.name}@{view.version}" for view in staging.views)


def _fits(data_dir: Path, staging: Staging, views: Sequence[CompiledView]) -> bool:
    """Whether the source's shards know nothing of the views but what an interrupted hand-over of this backfill left.

    A worker that started while the backfill was being chosen has begun them by itself: its rows stand.
    """
    staged = open_source_store(staging_dir(data_dir, staging.source), staging.source, 1)
    shards = open_source_store(data_dir, staging.source, staged.shards).shards
    if shards != staged.shards:
        return False
    memory = RocksMemory()
    folders = [layout.shard_dir(data_dir, staging.source, shard) for shard in range(shards)]
    return staging.taken or not any(knows_view(folder, view, memory) for folder in folders for view in views)


def _take(data_dir: Path, source: str, views: Sequence[CompiledView]) -> dict[str, int]:
    """Move the files, copy the rows; rows by "view@version"."""
    staged = staging_dir(data_dir, source)
    shards = open_source_store(staged, source, 1).shards
    memory = RocksMemory()
    rows: dict[str, int] = {}
    for view in views:
        _move_files(staged / "offline", data_dir / "offline", view)
        pairs = [(layout.shard_dir(staged, source, n), layout.shard_dir(data_dir, source, n)) for n in range(shards)]
        rows[view.reference] = sum(copy_view(origin, target, view, memory) for origin, target in pairs)
    return rows


def staged_views(staging: Staging, registry: Registry) -> list[CompiledView] | None:
    """The views of a backfill, compiled; None when one of them is no longer computed."""
    deployed = {(view.view_id, view.version): view for view in registry.live_views()}
    found = [deployed.get((view.view_id, view.version)) for view in staging.views]
    source = registry.source(staging.source)
    compiled = [
        compile_view(view.spec, source, view_id=view.view_id, version=view.version)
        for view in found
        if view is not None and view.spec.source == staging.source
    ]
    return compiled if len(compiled) == len(found) else None


def _move_files(origin: Path, target: Path, view: CompiledView) -> None:
    folder = version_dir(origin, view.name, view.version)
    files = sorted(folder.glob("*/*.parquet"))
    # The marker last: it says that all the others are there.
    for path in [*files, folder / MARKER_NAME]:
        if path.exists():
            goal = version_dir(target, view.name, view.version) / path.relative_to(folder)
            make_folder(goal.parent)
            path.replace(goal)
            sync_folders([goal.parent])
