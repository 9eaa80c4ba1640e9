"""Decide which events are too late, and which lie in the future.

Lateness is a function of one partition's log alone (docs/guarantees.md): the same log gives the same decision whatever
the batch size, the number of workers or the clock.
"""

from __future__ import annotations

import numpy as np

from featurestore.batches import NO_TIME


def max_before(event_time_us: np.ndarray, max_so_far_us: int) -> np.ndarray:
    """Largest event time before each row, int64, shape (n,): of the earlier rows and of `max_so_far_us` (or NO_TIME)."""
    if not len(event_time_us):
        return event_time_us
    shifted = np.concatenate((np.array([max_so_far_us], dtype=np.int64), event_time_us[:-1]))
    return np.maximum.accumulate(shifted)


def watermark_before(before_us: np.ndarray, max_out_of_orderness_us: int) -> np.ndarray:
    """The partition's watermark before each row; NO_TIME where no event came before."""
    return np.where(before_us == NO_TIME, NO_TIME, before_us - np.where(before_us == NO_TIME, 0, max_out_of_orderness_us))


def too_late(event_time_us: np.ndarray, watermark_us: np.ndarray, allowed_lateness_us: int) -> np.ndarray:
    """Which rows are behind the watermark by more than the allowed lateness; boolean, shape (n,)."""
    known = watermark_us != NO_TIME
    return known & (event_time_us < np.where(known, watermark_us, 0) - allowed_lateness_us)


def in_future(event_time_us: np.ndarray, limit_us: np.ndarray, max_future_us: int) -> np.ndarray:
    """Which rows lie beyond their limit (arrival time, or the wall clock at reading) by more than `max_future_us`."""
    return event_time_us > limit_us + max_future_us
