"""Swap files for others, or remove them, beside readers and writers; a kill at any moment is finished by the next call.

    1. the new files are written and fsynced under _maintenance/staged
    2. the manifest names the swaps, all at once: from here on our readers see the new files, where they lie
    3. a grace period: who listed the old files before reads them
    4. each new file gets a second name at its place (a hard link), the old ones are removed
    5. the manifest forgets the swaps: our readers see what a plain glob sees

A kill before 2 changed nothing; after it, the next call goes on at 3. The first name of a new file stays for another
grace period, for readers that listed it in between; it takes no room. Between the link and the removals of step 4, and
only there, a plain glob sees rows twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from featurestore.errors import StoreFormatError
from featurestore.offline.atomic import CrashPoint, no_crash, store_full_errors, sync_folders
from featurestore.offline.layout import MAINTENANCE, TEMPORARY_SUFFIX, staged_path
from featurestore.offline.manifest import Retention, Swap, read_manifest, write_manifest

Wait = Callable[[float], None]


def swap_files(
    root: Path,
    swaps: Sequence[Swap],
    *,
    grace_s: float,
    retention: Mapping[str, Retention] | None = None,
    wait: Wait = time.sleep,
    crash_point: CrashPoint = no_crash,
) -> None:
    """Steps 2 to 5, for files that are staged. The caller holds the lock and has called `finish_swaps` before.

    retention: what the manifest is to say, from step 2 on, of datasets that lose rows. wait: sleeps so many seconds.
    """
    manifest = read_manifest(root)
    assert not manifest.swaps, "finish_swaps() comes first"
    together = {**manifest.retention, **(retention or {})}
    write_manifest(root, msgspec.structs.replace(manifest, swaps=list(swaps), retention=together), crash_point)
    finish_swaps(root, grace_s=grace_s, wait=wait, crash_point=crash_point)


def finish_swaps(root: Path, *, grace_s: float, wait: Wait = time.sleep, crash_point: CrashPoint = no_crash) -> int:
    """Steps 3 to 5 for the swaps that the manifest names, then remove staged files that nobody reads any more.

    Returns how many swaps there were. The caller holds the lock. Raises StoreFormatError when a new file is gone.
    """
    manifest = read_manifest(root)
    if manifest.swaps:
        # Files that take no other's place are waited for by nobody.
        if any(swap.replaced for swap in manifest.swaps):
            wait(grace_s)
        for swap in manifest.swaps:
            _finish(root, swap, crash_point)
        write_manifest(root, msgspec.structs.replace(manifest, swaps=[]), crash_point)
    _remove_staged(root, grace_s)
    return len(manifest.swaps)


def _finish(root: Path, swap: Swap, crash_point: CrashPoint) -> None:
    folder = root / swap.folder
    if swap.merged is not None and not (folder / swap.merged).exists():
        staged = staged_path(root, swap.folder, swap.merged)
        try:
            with store_full_errors(folder / swap.merged):
                os.link(staged, folder / swap.merged)
        except FileNotFoundError as error:
            raise StoreFormatError(
                f"{staged} is gone, which was about to take the place of {len(swap.replaced)} files of {folder}",
                hint="restore it; or, if those files are all there, remove the swap from "
                f"{root / MAINTENANCE / 'manifest.json'}",
            ) from error
        crash_point("linked")
        # The new file must be there after a power cut before the old ones are not.
        sync_folders([folder])
    for name in swap.replaced:
        (folder / name).unlink(missing_ok=True)
        crash_point("removed_one")
    sync_folders([folder])


def _remove_staged(root: Path, grace_s: float) -> None:
    base = root / MAINTENANCE / "staged"
    for path in [path for path in base.rglob("*") if path.is_file()]:
        # Linking it changed its inode: since then it is not listed any more.
        if path.name.endswith(TEMPORARY_SUFFIX) or time.time() - path.stat().st_ctime >= grace_s:
            path.unlink(missing_ok=True)
