"""Opening RocksDB: options, and its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rocksdict

from featurestore.errors import StoreError, StoreFormatError, StoreFullError, StoreLockedError

MEMTABLE_BUDGET_BYTES = 64 * 2**20
BLOCK_CACHE_BYTES = 32 * 2**20
READ_CACHE_BYTES = 64 * 2**20
"""Uncompressed blocks that a reader keeps, all shards of a source together."""


class RocksMemory:
    """Memory that all shards of one process share: the block cache and the limit of all memtables together."""

    def __init__(self) -> None:
        self.cache = rocksdict.Cache(BLOCK_CACHE_BYTES)
        # allow_stall False: a commit must not wait for flushes of other shards.
        self.memtables = rocksdict.WriteBufferManager(MEMTABLE_BUDGET_BYTES, False)


def read_cache() -> rocksdict.Cache:
    """A block cache for the shards of one reader."""
    return rocksdict.Cache(READ_CACHE_BYTES)


def primary_options(memory: RocksMemory) -> rocksdict.Options:
    """Options of a worker's shard."""
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_manager(memory.memtables)
    # A commit rewrites hot rows again and again: a larger memtable lets them die there instead of in compaction.
    options.set_write_buffer_size(32 * 2**20)
    options.set_max_background_jobs(2)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(2**20)
    options.set_stats_dump_period_sec(0)
    options.set_max_open_files(-1)
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(memory.cache)
    table.set_bloom_filter(10, False)
    options.set_block_based_table_factory(table)
    return options


def open_primary(path: Path, memory: RocksMemory) -> rocksdict.Rdict:
    """Open a shard for reading and writing, made when missing. Raises StoreLockedError, StoreFormatError."""
    with rocks_errors(path):
        return rocksdict.Rdict(str(path), options=primary_options(memory))


def open_secondary(path: Path, scratch: Path, cache: rocksdict.Cache | None = None) -> rocksdict.Rdict:
    """Open a shard for reading beside its primary; `scratch` is a folder of this reader alone.

    cache: for blocks, shared by the shards of a reader (`read_cache`).
    """
    options = rocksdict.Options(raw_mode=True)
    table = rocksdict.BlockBasedOptions()
    if cache is not None:
        table.set_block_cache(cache)
    # The tables' filters are used only by a reader that names them; most lookups of a table are of other keys.
    table.set_bloom_filter(10, False)
    options.set_block_based_table_factory(table)
    # With a limit a secondary fails once compaction has removed files it had closed.
    options.set_max_open_files(-1)
    # By default every catching-up starts 15 threads, whether there is a table to open or not: 0.7 ms with the GIL held.
    options.set_max_file_opening_threads(1)
    options.set_keep_log_file_num(1)
    options.set_stats_dump_period_sec(0)
    with rocks_errors(path):
        return rocksdict.Rdict(str(path), options=options, access_type=rocksdict.AccessType.secondary(str(scratch)))


@contextmanager
def rocks_errors(path: Path) -> Iterator[None]:
    """Turn RocksDB's errors, which have no types of their own, into ours."""
    try:
        yield
    except Exception as error:
        ours = our_error(path, error)
        if ours is None:
            raise
        raise ours from error


def our_error(path: Path, error: Exception) -> StoreError | None:
    """The error of ours that an error of RocksDB is; None for any other one."""
    if type(error) is not Exception and not isinstance(error, rocksdict.DbClosedError | OSError):
        return None
    text = str(error)
    if "No space left" in text:
        return StoreFullError(f"disk is full: {path}", hint="free space; nothing of this commit was written")
    if "lock hold" in text or "While lock file" in text or "No locks available" in text:
        return StoreLockedError(
            f"shard {path} is open in another process", hint="stop the other run of this source, then start again"
        )
    if "Corruption" in text or "checksum" in text:
        return StoreFormatError(f"shard {path} is damaged: {text}", hint="restore the folder from a backup")
    return StoreError(f"shard {path}: {text}")
