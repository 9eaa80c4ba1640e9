"""A check for anyone's point-in-time join: what happens after an instant must not change its row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import polars as pl

from featurestore.durations import parse_duration_us

ROW = "_leakage_row"


def assert_no_leakage(
    join: Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame],
    spine: pl.DataFrame,
    events: pl.DataFrame,
    *,
    timestamp: str = "event_timestamp",
    event_time: str = "event_time",
    cuts: int = 10,
    shift: str = "1h",
    seed: int = 0,
) -> None:
    """Raise AssertionError when a row of a point-in-time join depends on events at or after its instant.

    join(spine, events) gives the spine's rows, in their order, with features; it is called with its own columns alone.
    timestamp, event_time: columns of instants. At `cuts` instants spread over the spine's, what lies at or after the
    instant is left out, shifted by `shift`, and shuffled (each column for itself); rows up to the instant must not
    change. Half of the instants are those of events where there are some, so that an event at the very instant is
    noticed. More cuts find rarer leaks, and cost three joins each.
    Also raised when the check could find nothing: no event lies after any of the cuts.
    """
    expected = join(spine, events)
    found_something = False
    for cut in _cuts(spine[timestamp], events[event_time], cuts):
        future = pl.col(event_time) >= cut
        later = events.filter(future)
        if later.is_empty():
            continue
        found_something = True
        before = events.filter(~future)
        moved = later.with_columns(pl.col(event_time) + pl.duration(microseconds=parse_duration_us(shift)))
        shuffled = later.with_columns(pl.exclude(event_time).shuffle(seed=seed))
        for how, other in (("left out", later.clear()), ("shifted", moved), ("shuffled", shuffled)):
            _same_rows(expected, join(spine, pl.concat([before, other])), spine[timestamp] <= cut, cut, how)
    assert found_something, "no event lies at or after any instant of the spine: nothing could leak"


def _cuts(instants: pl.Series, times: pl.Series, cuts: int) -> list[datetime]:
    """Instants of the spine, events' own first, evenly drawn."""
    shared = instants.filter(instants.is_in(times.implode())).unique().sort()
    every = instants.unique().sort()
    wanted: list[datetime] = []
    for candidates in (shared, every):
        step = max(1, len(candidates) * 2 // cuts)
        wanted += candidates.gather_every(step).to_list()
    return list(dict.fromkeys(wanted))


def _same_rows(expected: pl.DataFrame, found: pl.DataFrame, rows: pl.Series, cut: datetime, how: str) -> None:
    assert found.height == expected.height, f"the join gave {found.height} rows instead of {expected.height}"
    for name in expected.columns:
        one, other = expected[name].filter(rows), found[name].filter(rows)
        if one.dtype.is_float():
            near = ((one - other).abs() <= 1e-9 * one.abs() + 1e-9) | one.eq_missing(other)
            wrong = (~near.fill_null(False)).sum()
        else:
            wrong = one.ne_missing(other).sum()
        assert not wrong, f"column '{name}': {wrong} rows up to {cut} changed when events from then on were {how}"
