"""The newest archived event before an instant, from footers as far as they tell."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from featurestore.batches import EVENT_TIME, NO_TIME
from featurestore.durations import parse_instant_us
from featurestore.offline import layout
from featurestore.offline.layout import EVENTS
from featurestore.offline.tables import read_column, read_figures


def newest_event_before(root: Path, source: str, before_us: int) -> int:
    """Largest event time, µs, below `before_us` in the archive of all generations; NO_TIME when there is none.

    One file's column is in memory at a time. Raises StoreFormatError when a file is damaged.
    """
    found = NO_TIME
    before = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=before_us)
    for path in sorted(layout.source_dir(root, EVENTS, source).rglob(f"*{layout.SUFFIX}")):
        figures = None if path.name.startswith(".") else read_figures(path, EVENT_TIME)
        if figures is None or figures.earliest is None or figures.latest is None or figures.earliest >= before:
            continue
        if parse_instant_us(figures.latest) <= found:
            continue
        times = read_column(path, EVENT_TIME).dt.epoch("us")
        newest = times.filter(times < before_us).max() if figures.latest >= before else times.max()
        assert isinstance(newest, int)
        found = max(found, newest)
    return found
