"""Decide where each partition is read on: pure, so that a simulation and a run decide alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from featurestore.batches import NO_TIME
from featurestore.shard.protocol import Fence, ViewState, fence_key


def first_fences(
    generation: str,
    states: Sequence[ViewState],
    initial: Mapping[int, Fence],
    partitions: Mapping[int, tuple[int, int]],
) -> dict[int, Fence]:
    """The fence that a view begins with in the shards that have none, by partition: one for all of them.

    states: of the view, by shard. initial: where a view begins that has none anywhere. partitions: (first, end) offset.
    A start that died half way has written the first fences to some shards, and nothing else: theirs stand, for by now
    "latest" is another place. A partition that was added to a topic under way is new as a whole.
    """
    begun = any(state.fence(generation, partition) for state in states for partition in partitions)
    first = {}
    for partition, (low, _) in partitions.items():
        written = [fence for state in states if (fence := state.fence(generation, partition)) is not None]
        first[partition] = written[0] if written else Fence(low) if begun else initial[partition]
    return first


def archive_starts(
    stored: Mapping[str, Fence], generation: str, fences: Mapping[int, Sequence[Fence]]
) -> dict[int, Fence]:
    """Where the archive of each partition begins.

    stored: earlier decisions, by `fence_key`; they stand. fences: of every shard and view, by partition.
    Without this being written down before anything is read, a crash before the archive's first file would make the
    run go on from the shards' fences, and the archive would miss what they have applied.
    """
    return {
        partition: stored.get(fence_key(generation, partition)) or min(candidates, key=_earliest)
        for partition, candidates in fences.items()
    }


def resume_points(
    fences: Mapping[int, Sequence[Fence]], ends: Mapping[int, Fence], starts: Mapping[int, Fence]
) -> dict[int, Fence]:
    """By partition, the pair to read on from: the least over the fences of every shard and view, and the archive.

    ends: how far the archive's files reach, for partitions that have one; starts: where it begins for the others.
    """
    return {
        partition: min([*candidates, ends.get(partition, starts[partition])], key=_earliest)
        for partition, candidates in fences.items()
    }


def newest_before(gap_end: int, known: Sequence[Fence]) -> int:
    """The largest event time, µs, that is known of what lies before a gap's end; NO_TIME if none is.

    known: fences of a partition, and its archive's end. The furthest of those before the gap's end knows most of the
    messages in it: a restart that left it out would take for on time what was too late before.
    """
    return max((fence.max_event_time_us for fence in known if fence.next_offset <= gap_end), default=NO_TIME)


def decided_offsets(fences: Mapping[int, Sequence[Fence]], ends: Mapping[int, Fence]) -> dict[int, int]:
    """By partition, the first offset that nobody has decided about: behind all that shards and archive know."""
    return {
        partition: max(fence.next_offset for fence in [*candidates, *([ends[partition]] if partition in ends else [])])
        for partition, candidates in fences.items()
    }


def _earliest(fence: Fence) -> tuple[int, int]:
    # Of two fences at one offset the one that knows an event time is right; a view begun at "latest" knows none yet.
    return fence.next_offset, -fence.max_event_time_us
