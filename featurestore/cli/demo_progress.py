"""How far the demo's worker has come, from its metrics; and where the demo's event time begins."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from featurestore.batches import NO_TIME
from featurestore.durations import US_PER_UNIT, format_duration
from featurestore.errors import ConfigError, RegistryError, StoreError
from featurestore.observability import read_samples

BEGINS_BEFORE_NOW_US = 7 * US_PER_UNIT["d"]
GAP_US = 2 * US_PER_UNIT["m"]
SPAN_US, SPAN_US_MIN = 3 * US_PER_UNIT["h"], 15 * US_PER_UNIT["m"]
METRICS_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class WorkerProgress:
    """Counters of the worker's run. behind: accepted although behind their partition's watermark; merged: committed in
    every view, as applied, filtered or without a key. watermark_us: the least of the partitions, None before the first.
    """

    read: int = 0
    accepted: int = 0
    behind: int = 0
    too_late: int = 0
    dead_letters: dict[str, int] = field(default_factory=dict)
    merged: int = 0
    watermark_us: int | None = None

    @property
    def dead(self) -> int:
        """All dead letters."""
        return sum(self.dead_letters.values())

    @property
    def processed(self) -> int:
        """Messages that are where they belong: committed, or kept as too late or dead."""
        return self.merged + self.too_late + self.dead


def read_progress(metrics_port: int) -> WorkerProgress | None:
    """Ask the worker; None while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=METRICS_TIMEOUT_S) as answer:
            return parse_progress(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return None


def parse_progress(text: str) -> WorkerProgress:
    """Progress from metrics in Prometheus' text format."""
    totals: dict[str, int] = defaultdict(int)
    reasons: dict[str, int] = {}
    merged: dict[str, int] = defaultdict(int)
    watermarks: list[float] = []
    for name, labels, value in read_samples(text):
        if name == "dead_letters_total":
            reasons[labels["reason"]] = int(value)
        elif name in ("applied_total", "filtered_total", "null_key_total"):
            merged[labels["view"]] += int(value)
        elif name == "watermark_seconds":
            watermarks.append(value)
        elif name.endswith("_total"):
            totals[name] += int(value)
    return WorkerProgress(
        read=totals["events_read_total"],
        accepted=totals["events_accepted_total"],
        behind=totals["events_late_accepted_total"],
        too_late=totals["events_too_late_total"],
        dead_letters=reasons,
        merged=min(merged.values(), default=0),
        watermark_us=int(min(watermarks) * 1e6) if watermarks else None,
    )


def choose_span(newest_us: int | None, now_us: int) -> tuple[int, int]:
    """Start and length, µs, of the event time that the demo's stream covers.

    newest_us: the newest event of an earlier demo in the folder; the new stream goes on behind it, since to the store
    older events would be corrections of closed windows. Raises ConfigError when that leaves too little before now.
    """
    hour = US_PER_UNIT["h"]
    start_us = (now_us - BEGINS_BEFORE_NOW_US) // hour * hour if newest_us is None else newest_us + GAP_US
    span_us = min(SPAN_US, now_us - GAP_US - start_us)
    if span_us < SPAN_US_MIN:
        raise ConfigError(
            f"earlier demos in this folder have come within {format_duration(SPAN_US_MIN)} of the present",
            hint="remove the folder, or choose another: featurestore demo --dir DIR",
        )
    return start_us, span_us


def newest_event_us(data_dir: Path, source: str) -> int | None:
    """The newest event time that an earlier run left in the online store, None without one."""
    from featurestore.online.reader import OnlineReader
    from featurestore.registry import registry_file
    from featurestore.serving.catalog import load_catalog

    try:
        catalog = load_catalog(registry_file(data_dir))
        reader = OnlineReader(data_dir, source)
    except (RegistryError, StoreError):
        return None
    try:
        reader.refresh()
        views = [view for view in catalog.views.values() if view.spec.source == source]
        newest = max((reader.latest_us(view) for view in views), default=NO_TIME)
    finally:
        reader.close()
    return None if newest == NO_TIME else newest


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
