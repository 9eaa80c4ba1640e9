"""Whether the shards of a source can be read: every entry of every table against its block's checksum."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from featurestore.errors import StoreError
from featurestore.online import layout
from featurestore.online.rocks import open_secondary, rocks_errors, scan
from featurestore.online.scratch import ScratchFolder
from featurestore.online.source_store import read_store_info


def damaged_shards(data_dir: Path, source: str) -> Iterator[StoreError]:
    """The error of each shard that can't be read, beside its worker. Raises StoreFormatError when there is no telling
    how many there are."""
    info = read_store_info(data_dir, source)
    scratch = ScratchFolder("integrity")
    try:
        for shard in range(info.shards if info is not None else 0):
            path = layout.shard_dir(data_dir, source, shard)
            try:
                with rocks_errors(path):
                    store = open_secondary(path, scratch.path / f"{shard:04d}")
                    try:
                        for _ in scan(store, b"", b"\xff"):
                            pass
                    finally:
                        store.close()
            except StoreError as error:
                yield error
    finally:
        scratch.remove()
