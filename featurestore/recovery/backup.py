"""`featurestore backup`: a copy of the whole data_dir that a restore goes on from, taken while workers run.

What must fit together is pinned (`pins.py`) while no step is under way (`online/steps.py`), in this order:

    1. shards, each by itself          their fences say where each goes on
    2. the rest of the online store    intents and outboxes fit, for nobody is between a file and its outbox entry
    3. snapshots                       with every row that a shard has dropped, and none that it still holds
    4. events, late events, dead letters    an archive that is ahead of the shards skips what is replayed;
                                       its late events and dead letters past the events' end are cut when it is opened
    5. verdict journals                they know the verdict on all that is in the above
    6. the registry                    it knows every view version that a shard knows

Then it is copied, with a digest of each file.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import msgspec
import structlog

from featurestore.compile.batch import BATCH_STORES
from featurestore.config import Settings
from featurestore.errors import StoreError, StoreLockedError
from featurestore.namespaces import name_of_folder
from featurestore.offline.atomic import store_full_errors, sync_folders
from featurestore.offline.layout import manifest_path
from featurestore.online import layout
from featurestore.online.source_store import FORMAT_VERSION as STORE_FORMAT
from featurestore.online.source_store import LOCK_NAME, SourceLock, lock_source, read_store_info
from featurestore.online.steps import between_steps
from featurestore.recovery.manifest import (
    DATA,
    FORMAT_VERSION,
    BackupFile,
    BackupManifest,
    read_manifest,
    write_manifest,
)
from featurestore.recovery.pins import Pins, open_pins
from featurestore.registry.database import copy_file, registry_file

log = structlog.get_logger()

OnBytes = Callable[[int, int], None]
"""Called with (bytes done, bytes of all)."""

MATERIALIZATION_WAIT_S = 60.0
_ATTEMPTS = 20
_CHUNK_BYTES = 4 * 2**20
_NOT_OFFLINE = ("offline/_iceberg/", "offline/_maintenance/LOCK")
"""Iceberg's metadata name files by absolute paths; `featurestore offline iceberg` makes them again."""


class BackupReport(msgspec.Struct, frozen=True):
    """What was copied. linked: files that are the same in the earlier backup. registry: whether it is in there."""

    folder: str
    made_at: str
    sources: list[str]
    files: int
    linked: int
    size_bytes: int
    registry: bool


class _ChangedError(Exception):
    """Something was replaced while it was being pinned: pin again."""


def backup(
    settings: Settings, folder: Path, *, base: Path | None = None, on_bytes: OnBytes = lambda done, all_bytes: None
) -> BackupReport:
    """Copy the data_dir into an empty or new folder. base: an earlier backup on the same file system as `folder`, whose
    unchanged files are linked instead of copied.

    Raises StoreError when the folder holds something, StoreLockedError when a batch view is being materialized or
    another backup is under way, StoreFullError.
    """
    data_dir = settings.store.data_dir
    if folder.exists() and any(folder.iterdir()):
        raise StoreError(f"{folder} is not empty", hint="name a new folder for each backup")
    if folder.resolve().is_relative_to(data_dir.resolve()):
        raise StoreError(f"{folder} lies in the data_dir itself", hint="a backup belongs on another disk")
    earlier = {} if base is None else {file.path: file for file in read_manifest(base).files}
    with_registry = isinstance(settings.registry_place, Path)
    with open_pins(data_dir) as pins:
        sources = _pin_all(data_dir, pins)
        made_at = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
        if with_registry and settings.registry_place.exists():  # type: ignore[union-attr]
            _pin_registry(data_dir, Path(settings.registry_place), pins)
        linked, copied = _copy(pins, folder, earlier, base, on_bytes)
    manifest = BackupManifest(
        FORMAT_VERSION, STORE_FORMAT, version("featurestore"), made_at, sources, with_registry, copied
    )
    write_manifest(folder, manifest)
    log.info("backup_made", folder=str(folder), files=len(copied), bytes=manifest.size_bytes)
    return BackupReport(str(folder), made_at, sources, len(copied), linked, manifest.size_bytes, with_registry)


def stores_in(data_dir: Path) -> list[str]:
    """Names of the online stores in a data_dir, of sources and of batch views, as `lock_source` takes them."""
    online = data_dir / "online"
    batch = online / BATCH_STORES
    found = [name_of_folder(path.name) for path in sorted(online.glob("*")) if path.is_dir() and path != batch]
    return found + [BATCH_STORES + name_of_folder(path.name) for path in sorted(batch.glob("*")) if path.is_dir()]


def _pin_all(data_dir: Path, pins: Pins) -> list[str]:
    """Pin everything but the registry; names of the sources."""
    # Most links are made before anybody has to wait.
    for _ in range(_ATTEMPTS):
        try:
            pins.pin_below("offline", _is_offline)
            break
        except FileNotFoundError:
            continue
    staged = [path.parent.relative_to(data_dir).as_posix() for path in (data_dir / "backfill").glob("*/staging.json")]
    for _ in range(_ATTEMPTS):
        with ExitStack() as stack:
            for lock in _between_materializations(data_dir):
                stack.callback(lock.release)
            stack.enter_context(between_steps(data_dir))
            for place in staged:
                if (data_dir / place).is_dir():  # not handed over meanwhile
                    stack.enter_context(between_steps(data_dir / place))
            try:
                sources = _pin_stores(data_dir, "", pins)
                for place in staged:
                    if (data_dir / place / "staging.json").exists():
                        # First: it may say that all is in, which what is pinned after it must keep.
                        pins.pin(f"{place}/staging.json")
                        _pin_stores(data_dir, f"{place}/", pins)
                # What was sent to topics is in them, whatever the stores are: the latest is the truest.
                pins.pin_below("replays", lambda name: True)
                return sources
            except (_ChangedError, FileNotFoundError):
                continue
    raise StoreError(f"{data_dir} changes too fast to be looked at", hint="try again when fewer commands are running")


