"""How far a run has come, from what its processes write of their metrics."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from featurestore.observability import Sample, read_samples

RATE_OVER_S = 5.0
"""Events per second are a mean over the last seconds: polls come in bursts."""


@dataclass
class SourceProgress:
    """Counts of one source in this run, over all processes. lag: messages not read yet, as far as known.

    watermark_s: the least of the partitions, seconds since the epoch, None before the first event.
    """

    read: int = 0
    late: int = 0
    too_late: int = 0
    dead_letters: int = 0
    lag: int = 0
    watermark_s: float | None = None


@dataclass
class ViewProgress:
    """Counts of one view in this run. delay_s: wall clock minus its watermark, None before there is one."""

    applied: int = 0
    snapshot_rows: int = 0
    delay_s: float | None = None


@dataclass
class RunProgress:
    """Sources and views by name."""

    sources: dict[str, SourceProgress] = field(default_factory=lambda: defaultdict(SourceProgress))
    views: dict[str, ViewProgress] = field(default_factory=lambda: defaultdict(ViewProgress))


_OF_SOURCE = {
    "events_read_total": "read",
    "events_late_accepted_total": "late",
    "events_too_late_total": "too_late",
    "dead_letters_total": "dead_letters",
    "consumer_lag": "lag",
}
_OF_VIEW = {"applied_total": "applied", "snapshot_rows_total": "snapshot_rows"}


def add_up(samples: Iterable[Sample]) -> RunProgress:
    """Progress from the samples of all processes."""
    progress = RunProgress()
    for name, labels, value in samples:
        if name in _OF_SOURCE:
            source = progress.sources[labels["source"]]
            setattr(source, _OF_SOURCE[name], getattr(source, _OF_SOURCE[name]) + int(value))
        elif name == "watermark_seconds":
            source = progress.sources[labels["source"]]
            source.watermark_s = value if source.watermark_s is None else min(source.watermark_s, value)
        elif name in _OF_VIEW:
            view = progress.views[labels["view"]]
            setattr(view, _OF_VIEW[name], getattr(view, _OF_VIEW[name]) + int(value))
        elif name == "watermark_delay_seconds":
            view = progress.views[labels["view"]]
            view.delay_s = value if view.delay_s is None else max(view.delay_s, value)
    return progress


def read_run(folder: Path) -> RunProgress:
    """Progress from the files of all processes in `folder`; those that are being replaced just now are left out."""
    samples: list[Sample] = []
    for path in sorted(folder.glob("*.prom")):
        try:
            samples += read_samples(path.read_text())
        except FileNotFoundError:
            continue
    return add_up(samples)


class Rates:
    """Messages per second of each source, from how many had been read when."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, int]]] = deque()

    def note(self, progress: RunProgress, now_s: float | None = None) -> dict[str, float]:
        """The rates by source, 0 at first. now_s: monotonic seconds; left out, now."""
        now_s = time.monotonic() if now_s is None else now_s
        read = {name: source.read for name, source in progress.sources.items()}
        self._seen.append((now_s, read))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - RATE_OVER_S:
            self._seen.popleft()
        began_s, began = self._seen[0]
        return {
            # A cluster that was started again counts from 0.
            name: max(count - began.get(name, 0), 0) / (now_s - began_s) if now_s > began_s else 0.0
            for name, count in read.items()
        }
