"""What the server tells of itself; the names stand in `observability.TABLE`."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Mapping
from typing import Any

from featurestore.observability import create_metrics, exposition
from featurestore.serving.service import ReadObserved


class ServingMetrics:
    """Metrics of this process. With several server processes they are summed when scraped, whichever
    answers."""

    def __init__(self) -> None:
        self._metrics = create_metrics()
        # Finding a labelled counter again takes longer than counting.
        self._statuses: dict[tuple[str, str], Any] = {}

    def request(self, seconds: float) -> None:
        """Note one HTTP read request, answered or refused."""
        self._metrics.request_duration_seconds.observe(seconds)

    def read(self, observed: ReadObserved) -> None:
        """Note one view's read."""
        self._metrics.read_duration_seconds.observe(observed.seconds)
        tally: Tally[str] = Tally()
        for statuses in observed.statuses:
            tally.update(statuses)
        for status, count in tally.items():
            counter = self._statuses.get((observed.view, status))
            if counter is None:
                counter = self._metrics.feature_statuses_total.labels(observed.view, status)
                self._statuses[(observed.view, status)] = counter
            counter.inc(count)

    def freshness(self, latest_us: Mapping[str, int]) -> None:
        """Note how old each view's newest event is, now."""
        now_s = time.time()
        for view, newest_us in latest_us.items():
            self._metrics.freshness_seconds.labels(view).set(now_s - newest_us / 1e6)

    def exposition(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its content type."""
        return exposition()
