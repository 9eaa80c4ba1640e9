"""Opening RocksDB: options, and its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rocksdict

from featurestore.errors import StoreError, StoreFormatError, StoreFullError, StoreLockedError

MEMTABLE_BUDGET_BYTES = 128 * 2**20
BLOCK_CACHE_BYTES = 48 * 2**20


class RocksMemory:
    """Memory that all shards of one process share: the block cache and the limit of all memtables together."""

    def __init__(self) -> None:
        self.cache = rocksdict.Cache(BLOCK_CACHE_BYTES)
        # allow_stall False: a commit must not wait for flushes of other shards.
        self.memtables = rocksdict.WriteBufferManager(MEMTABLE_BUDGET_BYTES, False)


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


def open_secondary(path: Path, scratch: Path) -> rocksdict.Rdict:
    """Open a shard for reading beside its primary; `scratch` is a folder of this reader alone."""
    options = rocksdict.Options(raw_mode=True)
    # With a limit a secondary fails once compaction has removed files it had closed.
    options.set_max_open_files(-1)
    options.set_keep_log_file_num(1)
    options.set_stats_dump_period_sec(0)
    with rocks_errors(path):
        return rocksdict.Rdict(str(path), options=options, access_type=rocksdict.AccessType.secondary(str(scratch)))


@contextmanager
def rocks_errors(path: Path) -> Iterator[None]:
    """Turn RocksDB's errors, which have no types of their own, into ours."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, rocksdict.DbClosedError | OSError):
            raise
        text = str(error)
        if "No space left" in text:
            raise StoreFullError(
                f"disk is full: {path}", hint="free space; nothing of this commit was written"
            ) from error
        if "lock hold" in text or "While lock file" in text or "No locks available" in text:
            raise StoreLockedError(
                f"shard {path} is open in another process", hint="stop the other run of this source, then start again"
            ) from error
        if "Corruption" in text or "checksum" in text:
            raise StoreFormatError(
                f"shard {path} is damaged: {text}", hint="restore the folder from a backup"
            ) from error
        raise StoreError(f"shard {path}: {text}") from error
