"""What processes use, from /proc: memory, threads, open files."""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Figures:
    """Of one process, or the largest of several. rss_mb: resident memory in 10^6 bytes."""

    rss_mb: int
    threads: int
    open_files: int

    def or_more(self, other: Figures | None) -> Figures:
        """The larger of each."""
        return self if other is None else Figures(*map(max, astuple(self), astuple(other)))


def figures_of(pid: int) -> Figures | None:
    """None when the process has ended."""
    place = Path("/proc", str(pid))
    try:
        rss = int((place / "statm").read_text().split()[1]) * _PAGE
        return Figures(rss // 10**6, len(os.listdir(place / "task")), len(os.listdir(place / "fd")))
    except (FileNotFoundError, ProcessLookupError):
        return None


def family(pid: int) -> list[int]:
    """A process and all that come from it, itself first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found
