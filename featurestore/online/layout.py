"""Keys inside a shard, and the folders of a source's store.

    m                                           next outbox sequence and next running number of `p` entries
    s <view id> <version>                       state of a view: fences, watermark, counts
    r <view id> <version> <entity key>          row of an entity
    p <view id> <version> <dataset> <pane> <n>  entities waiting for emission, packed
    c <view id> <version> <dataset> <end> <key> revision of a corrected window
    o <sequence>                                outbox entry
    f <view id> <version>                       files that a batch view has read

Numbers are big-endian so that keys sort as numbers do; times are shifted by 2^63 to sort as unsigned.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Protocol

from featurestore.compile.batch import BATCH_STORES
from featurestore.compile.view import CompiledView
from featurestore.namespaces import folder_name

META = b"m"
META_VALUE = struct.Struct(">QQ")
"""Next outbox sequence, next running number."""
ROW, PENDING, REVISION, STATE, FILES = b"r", b"p", b"c", b"s", b"f"
VIEW_KINDS = (ROW, PENDING, REVISION, STATE, FILES)
"""First bytes of all keys that belong to one view version."""
_VIEW = struct.Struct(">cIH")
VIEW_PREFIX_BYTES = _VIEW.size
_DATASET = struct.Struct(">cIHHQ")
_OUTBOX = struct.Struct(">cQ")
_SHIFT = 2**63


class StoredView(Protocol):
    """What keys need to know of a view, of either kind."""

    @property
    def view_id(self) -> int: ...

    @property
    def version(self) -> int: ...


def state_key(view: StoredView) -> bytes:
    """Key of a view's state."""
    return _VIEW.pack(STATE, view.view_id, view.version)


def files_key(view: StoredView) -> bytes:
    """Key of the files that a batch view has read."""
    return _VIEW.pack(FILES, view.view_id, view.version)


def row_prefix(view: StoredView) -> bytes:
    """What every row key of a view begins with; the entity key follows."""
    return _VIEW.pack(ROW, view.view_id, view.version)


def pending_key(view: CompiledView, dataset_index: int, pane_us: int) -> bytes:
    """Key of a pane's waiting entities, without the running number."""
    return _DATASET.pack(PENDING, view.view_id, view.version, dataset_index, pane_us + _SHIFT)


def revision_key(view: CompiledView, dataset_index: int, end_us: int) -> bytes:
    """Key of a corrected window; the entity key follows."""
    return _DATASET.pack(REVISION, view.view_id, view.version, dataset_index, end_us + _SHIFT)


def view_prefixes(view: CompiledView) -> tuple[bytes, ...]:
    """What every key of a view begins with, its state's aside: rows, waiting entities, revisions."""
    return tuple(_VIEW.pack(kind, view.view_id, view.version) for kind in (ROW, PENDING, REVISION))


def version_prefixes(view_id: int, version: int) -> tuple[bytes, ...]:
    """What every key of a view version begins with, its state's too."""
    return tuple(_VIEW.pack(kind, view_id, version) for kind in VIEW_KINDS)


def version_of(key: bytes) -> tuple[int, int]:
    """View id and version of a key that belongs to a view."""
    _, view_id, version = _VIEW.unpack_from(key)
    return view_id, version


def after_prefix(prefix: bytes) -> bytes:
    """The least key that is greater than all keys with this prefix."""
    return (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")


def time_of(key: bytes) -> int:
    """The pane or end of a pending or revision key, µs."""
    shifted: int = _DATASET.unpack_from(key)[4]
    return shifted - _SHIFT


def outbox_key(sequence: int) -> bytes:
    """Key of an outbox entry."""
    return _OUTBOX.pack(b"o", sequence)


def sequence_of(key: bytes) -> int:
    """The sequence of an outbox key."""
    sequence: int = _OUTBOX.unpack(key)[1]
    return sequence


def source_dir(data_dir: Path, source: str) -> Path:
    """Folder of a source's online store."""
    kind, name = (BATCH_STORES, source.removeprefix(BATCH_STORES)) if is_batch_store(source) else ("", source)
    return data_dir / "online" / kind / folder_name(name)


def is_batch_store(source: str) -> bool:
    """Whether a store's name is that of a batch view (`CompiledBatchView.store`)."""
    return source.startswith(BATCH_STORES)


def shard_dir(data_dir: Path, source: str, shard: int) -> Path:
    """Folder of one shard's RocksDB."""
    return source_dir(data_dir, source) / f"shard-{shard:04d}"
