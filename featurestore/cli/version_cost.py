"""What a second version of a view costs while it is computed beside the first: about what the first one takes now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from featurestore.cli.output import format_bytes
from featurestore.offline.archive_reader import archived_extent, archived_generations
from featurestore.offline.layout import version_dir
from featurestore.online.source_store import read_store_info
from featurestore.online.usage import StoredBytes, folder_bytes, measure_versions
from featurestore.registry import Plan, RegisteredView

CPU_S_PER_MILLION = 1.5
"""CPU-seconds that a backfill of the standard job's views takes for a million events: see benchmarks/README.md."""


COUNTED_MAX = 100_000
"""Of a view with more rows one shard is counted, for a plan should not take long."""


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


def version_costs(data_dir: Path, plan: Plan, served: Sequence[RegisteredView]) -> list[VersionCost]:
    """Of each deployed stream view that the plan gives a new version; nothing where no worker has run yet.

    served: the served version of each view. Raises StoreError for a store that can't be read.
    """
    by_name = {view.name: view for view in served}
    costs = []
    for change in plan.changed:
        view = by_name.get(change.name) if change.kind == "view" else None
        if view is None or change.new_version == plan.before["view", change.name][0]:
            continue
        info = read_store_info(data_dir, view.spec.source)
        if info is None:
            continue
        place, factor = (view.view_id, view.version), 1
        stored = measure_versions(data_dir, view.spec.source, only=(0,)).get(place, StoredBytes())
        if stored.entities * info.shards > COUNTED_MAX:
            # Keys are spread evenly over shards by their hash: one of them stands for all.
            factor = info.shards
        else:
            stored = measure_versions(data_dir, view.spec.source).get(place, StoredBytes())
        events = _archived_events(data_dir / "offline", view.spec.source)
        costs.append(
            VersionCost(
                view.name,
                stored.entities * factor,
                stored.total_bytes * factor,
                folder_bytes(version_dir(data_dir / "offline", view.name, view.version)),
                events,
                events / 1e6 * CPU_S_PER_MILLION,
            )
        )
    return costs


def _archived_events(root: Path, source: str) -> int:
    return sum(
        archived_extent(root, source, one.generation, partition, start.next_offset, one.ends[partition].next_offset)[0]
        for one in archived_generations(root, source)
        for partition, start in one.first.items()
    )
