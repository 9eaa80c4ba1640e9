"""Keys inside a shard, and the folders of a source's store.

    m                                           next outbox sequence and next running number of `p` entries
    s <view id> <version>                       state of a view: fences, watermark, counts
    r <view id> <version> <entity key>          row of an entity
    p <view id> <version> <dataset> <pane> <n>  entities waiting for emission, packed
    c <view id> <version> <dataset> <end> <key> revision of a corrected window
    o <sequence>                                outbox entry

Numbers are big-endian so that keys sort as numbers do; times are shifted by 2^63 to sort as unsigned.
"""

from __future__ import annotations

import struct
from pathlib import Path

from featurestore.compile.view import CompiledView

META = b"m"
META_VALUE = struct.Struct(">QQ")
"""Next outbox sequence, next running number."""
_VIEW = struct.Struct(">cIH")
_DATASET = struct.Struct(">cIHHQ")
_OUTBOX = struct.Struct(">cQ")
_SHIFT = 2**63


def state_key(view: CompiledView) -> bytes:
    """Key of a view's state."""
    return _VIEW.pack(b"s", view.view_id, view.version)


def row_prefix(view: CompiledView) -> bytes:
    """What every row key of a view begins with; the entity key follows."""
    return _VIEW.pack(b"r", view.view_id, view.version)


def pending_key(view: CompiledView, dataset_index: int, pane_us: int) -> bytes:
    """Key of a pane's waiting entities, without the running number."""
    return _DATASET.pack(b"p", view.view_id, view.version, dataset_index, pane_us + _SHIFT)


def revision_key(view: CompiledView, dataset_index: int, end_us: int) -> bytes:
    """Key of a corrected window; the entity key follows."""
    return _DATASET.pack(b"c", view.view_id, view.version, dataset_index, end_us + _SHIFT)


def view_prefixes(view: CompiledView) -> tuple[bytes, ...]:
    """What every key of a view begins with, its state's aside: rows, waiting entities, revisions."""
    return tuple(_VIEW.pack(kind, view.view_id, view.version) for kind in (b"r", b"p", b"c"))


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
    return data_dir / "online" / source


def shard_dir(data_dir: Path, source: str, shard: int) -> Path:
    """Folder of one shard's RocksDB."""
    return source_dir(data_dir, source) / f"shard-{shard:04d}"
