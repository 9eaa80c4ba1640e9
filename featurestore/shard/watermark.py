"""The watermark of a view in a shard: the least over the source's partitions, for emission only."""

from __future__ import annotations

from collections.abc import Mapping

from featurestore.batches import NO_TIME, PartitionState
from featurestore.shard.protocol import Fence


def view_watermark_us(
    fences: Mapping[int, Fence], states: Mapping[int, PartitionState], max_out_of_orderness_us: int
) -> int:
    """Watermark that the partitions allow now, NO_TIME when they allow none.

    fences, states: by partition, of every partition of the source. "idle" and "empty" partitions do not hold the
    watermark back, but do not move it either; an active one that has shown no event yet holds everything.
    """
    times = []
    for partition, fence in fences.items():
        state = states.get(partition, "active")
        if state in ("idle", "empty"):
            continue
        if fence.max_event_time_us == NO_TIME:
            return NO_TIME
        times.append(fence.max_event_time_us - max_out_of_orderness_us)
    return min(times, default=NO_TIME)
