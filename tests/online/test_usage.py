"""Counting what view versions take of a store, and giving the room of old ones back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import rocksdict

from featurestore.compile.view import CompiledView, compile_view
from featurestore.compute.tiles import empty_tiles
from featurestore.online import layout
from featurestore.online.rocks import RocksMemory, open_primary, open_secondary
from featurestore.online.shard_store import RocksShardStore
from featurestore.online.source_store import open_source_store
from featurestore.online.usage import StoredBytes, folder_bytes, measure_versions
from featurestore.shard.protocol import Commit, Emitted, PendingWrite, RevisionWrite, RowSet, RowWrite, ViewState
from tests import factories

SOURCE, SHARDS = "events", 2
PREFIX, TIME, RUN, REVISION = 7, 10, 8, 4
"""Bytes of a key's view, of its dataset and time, of a running number, and of a revision."""


def version(number: int, view_id: int = 1) -> CompiledView:
    spec = factories.view_spec([factories.feature("count", factories.tumbling(10), None)])
    return compile_view(spec, factories.source_spec(), view_id=view_id, version=number)


def path(tmp_path: Path, shard: int) -> Path:
    return layout.shard_dir(tmp_path, SOURCE, shard)


def test_each_kind_of_entry_is_counted_for_its_version(tmp_path: Path):
    open_source_store(tmp_path, SOURCE, SHARDS)
    for shard in range(SHARDS):
        store = RocksShardStore(path(tmp_path, shard), RocksMemory())
        for view in (version(1), version(2), version(1, view_id=2)):
            rows = RowSet(empty_tiles(view.slots), np.zeros(3, dtype=np.int64))
            store.write(
                Commit(
                    states=[(view, ViewState())],
                    rows=[RowWrite(view, ["a", "bb", "ccc"], rows)],
                    pending=[PendingWrite(view, 0, 60_000_000, ["a"])],
                    revisions=[RevisionWrite(view, 0, [60_000_000], ["bb"], [1])],
                    emitted=[Emitted(view, "tumbling_10m", pl.DataFrame({"x": [1]}))],
                )
            )
        store.close()
    told: list[tuple[int, int]] = []
    found = measure_versions(tmp_path, SOURCE, lambda done, shards: told.append((done, shards)))
    assert told == [(1, 2), (2, 2)]
    assert found.keys() == {(1, 1), (1, 2), (2, 1)}
    one = found[1, 1]
    assert one == found[1, 2] == found[2, 1]
    assert one.entities == SHARDS * 3
    assert one.rows_bytes > SHARDS * (3 * PREFIX + 6)
    assert one.pending_bytes == SHARDS * (PREFIX + TIME + RUN + len(b"\x91\xa1a"))
    assert one.revisions_bytes == SHARDS * (PREFIX + TIME + len("bb") + REVISION)
    assert one.state_bytes > SHARDS * PREFIX
    assert one.total_bytes == one.rows_bytes + one.pending_bytes + one.revisions_bytes + one.state_bytes
    assert measure_versions(tmp_path, "another") == {}


def test_what_is_forgotten_is_gone_for_readers_and_from_the_disk_and_nothing_else_is(tmp_path: Path):
    open_source_store(tmp_path, SOURCE, 1)
    views = [version(1), version(2), version(1, view_id=2)]
    store = open_primary(path(tmp_path, 0), RocksMemory())
    batch = rocksdict.WriteBatch(raw_mode=True)
    for view in views:
        for number in range(3_000):
            batch.put(layout.row_prefix(view) + b"%05d" % number, os.urandom(300))
        batch.put(layout.state_key(view), b"state")
    batch.put(layout.META, layout.META_VALUE.pack(7, 9))
    store.write(batch)
    store.close()
    before = measure_versions(tmp_path, SOURCE)
    full = folder_bytes(path(tmp_path, 0))
    reader = open_secondary(path(tmp_path, 0), tmp_path / "scratch")
    shard = RocksShardStore(path(tmp_path, 0), RocksMemory())
    shard.forget(layout.version_prefixes(1, 1))
    shard.sync()
    shard.close()
    reader.try_catch_up_with_primary()
    assert [reader.get(layout.row_prefix(view) + b"00042") is None for view in views] == [True, False, False]
    reader.close()
    after = measure_versions(tmp_path, SOURCE)
    assert after == {place: size for place, size in before.items() if place != (1, 1)}
    assert full - folder_bytes(path(tmp_path, 0)) > 800_000
    store = open_primary(path(tmp_path, 0), RocksMemory())
    assert layout.META_VALUE.unpack(store[layout.META]) == (7, 9)
    store.close()


def test_sizes_add_up_field_by_field():
    assert StoredBytes(1, 2, 3, 4, 5).plus(StoredBytes(10, 20, 30, 40, 50)) == StoredBytes(11, 22, 33, 44, 55)
    assert StoredBytes(1, 2, 3, 4, 5).total_bytes == 14


def test_the_least_key_after_a_prefix_carries_over():
    assert layout.after_prefix(b"r\x00\xff") == b"r\x01\x00"
    assert all(layout.version_of(prefix + b"key") == (3, 65_535) for prefix in layout.version_prefixes(3, 65_535))
