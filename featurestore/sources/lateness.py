"""Decide which events are too late, and which lie in the future.

Lateness is a function of one partition's log alone: the same log gives the same decision whatever the batch
size, the number of workers or the clock.
"""

from __future__ import annotations

import numpy as np

from featurestore.batches import NO_TIME


def max_before(event_time_us: np.ndarray, max_so_far_us: int) -> np.ndarray:
    """Largest event time before each row of one partition, int64, shape (n,).

    event_time_us: of valid events in offset order, int64, shape (n,). max_so_far_us: of the events before
    them, NO_TIME if there were none; then it is also what the first row gets.
    """
    before = np.empty(len(event_time_us), dtype=np.int64)
    before[:1] = max_so_far_us
    before[1:] = event_time_us[:-1]
    np.maximum.accumulate(before, out=before)
    return before


def watermark_before(before_us: np.ndarray, max_out_of_orderness_us: int) -> np.ndarray:
    """The partition's watermark before each row, given `max_before`; NO_TIME where no event came before."""
    watermark: np.ndarray = np.where(before_us == NO_TIME, NO_TIME, before_us - max_out_of_orderness_us)
    return watermark


def too_late(event_time_us: np.ndarray, watermark_us: np.ndarray, allowed_lateness_us: int) -> np.ndarray:
    """Which rows are behind the watermark by more than the allowed lateness; boolean, shape (n,)."""
    late: np.ndarray = (watermark_us != NO_TIME) & (watermark_us - event_time_us > allowed_lateness_us)
    return late


def in_future(event_time_us: np.ndarray, limit_us: np.ndarray | int, max_future_us: int) -> np.ndarray:
    """Which rows lie beyond their limit (arrival, or the clock at reading) by more than `max_future_us`."""
    future: np.ndarray = event_time_us - limit_us > max_future_us
    return future
