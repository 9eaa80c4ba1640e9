"""`featurestore restore`: put a backup in the place of a data_dir.

    1. every file is copied to <data_dir>/.restored and held against its digest
    2. restore.json says so, durably               from here on nothing runs until the restore is finished
    3. what was there goes to <data_dir>/set-aside/<time>, what was restored takes its place, folder by folder
    4. restore.json goes

A kill before 2 has changed nothing; after it the same command goes on at 3.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import structlog

from featurestore.config import Settings
from featurestore.errors import StoreError, StoreFormatError, StoreFullError
from featurestore.offline.atomic import (
    CrashPoint,
    make_folder,
    no_crash,
    remove_durably,
    sync_folders,
    write_atomically,
)
from featurestore.online.source_store import FORMAT_VERSION as STORE_FORMAT
from featurestore.online.source_store import RESTORE_GATE, lock_source
from featurestore.recovery.backup import OnBytes, copy_bytes, stores_in
from featurestore.recovery.manifest import DATA, BackupManifest, read_manifest

log = structlog.get_logger()

FOLDERS = ("online", "offline", "registry", "backfill", "rebuild", "replays")
"""What a data_dir holds that a backup has, or that would not fit to it."""
SET_ASIDE = "set-aside"
_RESTORED = ".restored"


class RestoreReport(msgspec.Struct, frozen=True):
    """What was restored. set_aside: where what was there before lies now, None where nothing was."""

    folder: str
    made_at: str
    sources: list[str]
    files: int
    size_bytes: int
    registry: bool
    set_aside: str | None


class _Gate(msgspec.Struct, frozen=True):
    """What restore.json says: which folders were restored, and where the old ones go."""

    folder: str
    made_at: str
    restored: list[str]
    set_aside: str


def holds_data(data_dir: Path) -> bool:
    """Whether a restore would put something aside."""
    return any((data_dir / name).exists() for name in FOLDERS)


def restore(
    settings: Settings,
    folder: Path,
    *,
    on_bytes: OnBytes = lambda done, all_bytes: None,
    crash_point: CrashPoint = no_crash,
) -> RestoreReport:
    """Put the backup in `folder` in the place of the data_dir; what was there is set aside. No worker may run.

    Raises StoreFormatError when the backup is damaged, naming the file, or of another format, StoreLockedError when
    something runs, StoreFullError.
    """
    data_dir = settings.store.data_dir
    manifest = read_manifest(folder)
    if manifest.store_format != STORE_FORMAT:
        raise StoreFormatError(
            f"{folder} holds stores of format {manifest.store_format}, this version reads {STORE_FORMAT}",
            hint=f"restore it with featurestore {manifest.featurestore}, which made it",
        )
    make_folder(data_dir)
    gate = _read_gate(data_dir)
    if gate is not None and (gate.folder, gate.made_at) != (str(folder.resolve()), manifest.made_at):
        raise StoreError(
            f"a restore of {gate.folder} was cut off after all was copied",
            hint=f"finish it first: featurestore restore {gate.folder}",
        )
    with ExitStack() as stack:
        for store in stores_in(data_dir):
            stack.callback(lock_source(data_dir, store, wait_s=0.5, mending=True).release)
        if gate is None:
            _copy(manifest, folder, data_dir / _RESTORED, on_bytes)
            crash_point("copied")
            gate = _write_gate(data_dir, folder, manifest)
            crash_point("gate_written")
        moved = _exchange(data_dir, gate, crash_point)
    log.info("restored", folder=str(folder), files=len(manifest.files))
    aside = str(data_dir / gate.set_aside) if moved else None
    return RestoreReport(
        str(folder),
        manifest.made_at,
        manifest.sources,
        len(manifest.files),
        manifest.size_bytes,
        manifest.registry,
        aside,
    )


def _copy(manifest: BackupManifest, folder: Path, target: Path, on_bytes: OnBytes) -> None:
    if target.exists():
        shutil.rmtree(target)
    free = shutil.disk_usage(target.parent).free
    if free < manifest.size_bytes:
        raise StoreFullError(
            f"{target.parent} has {free:,} bytes left, the backup needs {manifest.size_bytes:,}",
            hint="what is there is set aside, not removed: make room first, or restore into another data_dir",
        )
    done = 0
    target.mkdir()
    for file in manifest.files:
        origin, copy = folder / DATA / file.path, target / file.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            right = origin.stat().st_size == file.size and copy_bytes(origin, copy, file.size) == file.digest
        except FileNotFoundError:
            right = False
        if not right:
            shutil.rmtree(target)
            raise StoreFormatError(
                f"{origin} is damaged: it is not what was backed up", hint="nothing was changed; use another backup"
            )
        done += file.size
        on_bytes(done, manifest.size_bytes)
    sync_folders(path for path in sorted(target.rglob("*")) if path.is_dir())
    sync_folders([target, target.parent])


def _write_gate(data_dir: Path, folder: Path, manifest: BackupManifest) -> _Gate:
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
    restored = sorted({file.path.split("/")[0] for file in manifest.files})
    gate = _Gate(str(folder.resolve()), manifest.made_at, restored, f"{SET_ASIDE}/{now}")
    content = msgspec.json.format(msgspec.json.encode(gate)) + b"\n"
    write_atomically(data_dir / RESTORE_GATE, lambda file: file.write(content))
    return gate


def _read_gate(data_dir: Path) -> _Gate | None:
    try:
        return msgspec.json.decode((data_dir / RESTORE_GATE).read_bytes(), type=_Gate)
    except FileNotFoundError:
        return None


def _exchange(data_dir: Path, gate: _Gate, crash_point: CrashPoint) -> bool:
    """Whether something was set aside, now or before a kill."""
    aside, restored = data_dir / gate.set_aside, data_dir / _RESTORED
    for name in FOLDERS:
        here = data_dir / name
        # One that is restored has taken its place once it is gone from the other.
        in_the_way = (restored / name).exists() or name not in gate.restored
        if here.exists() and in_the_way:
            make_folder(aside)
            here.replace(aside / name)
            sync_folders([aside, data_dir])
            crash_point("set_aside")
        if (restored / name).exists():
            (restored / name).replace(here)
            sync_folders([data_dir])
            crash_point("in_place")
    shutil.rmtree(restored, ignore_errors=True)
    remove_durably([data_dir / RESTORE_GATE])
    return aside.exists()
