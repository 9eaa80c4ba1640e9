"""What `featurestore unused` tells, gathered: unused features, and the bytes that pruning them would free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from pathlib import Path

import msgspec

from featurestore.compile.batch import CompiledBatchView
from featurestore.compile.view import CompiledView, compile_view
from featurestore.offline import layout as offline_layout
from featurestore.offline.column_sizes import column_bytes
from featurestore.online.usage import StoredBytes, Versions, folder_bytes, freed_shares, measure_versions
from featurestore.registry.served import ServedDefinitions
from featurestore.registry.unused import Unused, UnusedView

LiveView = CompiledView | CompiledBatchView


class UnusedFeature(msgspec.Struct, frozen=True):
    """A feature. last_read_at: None when no read is known. Bytes: what goes with it when all of its view's here go."""

    name: str
    last_read_at: datetime | None
    online_bytes: int
    offline_bytes: int


class PrunedView(msgspec.Struct, frozen=True):
    """A view with unused features. whole: these are all; then the bytes are the view's, else those of its features."""

    name: str
    whole: bool
    online_bytes: int
    offline_bytes: int
    features: list[UnusedFeature]


class UnusedReport(msgspec.Struct, frozen=True):
    """The whole answer. is_covered: reads were recorded from `since` on, so that it holds from then on."""

    since: datetime
    recorded_since: date | None
    is_covered: bool
    views: list[PrunedView]


def collect_unused(
    data_dir: Path,
    found: Unused,
    served: ServedDefinitions,
    on_shard: Callable[[str, int, int], None] = lambda store, done, shards: None,
) -> UnusedReport:
    """Measure the stores of views with unused features, all versions that are computed. Raises StoreError.

    on_shard: called with store, shards done, shards.
    """
    wanted = {unused.view.name for unused in found.views}
    live = [view for view in _live(served) if view.name in wanted]
    measured: Versions = {}
    for store in sorted({view.store for view in live}):

        def tell(done: int, shards: int, store: str = store) -> None:
            on_shard(store, done, shards)

        measured.update(measure_versions(data_dir, store, tell))
    views = [_pruned(data_dir, one, [v for v in live if v.name == one.view.name], measured) for one in found.views]
    return UnusedReport(found.since, found.recorded_since, found.is_covered, views)


def _live(served: ServedDefinitions) -> list[LiveView]:
    streams = [
        compile_view(one.spec, served.sources[one.spec.source], view_id=one.view_id, version=one.version)
        for one in served.views
    ]
    return [*streams, *(CompiledBatchView(one.view_id, one.version, one.spec) for one in served.batch_views)]


def _pruned(data_dir: Path, unused: UnusedView, live: Sequence[LiveView], measured: Versions) -> PrunedView:
    online = dict.fromkeys(unused.features, 0.0)
    offline = dict.fromkeys(unused.features, 0)
    whole_online = whole_offline = 0
    for view in live:
        stored = measured.get((view.view_id, view.version), StoredBytes())
        folder = offline_layout.version_dir(data_dir / "offline", view.name, view.version)
        whole_online += stored.total_bytes
        whole_offline += folder_bytes(folder)
        for name, share in _shares(view, unused).items():
            online[name] += share * stored.rows_bytes
        for name, size in column_bytes(data_dir / "offline", folder).items():
            if name in offline:
                offline[name] += size
    features = [UnusedFeature(name, last, round(online[name]), offline[name]) for name, last in unused.features.items()]
    if not unused.whole:
        whole_online, whole_offline = sum(f.online_bytes for f in features), sum(f.offline_bytes for f in features)
    return PrunedView(unused.view.name, unused.whole, whole_online, whole_offline, features)


def _shares(view: LiveView, unused: UnusedView) -> dict[str, float]:
    """Shares of a row's bytes. A batch view's row is an array of values that are not told apart: equal shares."""
    if isinstance(view, CompiledView):
        return freed_shares(view, [name for name in unused.features if name in view.features])
    return {name: 1 / len(view.features) for name in unused.features if name in view.features}
