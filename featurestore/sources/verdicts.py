"""Remember the one verdict in which a clock may speak: `event_time_in_future`.

For each partition two small files: the offsets that were judged to be in the future, and the offset up to which this
process has judged. Both are written before a poll is handed on, so that a replay keeps every verdict: below the second
one an event is in the future exactly when its offset is in the first.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


class VerdictJournal:
    """The verdicts of one partition, of one topic generation. One process owns it at a time."""

    def __init__(self, folder: Path, generation: str, partition: int, resume_offset: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{generation}-{partition}"
        self._future_path = folder / f"{stem}.future"
        self._judged = os.open(folder / f"{stem}.judged", os.O_RDWR | os.O_CREAT, 0o644)
        stored = os.pread(self._judged, 8, 0)
        self.judged_to = int.from_bytes(stored, "little") if len(stored) == 8 else 0
        future = np.fromfile(self._future_path, dtype="<i8") if self._future_path.exists() else np.empty(0, "<i8")
        # What lies at or past judged_to was never handed on; what lies below the resume offset is never read again.
        self._future = np.unique(future[(future < self.judged_to) & (future >= resume_offset)])
        temporary = self._future_path.with_suffix(".tmp")
        self._future.tofile(temporary)
        temporary.rename(self._future_path)
        self._file = os.open(self._future_path, os.O_WRONLY | os.O_APPEND)

    def replayed(self, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(which offsets were judged in an earlier life, which of all were judged to be in the future)."""
        return offsets < self.judged_to, np.isin(offsets, self._future)

    def record(self, future: np.ndarray, next_offset: int) -> None:
        """Remember new verdicts: offsets in the future (int64), and that everything below `next_offset` is judged."""
        if len(future):
            os.write(self._file, future.astype("<i8").tobytes())
        if next_offset > self.judged_to:
            os.pwrite(self._judged, next_offset.to_bytes(8, "little"), 0)

    def close(self) -> None:
        """Close the files."""
        os.close(self._file)
        os.close(self._judged)
