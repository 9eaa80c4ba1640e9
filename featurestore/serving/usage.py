"""Counts reads for the registry: in memory while they are answered, written by a thread of its own.

A request costs one increment, however many features it asks for: what is counted is its plan, which is the same object
for every request with these features. What a registry that is away can't take is kept, bounded, and written later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import structlog

from featurestore.registry.database import Database
from featurestore.registry.usage import FeatureReads, ReadCount
from featurestore.serving.catalog import ReadPlan, ServedView

log = structlog.get_logger(__name__)

FLUSH_INTERVAL_S = 10.0
"""How often counts are written; what a killed server had not written is lost."""
CLOSE_S = 2.0
"""How long the end of a server waits for the last write."""
UNNAMED = "unnamed"
"""The consumer of requests that name none, and no feature service."""
OTHERS = "others"
"""The consumer of requests whose name came after too many others."""
CONSUMERS_MAX = 256
"""Names that a process tells apart in a day: one that makes up names must not fill the registry."""
TALLIES_MAX = 10_000
PENDING_MAX = 100_000
KEPT_DAYS = 400
"""How long the registry keeps counts."""

_NAME_MOST = 100


@dataclass
class _Tally:
    """Reads of one plan by one consumer that these versions answered."""

    plan: ReadPlan
    answered: tuple[ServedView, ...]
    reads: int = 0


class Usage:
    """Reads since the last `flush`, and those that could not be written yet. place: of the registry."""

    def __init__(self, place: Path | str, *, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> None:
        self._place = place
        self._now = now
        self._lock = threading.Lock()
        self._tallies: dict[tuple[object, ...], _Tally] = {}
        self._names: dict[bytes | str, str] = {}
        self._names_day = now().date()
        self._dropped = 0
        # Only the thread that flushes touches these.
        self._pending: dict[tuple[str, int, str, str, date], ReadCount] = {}
        self._forgot_on: date | None = None

    def count(self, plan: ReadPlan, answered: Sequence[ServedView], consumer: bytes | str) -> None:
        """Note that a request was answered. answered: the version of each of the plan's parts.

        consumer: who asked, as its request says; empty when it does not. Any thread may call it.
        """
        name = self._names.get(consumer) or self._name(consumer)
        # The tally holds what the ids are of, so none of them is given to something else.
        key = (name, id(plan), *map(id, answered))
        with self._lock:
            tally = self._tallies.get(key)
            if tally is None:
                if len(self._tallies) >= TALLIES_MAX:
                    self._dropped += 1
                    return
                tally = self._tallies[key] = _Tally(plan, tuple(answered))
            tally.reads += 1

    def flush(self) -> None:
        """Write what was counted. Raises RegistryError when that can't be; it is kept for the next time."""
        now = self._now()
        self._take(now)
        if not self._pending:
            return
        database = Database.open(self._place, create=False)
        try:
            reads = FeatureReads(database)
            reads.add(self._pending.values())
            self._pending.clear()
            if now.date() != self._forgot_on:
                reads.forget(now.date() - timedelta(days=KEPT_DAYS))
                self._forgot_on = now.date()
        finally:
            database.close()

    def _take(self, now: datetime) -> None:
        with self._lock:
            tallies, self._tallies = self._tallies, {}
            dropped, self._dropped = self._dropped, 0
            if now.date() != self._names_day:
                self._names, self._names_day = {}, now.date()
        for (name, *_), tally in tallies.items():
            for part, view in zip(tally.plan.parts, tally.answered, strict=True):
                for feature in part.features:
                    key = (view.name, view.version, feature, str(name), now.date())
                    before = self._pending.get(key)
                    if before is None and len(self._pending) >= PENDING_MAX:
                        dropped += tally.reads
                        continue
                    reads = tally.reads + (before.reads if before else 0)
                    self._pending[key] = ReadCount(*key[:4], reads, now)
        if dropped:
            log.warning("reads_not_counted", reads=dropped)

    def _name(self, consumer: bytes | str) -> str:
        """The consumer's name as it is written, remembered while there are not too many."""
        if len(self._names) >= CONSUMERS_MAX:
            return OTHERS
        text = consumer if isinstance(consumer, str) else consumer.decode("latin-1")
        name = "".join(filter(str.isprintable, text)).strip()[:_NAME_MOST] or UNNAMED
        self._names[consumer] = name
        return name
