"""Offsets that a run was told to go on without: the broker had removed them before they were read.

A small file of the source's store remembers them, so that they are counted once, however often the run is started again
before it has left them behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from featurestore.errors import StoreFormatError
from featurestore.offline.atomic import write_atomically
from featurestore.online import layout

FILE_NAME = "offset_gaps.json"


class OffsetGap(msgspec.Struct, frozen=True):
    """Offsets [first, end) of a partition that at least one store needed. noticed_at: ISO 8601, UTC."""

    first: int
    end: int
    noticed_at: str

    @property
    def lost(self) -> int:
        """How many offsets; as many messages where there are no transactions and no compaction."""
        return self.end - self.first


def read_offset_gaps(data_dir: Path, source: str) -> dict[str, list[OffsetGap]]:
    """The gaps of each partition, ascending, by `fence_key`; empty when none was ever accepted.

    Raises StoreFormatError when the file is damaged.
    """
    path = _path(data_dir, source)
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, list[OffsetGap]])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise StoreFormatError(
            f"{path} can't be understood ({error})",
            hint="remove it: what is counted as lost begins again, nothing else depends on it",
        ) from error


def note_offset_gaps(data_dir: Path, source: str, found: Mapping[str, tuple[int, int]]) -> None:
    """Remember gaps, durably, before anything behind them is read. found: [first, end) by `fence_key`."""
    known = read_offset_gaps(data_dir, source)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    for key, (first, end) in found.items():
        known[key] = united([*known.get(key, []), OffsetGap(first, end, now)])
    content = msgspec.json.format(msgspec.json.encode(known)) + b"\n"
    write_atomically(_path(data_dir, source), lambda file: file.write(content))


def united(gaps: Iterable[OffsetGap]) -> list[OffsetGap]:
    """Ascending, those that touch made one, which was noticed when the first of them was: a run that is killed before
    it has left a gap behind finds it again, and it may have grown."""
    whole: list[OffsetGap] = []
    for gap in sorted(gaps, key=lambda gap: (gap.first, gap.end)):
        if whole and gap.first <= whole[-1].end:
            last = whole.pop()
            gap = OffsetGap(last.first, max(last.end, gap.end), min(last.noticed_at, gap.noticed_at))
        whole.append(gap)
    return whole


def _path(data_dir: Path, source: str) -> Path:
    return layout.source_dir(data_dir, source) / FILE_NAME
