"""Lateness is a function of the partition's log: any cut into batches decides as one event at a time does."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featurestore.batches import NO_TIME
from featurestore.sources.lateness import in_future, max_before, too_late, watermark_before

TIME_MIN, TIME_MAX = -62_135_596_800_000_000, 253_402_300_799_999_999
times = st.one_of(st.integers(0, 100), st.integers(TIME_MIN, TIME_MAX), st.sampled_from([TIME_MIN, TIME_MAX, 0, -1]))
spans = st.sampled_from([0, 1, 5, 50, 86_400_000_000])


def one_at_a_time(events: list[int], start: int, ooo: int, lateness: int) -> list[tuple[int, bool]]:
    """(watermark before, too late) of each event."""
    newest = None if start == NO_TIME else start
    verdicts = []
    for event in events:
        if newest is None:
            verdicts.append((NO_TIME, False))
            newest = event
        else:
            verdicts.append((newest - ooo, event < newest - ooo - lateness))
            newest = max(newest, event)
    return verdicts


@given(
    events=st.lists(times, max_size=40),
    start=st.one_of(st.just(NO_TIME), times),
    ooo=spans,
    lateness=spans,
    cuts=st.lists(st.integers(0, 40), max_size=5),
)
def test_any_cut_into_batches_decides_as_one_event_at_a_time_does(
    events: list[int], start: int, ooo: int, lateness: int, cuts: list[int]
) -> None:
    expected = one_at_a_time(events, start, ooo, lateness)
    decided: list[tuple[int, bool]] = []
    newest = start
    edges = [0, *sorted(cut for cut in cuts if cut < len(events)), len(events)]
    for low, high in pairwise(edges):
        batch = np.array(events[low:high], dtype=np.int64)
        before = max_before(batch, newest)
        watermark = watermark_before(before, ooo)
        decided += zip(watermark.tolist(), too_late(batch, watermark, lateness).tolist(), strict=True)
        newest = max([newest, *events[low:high]])
    assert decided == expected


def test_an_event_exactly_at_the_allowed_lateness_is_not_too_late() -> None:
    newest, ooo, lateness = 1_000_000, 10, 100
    events = np.array([newest - 110, newest - 111])
    watermark = watermark_before(max_before(events, newest), ooo)
    assert too_late(events, watermark, lateness).tolist() == [False, True]


def test_an_event_exactly_at_the_allowed_future_is_accepted() -> None:
    assert in_future(np.array([160, 161]), np.array([100, 100]), 60).tolist() == [False, True]
    assert in_future(np.array([160, 161]), 100, 60).tolist() == [False, True]


def test_batches_keep_their_input() -> None:
    events = np.array([3, 1, 2])
    max_before(events, NO_TIME)
    assert events.tolist() == [3, 1, 2]
