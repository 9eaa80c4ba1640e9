"""A shard store in memory, with the contract of `shard/protocol.py`, that survives a simulated crash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from featurestore.batches import NO_TIME
from featurestore.compile.view import CompiledView
from featurestore.compute.tiles import TileTable, empty_tiles, merge_tiles, take
from featurestore.shard.protocol import Commit, Emitted, RowSet, ViewState
from featurestore.testing.crash import never_crash

ViewKey = tuple[int, int]


@dataclass
class _Disk:
    states: dict[ViewKey, ViewState] = field(default_factory=dict)
    rows: dict[tuple[int, int, str], tuple[TileTable, int]] = field(default_factory=dict)
    pending: dict[tuple[int, int, int, int], list[str]] = field(default_factory=dict)
    revisions: dict[tuple[int, int, int, int, str], int] = field(default_factory=dict)
    outbox: dict[int, Emitted] = field(default_factory=dict)
    next_sequence: int = 0


class MemoryShardStore:
    """A shard in memory. What `write` finished stays; `reopen` gives the store a process finds after a crash."""

    def __init__(self, crash_point: Callable[[str], None] = never_crash, disk: _Disk | None = None) -> None:
        self._crash_point = crash_point
        self._disk = disk or _Disk()

    def reopen(self) -> MemoryShardStore:
        """The same shard, opened by the next process."""
        return MemoryShardStore(self._crash_point, self._disk)

    @property
    def outbox(self) -> dict[int, Emitted]:
        """Emitted rows by sequence, until they are dropped."""
        return self._disk.outbox

    def drop_outbox(self, sequences: Sequence[int]) -> None:
        """Forget outbox entries; dropping one twice changes nothing."""
        self._crash_point("before outbox drop")
        for sequence in sequences:
            self._disk.outbox.pop(sequence, None)
        self._crash_point("after outbox drop")

    def read_state(self, view: CompiledView) -> ViewState | None:
        """See `ShardStore.read_state`."""
        return self._disk.states.get((view.view_id, view.version))

    def read_rows(self, view: CompiledView, keys: Sequence[str]) -> RowSet:
        """See `ShardStore.read_rows`."""
        assert list(keys) == sorted(set(keys), key=str.encode), "keys are distinct and sorted by their bytes"
        newest = np.full(len(keys), NO_TIME, dtype=np.int64)
        tables = [empty_tiles(view.slots)]
        for number, key in enumerate(keys):
            row = self._disk.rows.get((view.view_id, view.version, key))
            if row is not None:
                tiles, newest[number] = row
                tables.append(TileTable(np.full(len(tiles), number), tiles.start, tiles.late, tiles.fields))
        return RowSet(merge_tiles(tables, view.slots), newest)

    def read_pending(
        self, view: CompiledView, dataset_index: int, from_us: int, to_us: int
    ) -> list[tuple[int, list[str]]]:
        """See `ShardStore.read_pending`."""
        return [
            (pane, keys)
            for (view_id, version, index, pane), keys in sorted(self._disk.pending.items())
            if (view_id, version, index) == (view.view_id, view.version, dataset_index) and from_us <= pane <= to_us
        ]

    def read_revisions(
        self, view: CompiledView, dataset_index: int, ends_us: Sequence[int], keys: Sequence[str]
    ) -> list[int]:
        """See `ShardStore.read_revisions`."""
        stem = (view.view_id, view.version, dataset_index)
        return [self._disk.revisions.get((*stem, end, key), 0) for end, key in zip(ends_us, keys, strict=True)]

    def write(self, commit: Commit) -> None:
        """See `ShardStore.write`."""
        self._crash_point("before commit")
        disk = self._disk
        for view, state in commit.states:
            disk.states[(view.view_id, view.version)] = state
        for write in commit.rows:
            for number, key in enumerate(write.keys):
                mine = take(write.rows.tiles, np.flatnonzero(write.rows.tiles.entity == number))
                disk.rows[(write.view.view_id, write.view.version, key)] = (mine, int(write.rows.newest_us[number]))
        for clear in commit.pending_clear:
            stem = (clear.view.view_id, clear.view.version, clear.dataset_index)
            disk.pending = {
                key: names for key, names in disk.pending.items() if key[:3] != stem or key[3] > clear.pane_us
            }
        for pending in commit.pending:
            place = (pending.view.view_id, pending.view.version, pending.dataset_index, pending.pane_us)
            disk.pending.setdefault(place, []).extend(pending.keys)
        for old in commit.revision_clear:
            stem = (old.view.view_id, old.view.version, old.dataset_index)
            disk.revisions = {
                key: number for key, number in disk.revisions.items() if key[:3] != stem or key[3] > old.end_us
            }
        for revised in commit.revisions:
            stem = (revised.view.view_id, revised.view.version, revised.dataset_index)
            for end, key, number in zip(revised.ends_us, revised.keys, revised.revisions, strict=True):
                disk.revisions[(*stem, end, key)] = number
        for emitted in commit.emitted:
            disk.outbox[disk.next_sequence] = emitted
            disk.next_sequence += 1
        self._crash_point("after commit")
