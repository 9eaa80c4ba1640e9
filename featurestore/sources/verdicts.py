"""Remember the one verdict in which a clock may speak: `event_time_in_future`.

For each partition two small files, both written before a poll is handed on. `….future` lists the offsets
that were judged to be in the future; it grows only by such events, and is then synced to the disk.
`….judged` holds the offset up to which was judged, one write a poll, left to the operating system. A replay
keeps every verdict: an offset in the list is in the future, any other below the mark is not, whatever the
clock says now. Should a power cut lose the mark, the clock judges again, and a later clock does not find an
event in the future that an earlier one did not.

Both hold offsets of 8 bytes, little-endian, each with its CRC-32. One that is cut off or zero at the end is what a
power cut leaves; any other that does not fit its checksum is damage.
"""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path

import numpy as np

from featurestore.errors import StoreFormatError, StoreFullError

_ENTRY_BYTES = 12
_OFFSET_BYTES = 8


class VerdictJournal:
    """The verdicts of one partition, of one topic generation. One process owns it at a time.

    resume_offset: where reading resumes; older verdicts are dropped. fsync: whether new future verdicts are
    synced. Raises StoreFullError when the disk is full, StoreFormatError when a file of it is damaged.
    """

    def __init__(
        self, folder: Path, generation: str, partition: int, resume_offset: int, *, fsync: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._fsync = fsync
        stem = f"{generation}-{partition}"
        path = folder / f"{stem}.future"
        self._future = _load(path, resume_offset, fsync=fsync)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._judged = os.open(folder / f"{stem}.judged", os.O_RDWR | os.O_CREAT, 0o644)
        marks = _entries(os.pread(self._judged, _ENTRY_BYTES, 0), folder / f"{stem}.judged")
        self._judged_to = marks[0] if marks else 0
        self._judged_before = self._judged_to
        if fsync:
            _sync_folder(folder)

    @property
    def replay_end(self) -> int:
        """Offsets from here on were not judged in an earlier life."""
        listed = int(self._future[-1]) + 1 if len(self._future) else 0
        return max(self._judged_before, listed)

    def replayed(self, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which offsets were judged in an earlier life, and which of these were in the future; boolean."""
        future = np.isin(offsets, self._future)
        return (offsets < self._judged_before) | future, future

    def record(self, future: np.ndarray, next_offset: int) -> None:
        """Remember offsets in the future (int64), and that all below `next_offset` is judged."""
        try:
            new = future[~np.isin(future, self._future)] if len(self._future) else future
            if len(new):
                write_all(self._file, _packed(new))
                if self._fsync:
                    os.fdatasync(self._file)
            if next_offset > self._judged_to:
                os.pwrite(self._judged, _entry(next_offset), 0)
                self._judged_to = next_offset
        except OSError as error:
            raise full_error(error) from error

    def close(self) -> None:
        """Close the files."""
        os.close(self._file)
        os.close(self._judged)


def _load(path: Path, resume_offset: int, *, fsync: bool) -> np.ndarray:
    """The listed offsets from `resume_offset` on, ascending; what is older or torn is cut from the file."""
    if not path.exists():
        return np.empty(0, dtype=np.int64)
    data = path.read_bytes()
    listed = np.array(_entries(data, path), dtype=np.int64)
    kept: np.ndarray = np.unique(listed[listed >= resume_offset])
    if len(kept) * _ENTRY_BYTES != len(data):
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(_packed(kept))
                file.flush()
                if fsync:
                    os.fsync(file.fileno())
        except OSError as error:
            raise full_error(error) from error
        temporary.rename(path)
    return kept


def _entry(offset: int) -> bytes:
    value = offset.to_bytes(_OFFSET_BYTES, "little")
    return value + zlib.crc32(value).to_bytes(_ENTRY_BYTES - _OFFSET_BYTES, "little")


def _packed(offsets: np.ndarray) -> bytes:
    return b"".join(_entry(offset) for offset in offsets.tolist())


def _entries(data: bytes, path: Path) -> list[int]:
    """The offsets in a file, what a power cut left at its end aside. Raises StoreFormatError when it is damaged."""
    offsets = []
    whole = len(data.rstrip(b"\0"))
    for at in range(0, len(data) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
        entry = data[at : at + _ENTRY_BYTES]
        offset = int.from_bytes(entry[:_OFFSET_BYTES], "little")
        if entry != _entry(offset):
            if at >= whole:
                break
            raise StoreFormatError(
                f"{path} is damaged at byte {at}: it says which events were in the future when they were read",
                hint="make the source's store again from the archive: featurestore rebuild SOURCE",
            )
        offsets.append(offset)
    return offsets


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(file: int, data: bytes) -> None:
    """Write all of `data`, however many calls that takes."""
    while data:
        data = data[os.write(file, data) :]


def full_error(error: OSError) -> Exception:
    """StoreFullError for a full disk, any other error as it is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFullError(
            "the disk is full: a journal could not be written",
            hint="make room, then start again",
        )
    return error
