"""Opening RocksDB: options, and its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rocksdict

from featurestore.compile.batch import BATCH_STORES
from featurestore.errors import StoreError, StoreFormatError, StoreFullError, StoreLockedError
from featurestore.namespaces import name_of_folder

MEMTABLE_BUDGET_BYTES = 64 * 2**20
BLOCK_CACHE_BYTES = 32 * 2**20
READ_CACHE_BYTES = 64 * 2**20
"""Uncompressed blocks that a reader keeps, all shards of a source together."""


_FULL = ("No space left", "Disk quota exceeded")
_READ_ONLY = ("Read-only file system", "Permission denied", "Operation not permitted")
_DAMAGED = ("Corruption", "checksum", "No such file")
"""What RocksDB's messages have in them; its errors come without a type."""


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
    options.set_paranoid_checks(True)
    # A record that was cut off is what a kill leaves, and is dropped. One that is there and wrong is damage: by default
    # all that follows it would be dropped too, without a word.
    options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.tolerate_corrupted_tail_records())
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


def scan(store: rocksdict.Rdict, first: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Entries with first <= key < end, in order. Raises RocksDB's own error at a damaged block: see `rocks_errors`."""
    iterator = store.iter()
    iterator.seek(first)
    while iterator.valid() and (key := iterator.key()) < end:
        yield key, iterator.value()
        iterator.next()
    # An iterator that meets a damaged block is not valid any more, as one that has come to the end.
    iterator.status()


def scan_keys(store: rocksdict.Rdict, first: bytes, end: bytes) -> Iterator[bytes]:
    """Keys alone, as `scan`."""
    iterator = store.iter()
    iterator.seek(first)
    while iterator.valid() and (key := iterator.key()) < end:
        yield key
        iterator.next()
    iterator.status()


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


def way_out(shard: Path) -> str:
    """What an operator does about a damaged shard, or about a file beside it."""
    if shard.parent.parent.name == BATCH_STORES.rstrip("/"):
        return "put a backup in its place: featurestore restore FOLDER; or begin a new version of the view"
    source = name_of_folder(shard.parent.name)
    return f"make it again from the archive: featurestore rebuild {source}; or: featurestore restore FOLDER"


def our_error(path: Path, error: Exception) -> StoreError | None:
    """The error of ours that an error of RocksDB is; None for any other one."""
    if type(error) is not Exception and not isinstance(error, rocksdict.DbClosedError | OSError):
        return None
    text = str(error)
    if any(told in text for told in _FULL):
        return StoreFullError(
            f"disk is full: {path}",
            hint="free space, then start again: nothing of this commit was written, the run goes on from before it",
        )
    if "lock hold" in text or "While lock file" in text or "No locks available" in text:
        return StoreLockedError(
            f"shard {path} is open in another process", hint="stop the other run of this source, then start again"
        )
    if any(told in text for told in _READ_ONLY):
        return StoreError(
            f"shard {path} can't be written: {text}", hint="make it writable for this user, then start again"
        )
    if any(told in text for told in _DAMAGED):
        return StoreFormatError(f"shard {path} is damaged: {text}", hint=way_out(path))
    return StoreError(f"shard {path}: {text}")
