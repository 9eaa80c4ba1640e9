"""What readers must know of compaction and retention beyond the names of files: one small file, replaced whole.

    _maintenance/manifest.json

A *swap* makes one file take the place of several; without a new file it only removes them. From the moment that the
manifest names a swap our readers see its outcome, wherever the files lie by then; until that moment they see the old
files. Old files stay on disk for a grace period, for readers that listed them before.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from featurestore.errors import StoreFormatError, StoreLockedError
from featurestore.offline.atomic import CrashPoint, make_folder, no_crash, write_atomically
from featurestore.offline.layout import MAINTENANCE, manifest_path

FORMAT_VERSION = 1


class Swap(msgspec.Struct, frozen=True):
    """folder: relative to the root. replaced: names of files in it. merged: of the one that takes their place."""

    folder: str
    replaced: list[str]
    merged: str | None = None


class Begin(msgspec.Struct, frozen=True):
    """Where a partition's archive began before anything was removed: first offset, arrival of its first message."""

    offset: int
    arrival: str | None


class Retention(msgspec.Struct, frozen=True):
    """What was removed from a dataset by age, in all.

    complete_since: rows of this event time (window_end of snapshots) or later were not removed. rows: by kind
    ("events", "late", "duplicates", "snapshots", of imported history its generation); dead_letters: by reason. began:
    of a source, by "<generation>/<partition>".
    """

    complete_since: str
    removed_at: str
    files: int
    size_bytes: int
    rows: dict[str, int] = {}
    dead_letters: dict[str, int] = {}
    began: dict[str, Begin] = {}


class Manifest(msgspec.Struct, frozen=True):
    """swaps: those in progress. retention: by dataset folder, "events/<source>" or "features/<view>/v1/<window>"."""

    format_version: int = FORMAT_VERSION
    swaps: list[Swap] = []
    retention: dict[str, Retention] = {}


def read_manifest(root: Path) -> Manifest:
    """The manifest, an empty one when nothing was ever compacted or removed.

    Raises StoreFormatError when it can't be understood.
    """
    path = manifest_path(root)
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return Manifest()
    except msgspec.DecodeError as error:
        raise StoreFormatError(
            f"{path} can't be understood ({error})",
            hint="it says which files took the place of which; restore it from a copy",
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise StoreFormatError(
            f"{path} has format version {manifest.format_version}, this program reads {FORMAT_VERSION}",
            hint="run the version of featurestore that wrote it",
        )
    return manifest


def write_manifest(root: Path, manifest: Manifest, crash_point: CrashPoint = no_crash) -> None:
    """Replace the manifest, durably. The caller holds `maintenance_lock`."""
    content = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    write_atomically(
        manifest_path(root), lambda file: file.write(content), lambda point: crash_point(f"manifest_{point}")
    )


@contextmanager
def maintenance_lock(root: Path) -> Iterator[None]:
    """One compaction or removal at a time changes an offline store. Raises StoreLockedError when another is at work."""
    make_folder(root / MAINTENANCE)
    with (root / MAINTENANCE / "LOCK").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise StoreLockedError(
                f"{root} is being compacted, pruned or filled with history by process {file.read().strip() or '?'}",
                hint="wait until it ends; readers and workers are not disturbed",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
