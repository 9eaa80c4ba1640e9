"""How long the growing files of shards were when they were last synced: a file that is shorter later was cut.

    online/<source>/synced/process-<n>.json

RocksDB takes a manifest or a log that ends early for one that a kill has cut off, and goes on from an earlier moment.
So it should, as far as nobody has relied on what is missing; what was synced before snapshots were written they need.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from featurestore.errors import StoreFormatError
from featurestore.online import layout
from featurestore.online.rocks import rocks_errors, way_out

Sizes = dict[str, int]
"""Bytes of the manifest in force and of the logs of one shard, by name."""

_Note = dict[int, Sizes]


def growing_sizes(shard: Path) -> Sizes:
    """Of a shard as it is now. Taken before a sync, they are synced after it."""
    manifest = (shard / "CURRENT").read_text().strip()
    sizes = {}
    for name in os.listdir(shard):
        if name == manifest or name.endswith(".log"):
            # A log may go at any moment: RocksDB's own threads write tables of what is in it.
            with contextlib.suppress(FileNotFoundError):
                sizes[name] = (shard / name).stat().st_size
    return sizes


def note_sizes(data_dir: Path, source: str, process: int, sizes: Mapping[int, Sizes]) -> None:
    """Remember what was synced, by shard of this process."""
    path = layout.source_dir(data_dir, source) / "synced" / f"process-{process}.json"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with rocks_errors(path.parent):
        temporary.write_bytes(msgspec.json.encode(sizes))
        temporary.replace(path)


def check_sizes(data_dir: Path, source: str) -> None:
    """Raise StoreFormatError when a shard has lost what was synced. Before the shards are opened."""
    for path in sorted((layout.source_dir(data_dir, source) / "synced").glob("process-*.json")):
        try:
            note = msgspec.json.decode(path.read_bytes(), type=_Note)
        except msgspec.DecodeError:
            continue  # what guards others is not worth a refusal: the next sync writes it again
        for shard, sizes in note.items():
            _check_shard(layout.shard_dir(data_dir, source, shard), sizes)


def _check_shard(shard: Path, sizes: Sizes) -> None:
    try:
        found = growing_sizes(shard)
    except (FileNotFoundError, UnicodeDecodeError):
        return  # whoever opens it says what is wrong
    for name, size in sizes.items():
        if name in found and found[name] < size:
            raise StoreFormatError(
                f"{shard / name} is damaged: it was cut from {size:,} bytes or more to {found[name]:,}",
                hint=way_out(shard),
            )
    manifest = next((name for name in found if name.startswith("MANIFEST")), None)
    gone = sorted(sizes.keys() - found.keys())
    # A log goes when a table has what was in it, which the manifest then tells.
    if gone and manifest is not None and sizes.get(manifest) == found[manifest]:
        raise StoreFormatError(f"{shard / gone[0]} is gone", hint=way_out(shard))
