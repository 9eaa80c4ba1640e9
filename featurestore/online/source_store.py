"""A source's online store as a whole: made once with a fixed number of shards, locked by one run at a time."""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec

from featurestore.compile.batch import BATCH_STORES
from featurestore.errors import StoreError, StoreFormatError, StoreLockedError
from featurestore.namespaces import folder_name
from featurestore.online import layout
from featurestore.online.rocks import RocksMemory, open_primary, rocks_errors, way_out

FORMAT_VERSION = 1
LOCK_NAME = "LOCK"
"""File of a source's folder that whoever runs the source holds a lock on."""
RESTORE_GATE = "restore.json"
REBUILD_GATE = "exchange.json"


class StoreInfo(msgspec.Struct, frozen=True):
    """What store.json says. incarnation: unique for each store ever made."""

    format_version: int
    shards: int
    incarnation: str


@dataclass
class SourceLock:
    """The lock of a source's store, held while `descriptor` is open; children that inherit it hold it too."""

    descriptor: int

    def release(self) -> None:
        """Give the lock up (other processes that inherited it still hold it)."""
        os.close(self.descriptor)


def lock_source(data_dir: Path, source: str, *, wait_s: float = 5.0, mending: bool = False) -> SourceLock:
    """Lock a source's store, or a batch view's, for this run, before anything is touched.

    wait_s: how long to wait for a holder that is already dead or dying. mending: go on with a restore or rebuild that
    was cut off. Raises StoreLockedError with the holder's pid, StoreError while a restore or rebuild is half done.
    """
    if not mending:
        check_whole(data_dir, source)
    folder = layout.source_dir(data_dir, source)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(descriptor, True)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 32, 0).decode().strip()
            if (holder.isdigit() and _alive(int(holder))) or time.monotonic() > deadline:
                os.close(descriptor)
                raise StoreLockedError(
                    f"{_held(source)} by process {holder or '?'} already",
                    hint="one run at a time owns a store: stop that process, or use another data_dir",
                ) from None
            time.sleep(0.05)
            continue
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return SourceLock(descriptor)


def _held(store: str) -> str:
    if layout.is_batch_store(store):
        return f"batch view '{store.removeprefix(BATCH_STORES)}' is being materialized"
    return f"source '{store}' is being run"


def gates_of(data_dir: Path, source: str) -> dict[Path, str]:
    """Files whose presence says that a source's store is half exchanged, and the command that finishes it."""
    return {
        data_dir / RESTORE_GATE: "featurestore restore FOLDER, the one that was named before",
        rebuild_dir(data_dir, source) / REBUILD_GATE: f"featurestore rebuild {source}",
    }


def rebuild_dir(data_dir: Path, source: str) -> Path:
    """The data_dir in which a source's store is rebuilt."""
    return data_dir / "rebuild" / folder_name(source)


def check_whole(data_dir: Path, source: str) -> None:
    """Raise StoreError while a restore or rebuild of the source's store is half done."""
    for gate, command in gates_of(data_dir, source).items():
        if gate.exists():
            raise StoreError(
                f"the store of '{source}' in {data_dir} is half exchanged: a command that put another in its place was "
                "cut off",
                hint=f"finish it: {command}",
            )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_store_info(data_dir: Path, source: str) -> StoreInfo | None:
    """What store.json says, None when the store was never made. Raises StoreFormatError for another format."""
    path = layout.source_dir(data_dir, source) / "store.json"
    if not path.exists():
        return None
    try:
        info = msgspec.json.decode(path.read_bytes(), type=StoreInfo)
    except msgspec.DecodeError as error:
        raise StoreFormatError(
            f"{path} is damaged: {error}", hint=way_out(layout.shard_dir(data_dir, source, 0))
        ) from error
    if info.format_version != FORMAT_VERSION:
        raise StoreFormatError(
            f"{path}: the store has format {info.format_version}, this version reads {FORMAT_VERSION}",
            hint="use the featurestore version that wrote it, or begin with an empty data_dir",
        )
    return info


def open_source_store(data_dir: Path, source: str, shards: int) -> StoreInfo:
    """Make the store when it is new, else check that every shard is there; the caller holds the lock.

    shards: for a new store; an existing one keeps its own. Raises StoreFormatError when a shard is missing or empty.
    """
    folder = layout.source_dir(data_dir, source)
    info = read_store_info(data_dir, source)
    if info is None:
        # store.json comes last: without it the store was never finished, and holds nothing yet.
        memory = RocksMemory()
        for shard in range(shards):
            open_primary(layout.shard_dir(data_dir, source, shard), memory).close()
        info = StoreInfo(FORMAT_VERSION, shards, uuid.uuid4().hex[:12])
        with rocks_errors(folder):
            temporary = folder / ".store.json"
            temporary.write_text(json.dumps(msgspec.to_builtins(info)))
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.rename(folder / "store.json")
        return info
    for shard in range(info.shards):
        path = layout.shard_dir(data_dir, source, shard)
        if not (path / "CURRENT").exists():
            raise StoreFormatError(
                f"shard {path} is missing or empty while the store has {info.shards} shards",
                hint=way_out(path),
            )
    return info
