"""From a source poll to shard batches: encode keys once an entity group, split by shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from featurestore.batches import EVENT_TIME, OFFSET, PARTITION, PARTITION_WATERMARK, PartitionProgress, SourcePoll
from featurestore.compile.bind import BoundView, EntityGroup
from featurestore.compile.keys import encoded_key, shard_expr
from featurestore.definitions.specs import JoinKeySpec
from featurestore.shard.protocol import KEY, ShardBatch

_SHARD = "_shard"


class Router:
    """Splits polls of one source by shard. Views with the same join keys share one routing of the events.

    own: the shards that are served; all by default.
    """

    def __init__(self, views: Sequence[BoundView], shards: int, own: Sequence[int] | None = None) -> None:
        self._shards = shards
        self._own = range(shards) if own is None else own
        self._groups: dict[EntityGroup, tuple[JoinKeySpec, ...]] = {}
        self._columns: dict[EntityGroup, list[str]] = {}
        for view in views:
            self._groups[view.group] = view.compiled.spec.join_keys
            # Join keys go along: `where` and `derive` may read them.
            needed = {*self._columns.get(view.group, []), *view.needed_columns()}
            self._columns[view.group] = sorted(needed)

    def route(self, poll: SourcePoll) -> list[tuple[int, ShardBatch]]:
        """One batch for every shard, also for those without events: each hears how far the partitions have come."""
        frames = [batch.accepted for batch in poll.batches if batch.accepted.height]
        split: dict[EntityGroup, Mapping[int, pl.DataFrame]] = {}
        if frames:
            events = pl.concat(frames) if len(frames) > 1 else frames[0]
            split = {group: self._split(events, group) for group in self._groups}
        return [
            (
                shard,
                ShardBatch({group: parts[shard] for group, parts in split.items() if shard in parts}, poll.progress),
            )
            for shard in self._own
        ]

    def announce(self, progress: Sequence[PartitionProgress]) -> list[tuple[int, ShardBatch]]:
        """Progress alone, for every shard."""
        return [(shard, ShardBatch({}, tuple(progress))) for shard in self._own]

    def _split(self, events: pl.DataFrame, group: EntityGroup) -> dict[int, pl.DataFrame]:
        own_time = [] if EVENT_TIME in self._columns[group] else [pl.col(EVENT_TIME).dt.epoch("us").alias(EVENT_TIME)]
        frame = events.select(
            encoded_key(self._groups[group]).alias(KEY),
            *own_time,
            PARTITION,
            OFFSET,
            PARTITION_WATERMARK,
            *(name for name in self._columns[group] if name != EVENT_TIME),
        )
        # Events with a null join key have no shard of their own; any fixed choice counts them exactly once.
        shard = shard_expr(pl.col(KEY), self._shards).fill_null(pl.col(PARTITION).cast(pl.UInt32) % self._shards)
        frame = frame.with_columns(shard.alias(_SHARD))
        if len(self._own) < self._shards:
            frame = frame.filter(pl.col(_SHARD).is_in(list(self._own)))
        parts = frame.partition_by(_SHARD, as_dict=True, include_key=False)
        return {int(number): part for (number,), part in parts.items()}
