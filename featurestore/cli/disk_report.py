"""What `featurestore status --disk` tells, gathered: bytes of each view and source, online and offline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec

from featurestore.offline import layout as offline_layout
from featurestore.online import layout as online_layout
from featurestore.online.layout import is_batch_store
from featurestore.online.usage import StoredBytes, Versions, folder_bytes, measure_versions
from featurestore.registry import AnyView
from featurestore.worker.purge import stored_versions
from featurestore.worker.staging import staging_dir


class VersionDisk(msgspec.Struct, frozen=True):
    """A version of a view. live: whether it is computed. The online bytes are uncompressed keys and values;
    offline_bytes: its files in the offline store."""

    version: int
    live: bool
    entities: int
    rows_bytes: int
    pending_bytes: int
    revisions_bytes: int
    online_bytes: int
    offline_bytes: int


class ViewDisk(msgspec.Struct, frozen=True):
    """A view, over all its versions. source: of a stream view; of a batch view its own online store."""

    name: str
    source: str
    online_bytes: int
    offline_bytes: int
    versions: list[VersionDisk]


class SourceDisk(msgspec.Struct, frozen=True):
    """A source, in bytes of files: its online store, its archive, late events, dead letters, a backfill under way."""

    name: str
    online_file_bytes: int
    archive_bytes: int
    late_bytes: int
    dead_letter_bytes: int
    backfill_bytes: int


class DiskReport(msgspec.Struct, frozen=True):
    """The whole answer."""

    sources: list[SourceDisk]
    views: list[ViewDisk]


def collect_disk(
    data_dir: Path, views: Sequence[AnyView], on_shard: Callable[[str, int, int], None] | None = None
) -> DiskReport:
    """Scan the stores of these views, of each all versions that are computed.

    on_shard: called with store, shards done, shards. Raises StoreError.
    """
    sources, found = [], []
    for store in sorted({view.store for view in views}):

        def tell(done: int, shards: int, store: str = store) -> None:
            if on_shard is not None:
                on_shard(store, done, shards)

        measured = measure_versions(data_dir, store, tell)
        mine: dict[str, list[AnyView]] = {}
        for view in views:
            if view.store == store:
                mine.setdefault(view.name, []).append(view)
        if not is_batch_store(store):
            sources.append(_source_disk(data_dir, store))
        found += [
            _view_disk(data_dir, live[-1], [version.version for version in live], measured) for live in mine.values()
        ]
    return DiskReport(sources, found)


def _source_disk(data_dir: Path, source: str) -> SourceDisk:
    offline = data_dir / "offline"
    return SourceDisk(
        name=source,
        online_file_bytes=folder_bytes(online_layout.source_dir(data_dir, source)),
        archive_bytes=folder_bytes(offline_layout.source_dir(offline, offline_layout.EVENTS, source)),
        late_bytes=folder_bytes(offline_layout.source_dir(offline, offline_layout.LATE, source)),
        dead_letter_bytes=folder_bytes(offline_layout.source_dir(offline, offline_layout.DEAD_LETTER, source)),
        backfill_bytes=folder_bytes(staging_dir(data_dir, source)),
    )


def _view_disk(data_dir: Path, view: AnyView, live: Collection[int], measured: Versions) -> ViewDisk:
    versions = [
        _version_disk(
            data_dir, view, version, measured.get((view.view_id, version), StoredBytes()), live=version in live
        )
        for version in sorted({*stored_versions(data_dir, view, measured), *live})
    ]
    return ViewDisk(
        view.name,
        view.store,
        sum(version.online_bytes for version in versions),
        sum(version.offline_bytes for version in versions),
        # A version of which nothing is left is no news; one that is computed is named even when it is empty.
        [version for version in versions if version.live or version.online_bytes or version.offline_bytes],
    )


def _version_disk(data_dir: Path, view: AnyView, version: int, stored: StoredBytes, *, live: bool) -> VersionDisk:
    folder = offline_layout.version_dir(data_dir / "offline", view.name, version)
    return VersionDisk(
        version=version,
        live=live,
        entities=stored.entities,
        rows_bytes=stored.rows_bytes,
        pending_bytes=stored.pending_bytes,
        revisions_bytes=stored.revisions_bytes,
        online_bytes=stored.total_bytes,
        offline_bytes=folder_bytes(folder),
    )
