"""Makes the online stores of a registry's sources, empty: `python -m benchmarks.registry.stores DATA_DIR`.

A server is ready once a store is open; with them all it opens as many as a worker would leave.
"""

from __future__ import annotations

import sys
from pathlib import Path

from featurestore.online import layout
from featurestore.online.rocks import RocksMemory
from featurestore.online.shard_store import RocksShardStore
from featurestore.online.source_store import open_source_store
from featurestore.registry import Registry, registry_file

SHARDS = 8


def make_stores(data_dir: Path) -> None:
    """Make them, closed again."""
    registry = Registry.open(registry_file(data_dir), create=False)
    sources = registry.sources()
    registry.close()
    memory = RocksMemory()
    for source in sources:
        open_source_store(data_dir, source, SHARDS)
        for shard in range(SHARDS):
            RocksShardStore(layout.shard_dir(data_dir, source, shard), memory).close()


if __name__ == "__main__":
    make_stores(Path(sys.argv[1]))
