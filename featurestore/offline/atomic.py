"""Files that are whole or absent, and stay there after a power cut.

Write under a hidden name, fsync the file, rename, fsync the folder. A reader's glob sees the old file or
the new one.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from featurestore.errors import StoreError, StoreFullError
from featurestore.offline.layout import TEMPORARY_SUFFIX, temporary_path

CrashPoint = Callable[[str], None]
"""Called with a name between two writes to disk; a test raises there as if the process had been killed."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NO_WRITES = {errno.EROFS, errno.EACCES, errno.EPERM}
_SEAL = b"\ncrc32 "


def no_crash(point: str) -> None:
    """The crash point of production."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object], crash_point: CrashPoint = no_crash) -> None:
    """Replace or create `path` with what `write` puts in the file it is given; durable when this returns.

    Folders are made as needed. Raises StoreFullError naming `path` when there is no room: the old file is
    untouched.
    """
    write_temporary(path, write)
    crash_point("temporary_written")
    publish([path])
    crash_point("renamed")


def write_temporary(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """First half of an atomic write: the content, durable under the temporary name of `path`."""
    make_folder(path.parent)
    temporary = temporary_path(path)
    with store_full_errors(path):
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # Half a file would keep the room that others need.
            temporary.unlink(missing_ok=True)
            raise


def publish(paths: Iterable[Path], crash_point: CrashPoint = no_crash) -> None:
    """Second half of an atomic write, for several files: rename each into place, then fsync the folders."""
    folders = []
    for path in paths:
        with store_full_errors(path):
            temporary_path(path).replace(path)
        crash_point("renamed_one")
        folders.append(path.parent)
    sync_folders(folders)


def remove_durably(paths: Iterable[Path]) -> None:
    """Remove files, those already gone aside, so that they do not come back after a power cut."""
    folders = []
    for path in paths:
        if path.exists():
            path.unlink()
            folders.append(path.parent)
    sync_folders(folders)


def remove_temporaries(folder: Path) -> None:
    """Remove what a crash left half written in `folder`. Only the folder's writer may call it."""
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with store_full_errors(folder):
        folder.mkdir(exist_ok=True)
    sync_folders([folder.parent])


def sync_folders(folders: Iterable[Path]) -> None:
    """Make renames and removals in the folders durable."""
    for folder in dict.fromkeys(folders):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sealed(document: bytes) -> bytes:
    """A small document in lines, with its checksum in a last one."""
    return document + _SEAL + f"{zlib.crc32(document):08x}\n".encode()


def unsealed(content: bytes) -> bytes:
    """The document of a sealed one; one without a seal as it is. Raises ValueError when they do not fit."""
    document, found, checksum = content.rpartition(_SEAL)
    if not found:
        return content
    if content != sealed(document):
        raise ValueError(f"its checksum {checksum.strip().decode(errors='replace')} does not fit")
    return document


@contextmanager
def store_full_errors(path: Path) -> Iterator[None]:
    """Turn "no space left", "quota exceeded" and "read-only" into StoreFullError and StoreError naming `path`."""
    try:
        yield
    except OSError as error:
        ours = store_error(path, error)
        if ours is None:
            raise
        raise ours from error


def store_error(path: Path | str, error: OSError) -> StoreError | None:
    """The error of ours for a file that can't be written since there is no room, or no permission; None for others."""
    if error.errno in _NO_ROOM:
        return StoreFullError(
            f"no room left to write {path}",
            hint="free space on this file system or raise its quota; what was durable before is untouched, "
            "and the next run goes on from there",
        )
    if error.errno in _NO_WRITES:
        return StoreError(
            f"{path} can't be written: {error.strerror}",
            hint="make it writable for this user; what was durable before is untouched, and the next run goes on from "
            "there",
        )
    return None
