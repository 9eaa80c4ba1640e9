"""Copies all that a shard knows of a view into another store's shard of the same number."""

from __future__ import annotations

from pathlib import Path

import rocksdict

from featurestore.compile.view import CompiledView
from featurestore.online import layout
from featurestore.online.rocks import RocksMemory, open_primary, rocks_errors, scan

BATCH_BYTES = 4 * 2**20


def copy_view(origin: Path, target: Path, view: CompiledView, memory: RocksMemory) -> int:
    """Copy a view's rows, windows that wait for emission, revisions, and its state at last; returns how many rows.

    origin, target: folders of shards that nobody else has open. Until its state is there the view has never run in
    `target`, so a copy that was cut short is simply made again.
    """
    source, sink = open_primary(origin, memory), open_primary(target, memory)
    try:
        with rocks_errors(target):
            rows = _copy_entries(source, sink, view)
            batch = rocksdict.WriteBatch(raw_mode=True)
            state = source.get(layout.state_key(view))
            if state is not None:
                batch.put(layout.state_key(view), state)
            # Entries that come later must not take the running numbers of those that were copied.
            sequence, run = _meta(sink)
            batch.put(layout.META, layout.META_VALUE.pack(sequence, max(run, _meta(source)[1])))
            sink.write(batch)
            sink.flush_wal(True)
    finally:
        source.close()
        sink.close()
    return rows


def knows_view(shard: Path, view: CompiledView, memory: RocksMemory) -> bool:
    """Whether a view has begun in a shard that nobody else has open."""
    store = open_primary(shard, memory)
    try:
        with rocks_errors(shard):
            return store.get(layout.state_key(view)) is not None
    finally:
        store.close()


def _copy_entries(source: rocksdict.Rdict, sink: rocksdict.Rdict, view: CompiledView) -> int:
    rows = size = 0
    batch = rocksdict.WriteBatch(raw_mode=True)
    for prefix in layout.view_prefixes(view):
        for key, value in scan(source, prefix, layout.after_prefix(prefix)):
            batch.put(key, value)
            rows += prefix == layout.row_prefix(view)
            size += len(key) + len(value)
            if size >= BATCH_BYTES:
                sink.write(batch)
                batch, size = rocksdict.WriteBatch(raw_mode=True), 0
    sink.write(batch)
    return rows


def _meta(store: rocksdict.Rdict) -> tuple[int, int]:
    value = store.get(layout.META)
    return (0, 0) if value is None else layout.META_VALUE.unpack(value)
