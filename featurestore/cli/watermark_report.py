"""What `featurestore watermark show` tells, gathered beside running workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from featurestore.batches import NO_TIME
from featurestore.durations import format_duration, format_instant
from featurestore.registry import RegisteredView, Registry, WatermarkReset
from featurestore.shard.watermark_reset import view_times
from featurestore.worker.prepare import RegisteredSource
from featurestore.worker.watermark import read_view_states


class PartitionTime(msgspec.Struct, frozen=True):
    """A partition of the topic's generation last read. newest_event: ISO 8601, UTC; None before any valid event."""

    partition: int
    newest_event: str | None


class ResetEntry(msgspec.Struct, frozen=True):
    """An operator's reset of the watermark. Times are ISO 8601, UTC."""

    version: int
    at: str
    by: str
    before: str
    to: str
    reason: str


class WatermarkStatus(msgspec.Struct, frozen=True):
    """A view's watermark, the least of its shards'. Times are ISO 8601, UTC; None before any event.

    correction_line: windows that end at or before it are final. partitions_watermark: what the partitions with events
    give together. ahead: by how much the watermark is ahead of that, None when it is not. held_back_by: the slowest
    partition.
    """

    name: str
    version: int
    source: str
    watermark: str | None
    correction_line: str | None
    partitions_watermark: str | None
    ahead: str | None
    held_back_by: int | None
    partitions: list[PartitionTime]
    resets: list[ResetEntry]


def collect_watermarks(data_dir: Path, registry: Registry, views: Sequence[RegisteredView]) -> list[WatermarkStatus]:
    """Where the watermarks of these views stand. Raises StoreError when a store can't be read."""
    return [_status(data_dir, registry, view) for view in views]


def _status(data_dir: Path, registry: Registry, view: RegisteredView) -> WatermarkStatus:
    (compiled,) = RegisteredSource(registry.source(view.spec.source), (view,)).compile()
    states = read_view_states(data_dir, compiled)
    times = view_times(compiled, states)
    watermark_us = min((state.watermark_us for state in states), default=NO_TIME)
    ahead = watermark_us != NO_TIME and times.least_us != NO_TIME and watermark_us > times.least_us
    return WatermarkStatus(
        name=view.spec.name,
        version=view.version,
        source=view.spec.source,
        watermark=_instant(watermark_us),
        correction_line=_instant(min((state.line_us for state in states), default=NO_TIME)),
        partitions_watermark=_instant(times.least_us),
        ahead=format_duration(watermark_us - times.least_us) if ahead else None,
        held_back_by=times.slowest,
        partitions=[PartitionTime(partition, _instant(time)) for partition, time in times.partitions.items()],
        resets=[_entry(reset) for reset in registry.watermark_resets(view.spec.name)],
    )


def _entry(reset: WatermarkReset) -> ResetEntry:
    at = reset.at.isoformat(timespec="seconds").replace("+00:00", "Z")
    return ResetEntry(
        reset.version, at, reset.by, format_instant(reset.from_us), format_instant(reset.to_us), reset.reason
    )


def _instant(us: int) -> str | None:
    return None if us == NO_TIME else format_instant(us)
