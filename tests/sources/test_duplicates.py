"""Duplicates by event id, held against three lines of Python that look at one event after the other."""

from __future__ import annotations

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.batches import NO_TIME
from featurestore.sources import duplicates
from featurestore.sources.duplicates import SeenIds
from tests.factories import source_spec

SECOND = 1_000_000
Event = tuple[object, int]


def spec(within_s: int, ooo_s: int = 0, lateness_s: int = 0):
    plain = source_spec(out_of_orderness_us=ooo_s * SECOND, lateness_us=lateness_s * SECOND)
    return msgspec.structs.replace(plain, dedupe_by="id", dedupe_within_us=within_s * SECOND)


def naive(events: list[Event], within_s: int, ooo_s: int, lateness_s: int) -> list[str]:
    accepted: list[Event] = []
    newest = None
    verdicts = []
    for name, at in events:
        if name is not None and any(n == name and newest - t <= within_s * SECOND for n, t in accepted):
            verdicts.append("duplicate")
            continue
        late = newest is not None and at < newest - (ooo_s + lateness_s) * SECOND
        verdicts.append("late" if late else "accepted")
        if not late:
            accepted.append((name, at))
        newest = at if newest is None else max(newest, at)
    return verdicts


def in_batches(seen: SeenIds, events: list[Event], sizes: list[int], dtype: pl.DataType) -> list[bool]:
    found: list[bool] = []
    newest, at = NO_TIME, 0
    while at < len(events):
        size = sizes[len(found) % len(sizes)]
        part = events[at : at + size]
        times = np.array([t for _, t in part], dtype=np.int64)
        duplicate = seen.find(pl.Series("id", [n for n, _ in part], dtype=dtype), times, newest)
        newest = max(newest, int(times[~duplicate].max(initial=NO_TIME)))
        found += duplicate.tolist()
        at += size
    return found


IDS = {
    pl.String(): ["a", "b", "c", "", None],
    pl.Int64(): [0, 1, -1, 2**63 - 1, None],
    pl.Binary(): [b"", b"\x00", b"a", None],
}


@settings(max_examples=400)
@given(data=st.data())
def test_duplicates_are_those_of_a_look_at_one_event_after_the_other(data):
    dtype = data.draw(st.sampled_from(list(IDS)))
    ooo, lateness = data.draw(st.sampled_from([(0, 0), (2, 0), (1, 5)]))
    within = ooo + lateness + data.draw(st.sampled_from([0, 1, 10]))
    event = st.tuples(st.sampled_from(IDS[dtype]), st.integers(0, 30).map(lambda s: s * SECOND))
    events = data.draw(st.lists(event, max_size=60))
    sizes = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
    found = in_batches(SeenIds(spec(within, ooo, lateness)), events, sizes, dtype)
    assert found == [verdict == "duplicate" for verdict in naive(events, within, ooo, lateness)]


def test_a_batch_in_which_every_verdict_hangs_on_the_one_before_it_is_settled_in_parts():
    # Each id comes a second time just as the one before it decides whether the horizon has passed it.
    events: list[Event] = []
    for n in range(300):
        events += [(f"e{n}", n * SECOND), (f"e{n}", (n + 2) * SECOND), (f"e{n - 1}", (n + 2) * SECOND)]
    found = in_batches(SeenIds(spec(1)), events, [len(events)], pl.String())
    assert found == [verdict == "duplicate" for verdict in naive(events, 1, 0, 0)]


def test_a_null_id_is_like_no_other():
    seen = SeenIds(spec(10))
    for _ in range(2):
        ids = pl.Series("id", [None, None, "a"], dtype=pl.String)
        found = seen.find(ids, np.zeros(3, dtype=np.int64), NO_TIME)
        assert found.tolist()[:2] == [False, False]


def test_ids_beyond_the_horizon_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duplicates, "KEEP_MIN", 100)
    seen = SeenIds(spec(60))
    newest = NO_TIME
    for n in range(100):
        times = np.arange(n * 50, (n + 1) * 50) * SECOND
        seen.find(pl.Series("id", times), times, newest)
        newest = int(times[-1])
        assert len(seen) <= 200
    # What lies within it is there.
    ids = pl.Series("id", [newest - 60 * SECOND, newest - 61 * SECOND])
    assert seen.find(ids, np.array([newest, newest]), newest).tolist() == [True, False]
