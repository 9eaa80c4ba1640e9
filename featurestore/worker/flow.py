"""The bytewax dataflow: for each source one input that emits shard batches, one keyed step that owns the shards.

No bytewax recovery store is used: `snapshot` returns None, the fences in the shards are the recovery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from typing import Any, Protocol

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from featurestore.shard.protocol import ShardBatch
from featurestore.worker.host import ShardSlot, SourceHost
from featurestore.worker.spread import shard_key

KeyedBatch = tuple[str, tuple[int, ShardBatch]]

_AT_ONCE = datetime(1970, 1, 1, tzinfo=timezone.utc)


class ReadingTask(Protocol):
    """A worker's share of a source, whatever it is read from."""

    def next_batches(self) -> list[tuple[int, ShardBatch]] | None:
        """What every shard must hear next, None at the end."""

    def close(self) -> None:
        """Make durable what is to be durable, and let go of what was read from."""


class _TaskPartition(StatelessSourcePartition[KeyedBatch]):
    def __init__(self, task: ReadingTask, keys: list[str]) -> None:
        self._task = task
        self._keys = keys

    def next_batch(self) -> Iterable[KeyedBatch]:
        routed = self._task.next_batches()
        if routed is None:
            raise StopIteration
        return [(self._keys[shard], (shard, batch)) for shard, batch in routed]

    def next_awake(self) -> datetime:
        # Reading waits by itself. What bytewax does without an answer, a pause after a poll that gave nothing, ends by
        # the wall clock: one set back by a day would make it a day.
        return _AT_ONCE

    def close(self) -> None:
        self._task.close()


class _TaskSource(DynamicSource[KeyedBatch]):
    def __init__(self, build_task: Callable[[int, int], ReadingTask], shards: int) -> None:
        self._build_task = build_task
        self._shards = shards

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _TaskPartition:
        keys = [shard_key(shard, worker_count) for shard in range(self._shards)]
        return _TaskPartition(self._build_task(worker_index, worker_count), keys)


class _ShardLogic(StatefulBatchLogic[tuple[int, ShardBatch], None, None]):
    """One shard. It learns its number from its first batch, for bytewax does not tell a logic its key."""

    def __init__(self, host: SourceHost, close_windows: Callable[[], bool]) -> None:
        self._host = host
        self._close_windows = close_windows
        self._slot: ShardSlot | None = None

    def on_batch(self, values: list[tuple[int, ShardBatch]]) -> tuple[Iterable[None], bool]:
        if self._slot is None:
            self._slot = self._host.open_shard(values[0][0])
        self._host.receive(self._slot, [batch for _, batch in values])
        return [], StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[None], bool]:
        if self._slot is not None:
            self._host.commit_if_due(self._slot)
        return [], StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[None], bool]:
        if self._slot is not None:
            self._host.commit(self._slot, close_windows=self._close_windows())
        return [], StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        return None if self._slot is None else self._slot.next_commit()

    def snapshot(self) -> None:
        return None


class _NullPartition(StatelessSinkPartition[Any]):
    def write_batch(self, items: list[Any]) -> None:
        raise AssertionError("shards emit nothing downstream")


class _NullSink(DynamicSink[Any]):
    """bytewax wants every dataflow to end in a sink; the shards write themselves, in their commits."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _NullPartition:
        return _NullPartition()


def build_flow(
    sources: dict[str, tuple[Callable[[int, int], ReadingTask], SourceHost]], close_windows: Callable[[], bool]
) -> Dataflow:
    """One dataflow for all sources of a run.

    sources: by name, what builds a worker's reading task from (worker index, worker count), and the process's shards.
    close_windows: asked at the end of the input.
    """
    flow = Dataflow("featurestore")
    for name, (build_task, host) in sources.items():
        batches = op.input(f"read_{name}", flow, _TaskSource(build_task, host.shards))
        shards = op.stateful_batch(f"shards_{name}", batches, _logic_builder(host, close_windows))
        op.output(f"end_{name}", shards, _NullSink())
    return flow


def _logic_builder(host: SourceHost, close_windows: Callable[[], bool]) -> Callable[[None], _ShardLogic]:
    return lambda resume_state: _ShardLogic(host, close_windows)
