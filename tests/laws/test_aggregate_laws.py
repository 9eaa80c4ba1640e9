"""Laws of every aggregate: where a stream is cut, in which order parts are merged, and empty parts change nothing.

The test walks the table of aggregates, so a new one is found by itself.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.batches import EVENT_TIME, NO_TIME, OFFSET, PARTITION
from featurestore.compute.aggregates import AGGREGATES
from featurestore.compute.slots import Ranges, merge_slot
from featurestore.compute.tiles import TileTable, empty_tiles, merge_tiles

INPUTS = {
    "Int64": st.integers(-(2**40), 2**40),
    "Float64": st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: x + 0.0),
    "String": st.text(max_size=4),
}
CASES = [
    (name, dtype) for name in AGGREGATES for dtype in INPUTS if name in ("count", "first", "last") or dtype != "String"
]


def slots_of(name: str, dtype: str):
    return {slot.name: slot for slot in AGGREGATES[name].slots("x", dtype)}.values()


def lift(events: list[tuple], name: str, dtype: str) -> TileTable:
    """All events as one tile of entity 0."""
    slots = list(slots_of(name, dtype))
    if not events:
        return empty_tiles(slots)
    frame = pl.DataFrame(
        events,
        schema={"x": getattr(pl, dtype), EVENT_TIME: pl.Int64, PARTITION: pl.Int32, OFFSET: pl.Int64},
        orient="row",
    )
    frame = frame.sort(EVENT_TIME, PARTITION, OFFSET).with_columns(group=0)
    row = frame.group_by("group").agg(expr for slot in slots for expr in slot.lift())
    fields = {}
    for slot in slots:
        for field, kind in slot.fields:
            fields[field] = row[field] if kind == "str" else row[field].to_numpy()
    one = np.zeros(1, dtype=np.int64)
    return TileTable(one, one, np.full(1, NO_TIME), fields)


def finalized(table: TileTable, name: str, dtype: str) -> object:
    ranges = Ranges(np.array([0]), np.array([len(table)]))
    fields: dict = {}
    for slot in slots_of(name, dtype):
        fields.update(merge_slot(slot, table.fields, ranges))
    return AGGREGATES[name].finalize(fields, "x").series()[0]


def same(a: object, b: object, scale: float) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9 * (1 + scale))
    return a == b


def stream(dtype: str):
    event = st.tuples(st.none() | INPUTS[dtype], st.integers(0, 5))
    return st.lists(event, max_size=20).map(
        lambda events: [(value, time, i % 3, i) for i, (value, time) in enumerate(events)]
    )


@pytest.mark.parametrize(("name", "dtype"), CASES)
@given(data=st.data())
def test_a_stream_cut_anywhere_and_merged_in_any_order_gives_the_value_of_the_whole(name, dtype, data):
    events = data.draw(stream(dtype))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    parts = [events[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    parts = data.draw(st.permutations(parts))
    whole = finalized(lift(events, name, dtype), name, dtype)
    slots = list(slots_of(name, dtype))
    merged = empty_tiles(slots)
    for part in parts:
        merged = merge_tiles([merged, lift(part, name, dtype)], slots)
    at_once = merge_tiles([lift(part, name, dtype) for part in parts], slots)
    scale = sum(abs(x) ** (2 if name == "var" else 1) for x, *_ in events if isinstance(x, int | float))
    assert same(finalized(merged, name, dtype), whole, scale)
    assert same(finalized(at_once, name, dtype), whole, scale)


@pytest.mark.parametrize("name", sorted(AGGREGATES))
def test_an_aggregate_of_nothing_is_zero_for_counts_and_sums_and_null_for_the_rest(name):
    dtype = "Float64"
    value = finalized(empty_tiles(list(slots_of(name, dtype))), name, dtype)
    assert value == 0 if name in ("count", "sum") else value is None


@pytest.mark.parametrize("name", ["sum", "mean", "min", "max", "var", "stddev"])
@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_nan_propagates_wherever_the_stream_is_cut(name, cut):
    events = [(1.0, 0, 0, 0), (math.nan, 1, 0, 1), (2.0, 2, 0, 2)]
    slots = list(slots_of(name, "Float64"))
    parts = [lift(part, name, "Float64") for part in (events[:cut], events[cut:])]
    assert math.isnan(finalized(merge_tiles(parts, slots), name, "Float64"))


def test_variance_stays_exact_for_a_small_spread_around_a_large_mean():
    values = [1e9 + x for x in (4.0, 7.0, 13.0, 16.0)]
    slots = list(slots_of("var", "Float64"))
    parts = [lift([(value, 0, 0, i)], "var", "Float64") for i, value in enumerate(values)]
    assert finalized(merge_tiles(parts, slots), "var", "Float64") == pytest.approx(30.0, rel=1e-9)
