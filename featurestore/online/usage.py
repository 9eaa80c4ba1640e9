"""What views take of an online store, counted entry by entry, and what folders take on disk.

A scan reads the whole store: it is for a person who asks, not for a loop. It runs beside a worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import msgspec
import rocksdict

from featurestore.compile.view import CompiledView
from featurestore.online import layout
from featurestore.online.rocks import open_secondary, rocks_errors, scan
from featurestore.online.rows import slot_bytes, tile_bytes
from featurestore.online.scratch import ScratchFolder
from featurestore.online.source_store import read_store_info


class StoredBytes(msgspec.Struct, frozen=True):
    """Entries of one view version over all shards: uncompressed bytes of their keys and values. entities: its rows."""

    entities: int = 0
    rows_bytes: int = 0
    pending_bytes: int = 0
    revisions_bytes: int = 0
    state_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of them together."""
        return self.rows_bytes + self.pending_bytes + self.revisions_bytes + self.state_bytes

    def plus(self, other: StoredBytes) -> StoredBytes:
        """The sums, field by field."""
        return StoredBytes(
            self.entities + other.entities,
            self.rows_bytes + other.rows_bytes,
            self.pending_bytes + other.pending_bytes,
            self.revisions_bytes + other.revisions_bytes,
            self.state_bytes + other.state_bytes,
        )


Versions = dict[tuple[int, int], StoredBytes]
"""By view id and version."""


def measure_versions(
    data_dir: Path,
    source: str,
    on_shard: Callable[[int, int], None] | None = None,
    only: Collection[int] | None = None,
) -> Versions:
    """Count what every view version, the older ones too, has in a source's store; empty before the first run.

    on_shard: called with (shards done, shards) after each. only: these shards. Raises StoreError when
    a shard can't be read.
    """
    found: Versions = {}
    info = read_store_info(data_dir, source)
    if info is None:
        return found
    scratch = ScratchFolder("usage")
    try:
        for shard in range(info.shards) if only is None else only:
            path = layout.shard_dir(data_dir, source, shard)
            store = open_secondary(path, scratch.path / f"{shard:04d}")
            try:
                with rocks_errors(path):
                    _add(found, store)
            finally:
                store.close()
            if on_shard is not None:
                on_shard(shard + 1, info.shards)
    finally:
        scratch.remove()
    return found


def _add(found: Versions, store: rocksdict.Rdict) -> None:
    for kind in layout.VIEW_KINDS:
        counts: dict[bytes, list[int]] = {}
        for key, value in scan(store, kind, layout.after_prefix(kind)):
            count = counts.setdefault(key[: layout.VIEW_PREFIX_BYTES], [0, 0])
            count[0] += 1
            count[1] += len(key) + len(value)
        for prefix, (entries, size) in counts.items():
            place = layout.version_of(prefix)
            found[place] = found.get(place, StoredBytes()).plus(_of_kind(kind, entries, size))


def _of_kind(kind: bytes, entries: int, size: int) -> StoredBytes:
    if kind == layout.ROW:
        return StoredBytes(entities=entries, rows_bytes=size)
    if kind == layout.PENDING:
        return StoredBytes(pending_bytes=size)
    return StoredBytes(revisions_bytes=size) if kind == layout.REVISION else StoredBytes(state_bytes=size)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under a folder, 0 when there is none; files that go meanwhile are left out."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


def freed_shares(view: CompiledView, features: Collection[str]) -> dict[str, float]:
    """Which share of the bytes of the view's tiles each of these features frees when all of them go.

    A slot goes when no other feature needs it, and is shared out among those that did: two windows of one sum share its
    slot, and the count of events always stays. By the widths of a tile's fields; texts, whose bytes differ, count with
    their length alone.
    """
    widths = slot_bytes(view)
    needs = {
        spec.name: {
            slot.name for slot in view.features[spec.name].aggregate.slots(spec.column or "", spec.input_dtype or "")
        }
        for spec in view.spec.features
    }
    going = [name for name in needs if name in features]
    kept = {"count"}.union(*(slots for name, slots in needs.items() if name not in features))
    whole = tile_bytes(view)
    freed = dict.fromkeys(going, 0.0)
    for slot in set().union(*(needs[name] for name in going)) - kept:
        users = [name for name in going if slot in needs[name]]
        for name in users:
            freed[name] += widths[slot] / len(users) / whole
    return freed
