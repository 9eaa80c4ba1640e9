"""What a second version of a view costs while it is computed beside the first: about what the first one takes now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from featurestore.cli.output import format_bytes
from featurestore.compile.batch import CompiledBatchView
from featurestore.offline.archive_reader import archived_extent, archived_generations
from featurestore.offline.batch_rows import count_batch_rows
from featurestore.offline.layout import version_dir
from featurestore.online.batch_reader import BatchReader
from featurestore.online.source_store import read_store_info
from featurestore.online.usage import StoredBytes, folder_bytes, measure_versions
from featurestore.registry import AnyView, Plan, RegisteredBatchView, RegisteredView
from featurestore.registry.plan import VIEW_KINDS

CPU_S_PER_MILLION = 1.5
"""CPU-seconds that a backfill of the standard job's views takes for a million events: see benchmarks/README.md."""


COUNTED_MAX = 100_000
"""Of a view with more rows one shard is counted, of a batch view so many rows: a plan should not take long."""


class VersionCost(msgspec.Struct, frozen=True):
    """Of one view that will have another version: what the served one takes.

    entities, online_bytes: of its rows, before compression; of many, those of one shard times the number of shards.
    backfill_events: that a backfill reads; every event from then on is computed for both versions.
    backfill_cpu_s: by the rate of the recorded benchmark; views differ.
    """

    view: str
    entities: int
    online_bytes: int
    offline_bytes: int
    backfill_events: int
    backfill_cpu_s: float

    def text(self) -> str:
        """In a sentence."""
        return (
            f"{self.view}: once a second version has caught up it takes about {self.entities:,} keys, "
            f"{format_bytes(self.online_bytes)} online and {format_bytes(self.offline_bytes)} of snapshots; a backfill "
            f"reads {self.backfill_events:,} events, about {self.backfill_cpu_s:,.0f} CPU-seconds; from then on each "
            "event is computed for both, until one is retired"
        )


class BatchVersionCost(msgspec.Struct, frozen=True):
    """Of one batch view that will have another version: what the served one takes.

    entities, online_bytes: of its rows, before compression; of many, from some of them. stored_rows: in the offline
    store, each of which the source gave at least once.
    """

    view: str
    entities: int
    online_bytes: int
    offline_bytes: int
    stored_rows: int

    def text(self) -> str:
        """In a sentence."""
        return (
            f"{self.view}: once a second version is filled it takes about {self.entities:,} keys, "
            f"{format_bytes(self.online_bytes)} online and {format_bytes(self.offline_bytes)} of Parquet, of "
            f"{self.stored_rows:,} rows; `featurestore materialize` fills it from the whole source, and from then on "
            "reads the source for both, until one is retired"
        )


def version_costs(data_dir: Path, plan: Plan, served: Sequence[AnyView]) -> list[VersionCost | BatchVersionCost]:
    """Of each deployed view that the plan gives a new version; nothing where none of its rows is stored yet.

    served: the served version of each view. Raises StoreError for a store that can't be read.
    """
    by_name = {view.name: view for view in served}
    costs: list[VersionCost | BatchVersionCost] = []
    for change in plan.changed:
        view = by_name.get(change.name) if change.kind in VIEW_KINDS else None
        if view is None or change.new_version == plan.before[change.kind, change.name][0]:
            continue
        if read_store_info(data_dir, view.store) is None:
            continue
        if isinstance(view, RegisteredBatchView):
            costs.append(_batch_cost(data_dir, view))
        else:
            costs.append(_stream_cost(data_dir, view))
    return costs


def _stream_cost(data_dir: Path, view: RegisteredView) -> VersionCost:
    info = read_store_info(data_dir, view.store)
    assert info is not None
    place, factor = (view.view_id, view.version), 1
    stored = measure_versions(data_dir, view.store, only=(0,)).get(place, StoredBytes())
    if stored.entities * info.shards > COUNTED_MAX:
        # Keys are spread evenly over shards by their hash: one of them stands for all.
        factor = info.shards
    else:
        stored = measure_versions(data_dir, view.store).get(place, StoredBytes())
    events = _archived_events(data_dir / "offline", view.store)
    return VersionCost(
        view.name,
        stored.entities * factor,
        stored.total_bytes * factor,
        folder_bytes(version_dir(data_dir / "offline", view.name, view.version)),
        events,
        events / 1e6 * CPU_S_PER_MILLION,
    )


def _batch_cost(data_dir: Path, view: RegisteredBatchView) -> BatchVersionCost:
    compiled = CompiledBatchView(view.view_id, view.version, view.spec)
    reader = BatchReader(data_dir, view.store)
    try:
        reader.refresh()
        entities = reader.state(compiled).entities
        rows, size = reader.row_bytes(compiled, COUNTED_MAX)
    finally:
        reader.close()
    root = data_dir / "offline"
    return BatchVersionCost(
        view.name,
        entities,
        size * entities // rows if rows else 0,
        folder_bytes(version_dir(root, view.name, view.version)),
        count_batch_rows(root, compiled),
    )


def _archived_events(root: Path, source: str) -> int:
    return sum(
        archived_extent(root, source, one.generation, partition, start.next_offset, one.ends[partition].next_offset)[0]
        for one in archived_generations(root, source)
        for partition, start in one.first.items()
    )
