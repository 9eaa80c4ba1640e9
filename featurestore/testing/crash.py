"""Crash points: a seeded schedule of sudden deaths between any two writes."""

from __future__ import annotations

import random


class SimulatedCrash(BaseException):
    """The process dies here. Not an Exception, so that nothing on the way can handle it."""


class CrashSchedule:
    """Counts the crash points passed and dies at chosen ones.

    seed: makes the schedule; mean_points: how many points a life has on average; deaths: how often it dies at most.
    """

    def __init__(self, seed: int, *, mean_points: int, deaths: int) -> None:
        self._random = random.Random(seed)
        self._mean_points = mean_points
        self._deaths = deaths
        self._left = self._draw()
        self.passed: list[str] = []

    def __call__(self, point: str) -> None:
        """Pass a crash point; raises SimulatedCrash when the schedule says so."""
        self.passed.append(point)
        if self._deaths == 0:
            return
        self._left -= 1
        if self._left <= 0:
            self._deaths -= 1
            self._left = self._draw()
            raise SimulatedCrash(point)

    def _draw(self) -> int:
        return 1 + int(self._random.expovariate(1 / self._mean_points))


def never_crash(point: str) -> None:
    """The crash point of production: does nothing."""
