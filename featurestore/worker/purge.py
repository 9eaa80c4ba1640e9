"""Removing what retired versions of a view left behind, online and offline. What is computed is never touched.

Only while no run holds the view's store. All steps may be repeated: killed half way, the same purge removes the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from featurestore.offline.atomic import CrashPoint, no_crash, sync_folders
from featurestore.offline.completeness import remove_marker
from featurestore.offline.layout import version_dir
from featurestore.offline.snapshots import finish_recovery
from featurestore.online import layout
from featurestore.online.rocks import RocksMemory
from featurestore.online.shard_store import RocksShardStore
from featurestore.online.source_store import open_source_store, read_store_info
from featurestore.online.usage import StoredBytes, Versions, folder_bytes, measure_versions
from featurestore.registry import AnyView
from featurestore.worker.prepare import outbox_dirs, recover_outbox

OnShard = Callable[[int, int], None]
"""Called with (shards done, shards)."""


class Leftover(msgspec.Struct, frozen=True):
    """What is left of one old version. online_bytes: keys and values before compression; offline_bytes: its files."""

    version: int
    entities: int
    online_bytes: int
    offline_bytes: int


def find_leftovers(
    data_dir: Path, view: AnyView, live: Collection[int], on_shard: OnShard | None = None
) -> list[Leftover]:
    """What retired versions of a view have in the stores, by version; those of which nothing is left aside.

    live: versions that are computed.
    """
    stored = measure_versions(data_dir, view.store, on_shard)
    found = []
    for version in stored_versions(data_dir, view, stored):
        if version in live:
            continue
        online = stored.get((view.view_id, version), StoredBytes())
        folder = version_dir(data_dir / "offline", view.name, version)
        if online.total_bytes or folder.is_dir():
            found.append(Leftover(version, online.entities, online.total_bytes, folder_bytes(folder)))
    return found


def stored_versions(data_dir: Path, view: AnyView, measured: Versions) -> list[int]:
    """Versions of a view of which anything is in the stores, sorted. measured: by `measure_versions`."""
    online = {version for view_id, version in measured if view_id == view.view_id}
    folders = version_dir(data_dir / "offline", view.name, 0).parent.glob("v*")
    return sorted(online | {int(folder.name[1:]) for folder in folders if folder.name[1:].isdecimal()})


def purge_versions(
    data_dir: Path,
    view: AnyView,
    versions: Sequence[int],
    on_shard: OnShard | None = None,
    *,
    crash_point: CrashPoint = no_crash,
) -> None:
    """Remove retired versions of a view: rows, waiting entities, revisions, state, and its files of the offline store.

    The caller holds the lock of the view's store. Raises StoreError when a shard is missing or damaged.
    """
    assert view.version not in versions, "the served version stays"
    info = read_store_info(data_dir, view.store)
    if info is not None:
        open_source_store(data_dir, view.store, info.shards)
        _purge_shards(data_dir, view, versions, info.shards, on_shard, crash_point)
    for version in versions:
        remove_marker(data_dir / "offline", view.name, version)
        crash_point("marker_removed")
        folder = version_dir(data_dir / "offline", view.name, version)
        if folder.is_dir():
            shutil.rmtree(folder)
            sync_folders([folder.parent])
        crash_point("files_removed")


def _purge_shards(
    data_dir: Path,
    view: AnyView,
    versions: Sequence[int],
    shards: int,
    on_shard: OnShard | None,
    crash_point: CrashPoint,
) -> None:
    """Empty the shards of these versions, and bring what a crash left of snapshot writes to its end.

    Without that an intent might miss the files that are about to go, and be undone: with it the rows of other views.
    """
    covered = recover_outbox(data_dir, view.store)
    memory = RocksMemory()
    for shard in range(shards):
        store = RocksShardStore(layout.shard_dir(data_dir, view.store, shard), memory)
        try:
            # Rows on their way to files would make the folders anew.
            waiting = [
                item.sequence for item in store.take_outbox() if item.view == view.name and item.version in versions
            ]
            store.drop_outbox([*covered.get(shard, ()), *waiting])
            store.forget(_prefixes(view, versions))
            store.sync()
        finally:
            store.close()
        crash_point("shard_purged")
        if on_shard is not None:
            on_shard(shard + 1, shards)
    for folder in outbox_dirs(data_dir, view.store):
        finish_recovery(folder)
    crash_point("recovered")


def _prefixes(view: AnyView, versions: Sequence[int]) -> Iterator[bytes]:
    for version in versions:
        yield from layout.version_prefixes(view.view_id, version)
