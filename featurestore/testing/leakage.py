"""A check for anyone's point-in-time join: what happens after an instant must not change its row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import numpy as np
import polars as pl

from featurestore.durations import parse_duration_us

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def assert_no_leakage(
    join: Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame],
    spine: pl.DataFrame,
    events: pl.DataFrame,
    *,
    timestamp: str = "event_timestamp",
    event_time: str = "event_time",
    arrival_time: str | None = None,
    cuts: int = 10,
    shift: str = "1h",
    seed: int = 0,
) -> None:
    """Raise AssertionError when a row of a point-in-time join depends on what lies after its instant.

    join(spine, events) gives the spine's rows, in their order, with features; it is called with its own columns alone.
    timestamp, event_time: columns of instants. What lies after an instant: events at it or later; with arrival_time,
    also a column of instants, those too that arrived after it, whenever they happened.
    At `cuts` instants spread over the spine's, what lies after the instant is left out, moved later by `shift`, and
    shuffled (rows get each other's times); rows up to the instant must not change. Half of the instants are those of
    events where there are some, so that an event at the very instant is noticed. More cuts find rarer leaks, and cost
    three joins each.
    Also raised when the check could find nothing: no event lies after any of the cuts.
    """
    times = [event_time, *([] if arrival_time is None else [arrival_time])]
    instants = up_to_us(spine[timestamp])
    expected = join(spine, events)
    if timestamp in expected.columns:
        in_order = expected.height == spine.height and expected[timestamp].equals(spine[timestamp])
        assert in_order, "the join gave other rows than the spine's, or in another order"
    found_something = False
    for cut_us in cuts_of(instants, events[event_time].dt.epoch("us"), cuts):
        future = events[event_time].dt.epoch("us") >= cut_us
        if arrival_time is not None:
            future |= up_to_us(events[arrival_time]) > cut_us
        later = events.filter(future)
        if later.is_empty():
            continue
        found_something = True
        before = events.filter(~future)
        moved = later.with_columns(pl.col(times) + pl.duration(microseconds=parse_duration_us(shift)))
        moved = moved.cast(later.schema)  # nanoseconds and a duration in µs give µs
        # One order for all columns: an event keeps its key and values, and gets the times of another.
        shuffled = later.with_columns(pl.exclude(times).shuffle(seed=seed))
        for how, other in (("left out", later.clear()), ("moved later", moved), ("shuffled", shuffled)):
            _same_rows(expected, join(spine, pl.concat([before, other])), instants <= cut_us, cut_us, how)
    assert found_something, "no event lies at or after any instant of the spine: nothing could leak"


def up_to_us(instants: pl.Series) -> pl.Series:
    """Int64 µs; what is finer is rounded up, so that what lies before an instant still does."""
    if isinstance(instants.dtype, pl.Datetime) and instants.dtype.time_unit == "ns":
        return (instants.dt.epoch("ns") + 999) // 1_000
    return instants.dt.epoch("us")


def cuts_of(instants: pl.Series, times: pl.Series, cuts: int) -> list[int]:
    """Instants of the spine, events' own first, evenly drawn, the last ones among them; µs."""
    every = instants.unique().sort()
    shared = every.filter(every.is_in(times.implode()))
    wanted = [*_spread(shared, cuts - cuts // 2), *_spread(every, cuts)]
    return list(dict.fromkeys(wanted))[:cuts]


def _spread(candidates: pl.Series, wanted: int) -> list[int]:
    number = min(len(candidates), wanted)
    return [int(us) for us in candidates.gather(np.linspace(len(candidates) - 1, 0, number).round().astype(np.int64))]


def _same_rows(expected: pl.DataFrame, found: pl.DataFrame, rows: pl.Series, cut_us: int, how: str) -> None:
    assert found.height == expected.height, f"the join gave {found.height} rows instead of {expected.height}"
    for name in expected.columns:
        one, other = expected[name].filter(rows), found[name].filter(rows)
        if one.dtype.is_float():
            near = ((one - other).abs() <= 1e-9 * one.abs() + 1e-9) | one.eq_missing(other)
            wrong = (~near.fill_null(False)).sum()
        else:
            wrong = one.ne_missing(other).sum()
        cut = _EPOCH + timedelta(microseconds=cut_us)
        assert not wrong, f"column '{name}': {wrong} rows up to {cut} changed when what lies after it was {how}"