def _between_materializations(data_dir: Path) -> list[SourceLock]:
    """The locks of all batch views' stores: none is being materialized. Nothing is held while one is waited for."""
    stores = [store for store in stores_in(data_dir) if layout.is_batch_store(store)]
    deadline = time.monotonic() + MATERIALIZATION_WAIT_S
    while True:
        locks: list[SourceLock] = []
        try:
            for store in stores:
                locks.append(lock_source(data_dir, store, wait_s=0.0))
            return locks
        except StoreLockedError:
            for lock in locks:
                lock.release()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _pin_stores(data_dir: Path, prefix: str, pins: Pins) -> list[str]:
    """Pin the stores of the data_dir itself (prefix "") or of a backfill ("backfill/…/"). Order: see above."""
    root = data_dir / prefix
    judged_before = _future_inodes(root)
    names = [store for store in stores_in(root) if read_store_info(root, store) is not None]
    for name in names:
        for shard in range(_shards(root, name)):
            pins.pin_shard(layout.shard_dir(root, name, shard).relative_to(data_dir).as_posix())
    for name in names:
        store = layout.source_dir(root, name).relative_to(data_dir).as_posix()
        pins.pin_below(store, _is_plain_file_of(store))
    _pin_offline(data_dir, prefix, pins)
    for name in names:
        verdicts = f"{layout.source_dir(root, name).relative_to(data_dir).as_posix()}/verdicts"
        # A mark may not say more than the list beside it, which grows first.
        for path in sorted((data_dir / verdicts).glob("*.judged")):
            pins.pin_content(path.relative_to(data_dir).as_posix())
        for path in sorted((data_dir / verdicts).glob("*.future")):
            pins.pin(path.relative_to(data_dir).as_posix())
    if any(_future_inodes(root).get(name) != inode for name, inode in judged_before.items()):
        # A worker has started meanwhile and dropped the verdicts that it does not need; the shards as pinned may.
        raise _ChangedError
    return [name for name in names if not layout.is_batch_store(name)]


def _pin_offline(data_dir: Path, prefix: str, pins: Pins) -> None:
    manifest = manifest_path(data_dir / prefix / "offline")
    before = _identity(manifest)
    # Folders by name would take dead letters before events.
    for kind in ("features", "events", "late", "dead_letter", "_maintenance"):
        pins.pin_below(f"{prefix}offline/{kind}", _is_offline)
    if _identity(manifest) != before:
        # Files have changed places: some may be there twice, or not at all.
        raise _ChangedError


def _pin_registry(data_dir: Path, place: Path, pins: Pins) -> None:
    relative = registry_file(data_dir).relative_to(data_dir).as_posix()
    pins.pin_made(relative, lambda target: copy_file(place, target))


def _copy(
    pins: Pins, folder: Path, earlier: dict[str, BackupFile], base: Path | None, on_bytes: OnBytes
) -> tuple[int, list[BackupFile]]:
    """(files that were linked, all files)."""
    total = sum(pin.size for pin in pins.files.values())
    done = linked = 0
    files: list[BackupFile] = []
    folders = {folder}
    for relative, pin in sorted(pins.files.items()):
        target = folder / DATA / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        folders.add(target.parent)
        modified = pin.place.stat().st_mtime_ns
        known = earlier.get(relative)
        if base is not None and known is not None and (known.size, known.modified_ns) == (pin.size, modified):
            os.link(base / DATA / relative, target)
            files.append(known)
            linked += 1
        else:
            files.append(BackupFile(relative, pin.size, modified, copy_bytes(pin.place, target, pin.size)))
        done += pin.size
        on_bytes(done, total)
    sync_folders(sorted(folders))
    return linked, files


def copy_bytes(origin: Path, target: Path, size: int) -> str:
    """Copy the first `size` bytes, durably; their digest. Raises StoreFullError, StoreError when there are fewer."""
    digest = hashlib.blake2b(digest_size=16)
    left = size
    with origin.open("rb") as source, store_full_errors(target), target.open("wb") as sink:
        while left:
            chunk = source.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise StoreError(f"{origin} has {size - left:,} bytes instead of {size:,}")
            digest.update(chunk)
            sink.write(chunk)
            left -= len(chunk)
        sink.flush()
        os.fsync(sink.fileno())
    return digest.hexdigest()


def _shards(root: Path, store: str) -> int:
    info = read_store_info(root, store)
    assert info is not None, "stores that are not made yet were left out"
    return info.shards


def _is_offline(path: str) -> bool:
    return not path.endswith(_NOT_OFFLINE[1]) and not path.startswith(_NOT_OFFLINE[0])


def _is_plain_file_of(store: str) -> Callable[[str], bool]:
    """Which files below a store's folder are neither locks, half written, nor in need of an order of their own."""

    def is_plain(path: str) -> bool:
        first, *_ = inside = path.removeprefix(f"{store}/").split("/")
        return not (first.startswith("shard-") or first == "verdicts" or inside[-1].endswith((LOCK_NAME, ".tmp")))

    return is_plain


def _future_inodes(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_ino for path in (root / "online").glob("*/verdicts/*.future")}


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns
