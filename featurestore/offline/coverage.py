"""Of which times an archive may lack events, and which windows reach into them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featurestore.compile.view import WindowGroup
from featurestore.durations import format_instant, parse_instant_us
from featurestore.offline import layout
from featurestore.offline.archive_reader import archived_generations
from featurestore.offline.history import event_span_us
from featurestore.offline.layout import EVENTS
from featurestore.offline.listing import segment_files, with_fresh_files
from featurestore.offline.partition_archive import read_segment_footer
from featurestore.offline.pieces import partition_folders
from featurestore.offline.retention import archive_complete_since
from featurestore.offline.segments import SegmentFooter

_REACH_STEPS = 64


@dataclass(frozen=True)
class Gap:
    """A span of event time, µs, half-open, of which events may be missing. from_us None: from the beginning."""

    from_us: int | None
    to_us: int

    def __str__(self) -> str:
        to = format_instant(self.to_us)
        return f"before {to}" if self.from_us is None else f"from {format_instant(self.from_us)} to {to}"


def archive_gaps(root: Path, source: str, generations: Collection[str] | None = None) -> tuple[Gap, ...]:
    """Of which times the archive of a source may lack events, in order; none: it has its topic from the beginning.

    What is before imported history is not known. Between its last event and the instant from which on the topic's
    archive is complete (`archive_complete_since`) events may be missing too: those that came before the first archived
    message, and were not older than all of the archive. generations: imported history of others is not looked at.
    """
    since = archive_complete_since(root, source)
    since_us = None if since is None else parse_instant_us(since)
    names = [one.generation for one in archived_generations(root, source) if layout.is_history(one.generation)]
    read = [name for name in names if generations is None or name in generations]
    spans = [span for name in read if (span := event_span_us(root, source, name)) is not None]
    if not spans:
        return () if since_us is None else (Gap(None, since_us),)
    begin_us, end_us = min(low for low, _ in spans), max(high for _, high in spans) + 1
    if since_us is None or since_us <= begin_us:
        return (Gap(None, begin_us),)
    if since_us <= end_us:  # retention has removed some of the history
        return (Gap(None, since_us),)
    return Gap(None, begin_us), Gap(end_us, since_us)


@dataclass(frozen=True)
class Hole:
    """Offsets [first, end) of a partition of which no file is there although there are files before and after.

    until_us: no event in it is newer, as far as that can be told.
    """

    generation: str
    partition: int
    first: int
    end: int
    until_us: int


def archive_holes(root: Path, source: str) -> list[Hole]:
    """Files that were moved away or lost from the middle of a source's archive. Raises StoreFormatError for a damaged
    one."""
    return with_fresh_files(lambda: _archive_holes(root, source))


def _archive_holes(root: Path, source: str) -> list[Hole]:
    holes = []
    base = layout.source_dir(root, EVENTS, source)
    for place in partition_folders(root, source):
        before: SegmentFooter | None = None
        for _, path in segment_files(base / place):
            footer = read_segment_footer(path)
            if before is not None and footer.start > before.end:
                lost = footer.generation, footer.partition, before.end, footer.start
                holes.append(Hole(*lost, footer.max_event_time_us))
            before = footer
    return holes


def reaches(groups: Sequence[WindowGroup], gap: Gap, as_of_us: np.ndarray) -> np.ndarray:
    """At which instants a window of a view reaches into a gap: boolean, shape (n,). as_of_us: int64 µs, shape (n,)."""
    found = np.zeros(len(as_of_us), dtype=bool)
    for group in groups:
        ends = group.end_us(as_of_us)
        found |= (group.start_us(as_of_us) < gap.to_us) & (True if gap.from_us is None else ends > gap.from_us)
    return found


def complete_from_us(groups: Sequence[WindowGroup], gap: Gap) -> int | None:
    """The first instant after a gap at which no window of a view reaches into it; None for lifetime features."""
    if any(group.window.kind == "lifetime" for group in groups):
        return None
    low = gap.to_us
    high = low + max(2 * (g.window.size_us + max(g.window.tile_us, g.window.every_us)) for g in groups)
    # Windows only move forward, so the instant can be found by halving.
    for _ in range(_REACH_STEPS):
        middle = (low + high) // 2
        if reaches(groups, Gap(None, gap.to_us), np.array([middle]))[0]:
            low = middle + 1
        else:
            high = middle
    return high
