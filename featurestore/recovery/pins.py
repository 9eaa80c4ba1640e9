"""Pins: second names (hard links) of the files of a data_dir as they were at one moment, to be copied at leisure.

    <data_dir>/.pins/<path relative to the data_dir>

A pinned file stays as it was whatever its owner does: files that are replaced or removed keep their content under the
pin; files that only grow are read up to the size that was noted. So the moment in which all must hold still is as long
as making links takes, not as copying does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import StoreError, StoreLockedError

FOLDER = ".pins"
_LOCK = "LOCK"
_ATTEMPTS = 1000


@dataclass(frozen=True)
class Pin:
    """A pinned file. size: so many of its bytes count. inode: of the file that was pinned; linked: it is that one."""

    place: Path
    size: int
    inode: int
    linked: bool


class Pins:
    """The pins of one backup, by path relative to the data_dir. Made by `open_pins`."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._folder = data_dir / FOLDER
        self.files: dict[str, Pin] = {}

    def pin(self, relative: str, size: int | None = None) -> None:
        """Pin a file, anew if it was replaced since. size: as it was, None: as it is now. Raises FileNotFoundError."""
        origin, place = self._data_dir / relative, self._folder / relative
        status = origin.stat()
        known = self.files.get(relative)
        if known is not None and known.linked and known.inode == status.st_ino:
            linked = True
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            linked = _second_name(origin, place)
        pinned = place.stat()
        # What has the name now may be another file than the one looked at.
        inode = pinned.st_ino if linked else status.st_ino
        self.files[relative] = Pin(place, pinned.st_size if size is None else size, inode, linked)

    def pin_content(self, relative: str) -> None:
        """Pin a small file that is rewritten in place: its bytes are copied now."""
        content = (self._data_dir / relative).read_bytes()
        self.pin_made(relative, lambda place: place.write_bytes(content))

    def pin_made(self, relative: str, make: Callable[[Path], object]) -> None:
        """Pin a copy that `make` puts at the place it is given."""
        place = self._folder / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        make(place)
        self.files[relative] = Pin(place, place.stat().st_size, 0, False)

    def pin_below(self, relative: str, wanted: Callable[[str], bool]) -> None:
        """Pin every wanted file below a folder, folder by folder, names in order; forget those that are gone.

        wanted: asked with the path relative to the data_dir. Raises FileNotFoundError when one goes meanwhile.
        """
        found = set()
        for name, inode in _walk(self._data_dir, relative):
            if wanted(name):
                found.add(name)
                known = self.files.get(name)
                if known is None or not known.linked or known.inode != inode:
                    self.pin(name)
        for name in [name for name in self.files if name.startswith(f"{relative}/") and wanted(name)]:
            if name not in found:
                self.forget(name)

    def pin_shard(self, relative: str) -> None:
        """Pin a RocksDB as it is at one moment, beside its owner's writes, flushes and compactions.

        Its tables never change; its manifest and logs only grow, and up to a size they are what they were. So if no
        table or log came or went and the manifest did not grow while they were being pinned, they fit together: all
        commits up to somewhere in the newest log. (A checkpoint by a reader beside the owner would have no log at all.)
        """
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError):
                before = self._look_at_shard(relative)
                for name in [name for name in self.files if name.startswith(f"{relative}/")]:
                    if name.removeprefix(f"{relative}/") not in before:
                        self.forget(name)
                # Logs last: they may have grown, what else there is may not.
                for name in sorted(before, key=lambda name: (name.endswith(".log"), name)):
                    size = before[name] if name.startswith("MANIFEST") else None
                    self.pin(f"{relative}/{name}", size)
                if self._look_at_shard(relative) == before:
                    return
        raise StoreError(f"shard {self._data_dir / relative} changes too fast to be looked at", hint="try again")

    def forget(self, relative: str) -> None:
        """Give up one pin."""
        self.files.pop(relative).place.unlink(missing_ok=True)

    def _look_at_shard(self, relative: str) -> dict[str, int]:
        """Size of each file that belongs to the database; 0 for those that grow or never change, but the manifest."""
        folder = self._data_dir / relative
        manifest = (folder / "CURRENT").read_text().strip()
        found: dict[str, int] = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name == manifest:
                    found[name] = entry.stat().st_size
                elif name.endswith((".sst", ".log", ".blob", ".json")) or name in ("CURRENT", "IDENTITY"):
                    found[name] = 0
        return found


@contextmanager
def open_pins(data_dir: Path) -> Iterator[Pins]:
    """Pins to be made, gone at the end. Raises StoreLockedError while another backup is under way."""
    folder = data_dir / FOLDER
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreLockedError(
                f"a backup of {data_dir} is being made already", hint="wait until it has ended"
            ) from None
        _clear(folder)  # what a killed one left
        yield Pins(data_dir)
        _clear(folder)
    finally:
        os.close(descriptor)


def _clear(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
        elif child.name != _LOCK:
            child.unlink()


def _second_name(origin: Path, place: Path) -> bool:
    """Whether it is one; else `place` is a copy."""
    try:
        os.link(origin, place)
        return True
    except OSError as error:
        # Another file system below the data_dir, or one without hard links.
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        shutil.copyfile(origin, place)
        return False


def _walk(data_dir: Path, relative: str) -> Iterator[tuple[str, int]]:
    """(path, inode) of the files below a folder, hidden ones aside; nothing when there is no such folder."""
    try:
        with os.scandir(data_dir / relative) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(data_dir, f"{relative}/{entry.name}")
        else:
            yield f"{relative}/{entry.name}", entry.inode()
