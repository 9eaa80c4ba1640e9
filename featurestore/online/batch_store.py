"""The online store of one batch view, opened for writing: one shard, rows and the state of materialization.

A shard is a unit of parallel writing, and one process materializes a view: so there is one. The versions of the view
lie in it side by side, each under keys of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import polars as pl
import rocksdict

from featurestore.batches import NO_TIME
from featurestore.compile.batch import CompiledBatchView
from featurestore.online import layout
from featurestore.online.batch_rows import encode_batch_row, times_of
from featurestore.online.rocks import RocksMemory, open_primary, rocks_errors
from featurestore.online.source_store import open_source_store

SHARDS = 1


class Interval(msgspec.Struct, frozen=True):
    """What one run materializes: rows known in [from_us, to_us), µs; from_us None: from the beginning.

    started_us: when it began; the created time of rows that say none, so a repeated run writes the same. incremental:
    it goes on from where the last one ended, and so takes in what came late.
    """

    from_us: int | None
    to_us: int
    started_us: int
    incremental: bool


class SeenFile(msgspec.Struct, frozen=True, array_like=True):
    """A file as it was when it was read whole. newest_us: the latest instant at which one of its rows is known."""

    size: int
    mtime_ns: int
    newest_us: int


class BatchState(msgspec.Struct, frozen=True):
    """How far a batch view is materialized. until_us: rows known before are in both stores, None before the first run.

    since_us: rows known before were left out on purpose. ahead_us: end of what a backfill materialized beyond
    until_us. running: an interval that was begun and not finished. newest_us: largest event time stored, NO_TIME
    without rows. finished_us: when the last run ended.
    """

    until_us: int | None = None
    since_us: int | None = None
    ahead_us: int | None = None
    running: Interval | None = None
    newest_us: int = NO_TIME
    entities: int = 0
    finished_us: int | None = None


_STATE = msgspec.msgpack.Decoder(BatchState)
_SEEN = msgspec.msgpack.Decoder(dict[str, SeenFile])


def decode_state(value: bytes | None) -> BatchState:
    """The stored state; that of a view never materialized when there is none."""
    return BatchState() if value is None else _STATE.decode(value)


class BatchStore:
    """The store of one view version. The caller holds the view's lock (`lock_source`).

    fsync: sync the write-ahead log at every write; `begin` and `finish` always do.
    """

    def __init__(self, data_dir: Path, view: CompiledBatchView, *, fsync: bool = False) -> None:
        open_source_store(data_dir, view.store, SHARDS)
        self._view = view
        self._path = layout.shard_dir(data_dir, view.store, 0)
        self._db = open_primary(self._path, RocksMemory())
        self._options = rocksdict.WriteOptions()
        self._options.sync = fsync
        self._prefix = layout.row_prefix(view)
        self._files_key = layout.files_key(view)
        with rocks_errors(self._path):
            self.state = decode_state(self._db.get(layout.state_key(view)))

    def seen_files(self) -> dict[str, SeenFile]:
        """The source's files as they were when they were last read whole, by name."""
        with rocks_errors(self._path):
            value = self._db.get(self._files_key)
        return {} if value is None else _SEEN.decode(value)

    def begin(self, interval: Interval) -> None:
        """Note, durably, that an interval is being materialized: whatever happens, it is finished first."""
        self._write(rocksdict.WriteBatch(raw_mode=True), msgspec.structs.replace(self.state, running=interval))
        self._sync()

    def merge(self, rows: pl.DataFrame) -> int:
        """Store the rows that are newer than what is stored of their entity; how many entities changed.

        rows: `_key` (encoded), `_event_us`, `_created_us` (Int64) and the features, in the source's order. Newer is by
        event time, then created time, then order. Rows stored already change nothing.
        """
        newest = (
            rows.with_row_index("_row")
            .sort("_key", "_event_us", "_created_us", "_row")
            .unique("_key", keep="last", maintain_order=True)
        )
        keys = [self._prefix + key.encode() for key in newest["_key"]]
        batch = rocksdict.WriteBatch(raw_mode=True)
        added = written = 0
        stored = self._get(keys)
        times = zip(newest["_event_us"].to_list(), newest["_created_us"].to_list(), strict=True)
        values = newest.select(list(self._view.features)).iter_rows()
        for key, old, (event_us, created_us), row in zip(keys, stored, times, values, strict=True):
            if old is not None and times_of(old) > (event_us, created_us):
                continue
            new = encode_batch_row(event_us, created_us, row)
            if new != old:
                batch.put(key, new)
                written += 1
                added += old is None
        if written:
            state = self.state
            largest = max(state.newest_us, newest["_event_us"].max())  # type: ignore[type-var]
            self._write(
                batch,
                msgspec.structs.replace(state, newest_us=largest, entities=state.entities + added),
            )
        return written

    def finish(self, state: BatchState, files: dict[str, SeenFile]) -> None:
        """Make the rows and the new state durable."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        batch.put(self._files_key, msgspec.msgpack.encode(files))
        self._write(batch, state)
        self._sync()

    def close(self) -> None:
        """Release the store."""
        self._db.close()

    def _write(self, batch: rocksdict.WriteBatch, state: BatchState) -> None:
        batch.put(layout.state_key(self._view), msgspec.msgpack.encode(state))
        with rocks_errors(self._path):
            self._db.write(batch, self._options)
        self.state = state

    def _sync(self) -> None:
        with rocks_errors(self._path):
            self._db.flush_wal(True)

    def _get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with rocks_errors(self._path):
            # rocksdict's stub wants a list of any key type, which is invariant.
            values: list[bytes | None] = self._db.get(list(keys))  # type: ignore[assignment]
        return values
