"""The clock that tells events of the future: the machine's, but never set back under a running worker."""

from __future__ import annotations

import time
from collections.abc import Callable


class SteadyClock:
    """Nanoseconds since the epoch, UTC: the wall clock, or where that was set back, what it said at the start and the
    time since then.

    A clock that jumps back would take live events for such of the future; one that was behind at the start and is put
    right is followed. not_before: what another one of the run has said already. wall, monotonic: in ns.
    """

    def __init__(
        self,
        not_before: int = 0,
        *,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._ahead = max(wall(), not_before) - monotonic()

    def __call__(self) -> int:
        """Now."""
        return max(self._wall(), self._ahead + self._monotonic())
