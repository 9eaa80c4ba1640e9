"""The two shard stores behind one face, both with crash points, and the online reader over either."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from featurestore.batches import NO_TIME
from featurestore.compile.keys import shard_of
from featurestore.compile.view import CompiledView
from featurestore.offline.snapshots import OutboxEntry, SnapshotDataset
from featurestore.online import layout
from featurestore.online.reader import OnlineReader
from featurestore.online.rocks import RocksMemory
from featurestore.online.rows import encode_rows
from featurestore.online.shard_store import RocksShardStore
from featurestore.online.source_store import open_source_store
from featurestore.shard.protocol import Commit, ShardStore
from featurestore.testing.memory_store import MemoryShardStore

SOURCE = "events"


class OutboxStore(ShardStore, Protocol):
    """A shard's store with its outbox, as a worker process sees it."""

    def take(self, shard: int) -> list[OutboxEntry]:
        """Entries not handed out since the store was opened."""

    def drop_outbox(self, sequences: Sequence[int]) -> None:
        """Forget entries."""

    def close(self) -> None:
        """The process ends, one way or the other."""


class Stores(Protocol):
    """The shards of a source across the lives of its processes."""

    def open(self) -> list[OutboxStore]:
        """All shards, opened by a new life."""

    def reader(self) -> OnlineReader:
        """A reader of what the shards hold now; they are closed."""


class MemoryOutboxStore(MemoryShardStore):
    """A shard in memory; its outbox entries are handed out once a life."""

    _taken = -1

    def take(self, shard: int) -> list[OutboxEntry]:
        new = sorted(sequence for sequence in self.outbox if sequence > self._taken)
        self._taken = max([self._taken, *new])
        return [
            OutboxEntry(
                shard,
                sequence,
                SnapshotDataset(emitted.view.name, emitted.view.version, emitted.dataset),
                emitted.rows.to_arrow(),
            )
            for sequence, emitted in ((sequence, self.outbox[sequence]) for sequence in new)
        ]

    def close(self) -> None: ...


class MemoryStores:
    """Shards in memory."""

    def __init__(self, shards: int, crash_point: Callable[[str], None]) -> None:
        self._crash_point = crash_point
        self._disks = [MemoryOutboxStore(crash_point) for _ in range(shards)]

    def open(self) -> list[OutboxStore]:
        return [MemoryOutboxStore(self._crash_point, store._disk) for store in self._disks]

    def reader(self) -> OnlineReader:
        return _MemoryReader([store.reopen() for store in self._disks])


class RocksOutboxStore(RocksShardStore):
    """A shard in RocksDB that may die before and after each of its writes."""

    crash_point: Callable[[str], None]

    def take(self, shard: int) -> list[OutboxEntry]:
        return [
            OutboxEntry(
                shard, item.sequence, SnapshotDataset(item.view, item.version, item.window), item.rows.to_arrow()
            )
            for item in self.take_outbox()
        ]

    def write(self, commit: Commit) -> None:
        self.crash_point("before commit")
        super().write(commit)
        self.crash_point("after commit")

    def drop_outbox(self, sequences: Sequence[int]) -> None:
        self.crash_point("before outbox drop")
        super().drop_outbox(sequences)
        self.crash_point("after outbox drop")


class RocksStores:
    """Shards in RocksDB, where a worker keeps them."""

    def __init__(self, data_dir: Path, shards: int, crash_point: Callable[[str], None]) -> None:
        layout.source_dir(data_dir, SOURCE).mkdir(parents=True)
        open_source_store(data_dir, SOURCE, shards)
        self._data_dir, self._shards, self._crash_point = data_dir, shards, crash_point

    def open(self) -> list[OutboxStore]:
        memory = RocksMemory()
        opened: list[OutboxStore] = []
        for shard in range(self._shards):
            store = RocksOutboxStore(layout.shard_dir(self._data_dir, SOURCE, shard), memory)
            store.crash_point = self._crash_point
            opened.append(store)
        return opened

    def reader(self) -> OnlineReader:
        return OnlineReader(self._data_dir, SOURCE)


class _MemoryReader(OnlineReader):
    """The reader's logic over shards in memory: rows make their way through the row format."""

    def __init__(self, stores: Sequence[MemoryShardStore]) -> None:
        self._stores = stores
        self._plans = {}
        self._encoded: dict[tuple[str, str], bytes | None] = {}

    def fetch(self, view: CompiledView, keys: Sequence[str | None]) -> list[bytes | None]:
        return [None if key is None else self._value(view, key) for key in keys]

    def _value(self, view: CompiledView, key: str) -> bytes | None:
        place = view.name, key
        if place not in self._encoded:
            rows = self._stores[shard_of(key.encode(), len(self._stores))].read_rows(view, [key])
            self._encoded[place] = None if rows.newest_us[0] == NO_TIME else encode_rows(view, rows)[0]
        return self._encoded[place]

    def close(self) -> None: ...
