"""The comparison that tests trust: strict, and no looser with floats than rounding asks for."""

from __future__ import annotations

import math

import pytest

from tests.oracle import (
    Feature,
    Message,
    SourceParams,
    View,
    assert_same_rows,
    judge,
    same,
    snapshots,
    tumbling,
)
from tests.oracle.model import MINUTE
from tests.oracle.windows import SCALE


def test_same_is_strict_about_types_and_loose_only_about_floats_with_a_scale() -> None:
    assert same(1, 1)
    assert not same(1, 1.0)
    assert not same(True, 1)
    assert not same(0, None)
    assert not same(None, math.nan)
    assert same(math.nan, math.nan)
    assert same(-math.inf, -math.inf)
    assert not same(math.inf, 1.0, 1e300)
    assert same(0.1 + 0.2, 0.3, 0.3)
    assert not same(0.1 + 0.2, 0.3)
    assert not same(1.0, 1.0 + 2e-9, 1.0)


def test_the_tolerance_of_a_variance_is_not_vacuous() -> None:
    # mean 1e9, spread 1: summing squares in floats loses it all, merging moments does not
    values = [1e9 + 1.0, 1e9 + 2.0, 1e9 + 3.0]
    features = (Feature("v", "var", "x", tumbling(MINUTE)), Feature("d", "stddev", "x", tumbling(MINUTE)))
    source = SourceParams("ts", ooo_us=0, lateness_us=0)
    messages = [Message(0, i, {"ts": i, "k": "a", "x": x}, i) for i, x in enumerate(values)]
    datasets = snapshots(View(("k",), features), messages, judge(messages, source), source, close_windows=True)
    (row,) = datasets["tumbling_1m"].values()
    assert row["v"] == 1.0
    naive = (sum(v * v for v in values) - sum(values) ** 2 / 3) / 2
    assert not same(row["v"], naive, row[SCALE]["v"])
    assert same(row["v"], 1.0 + 1e-7, row[SCALE]["v"])
    assert not same(row["v"], 1.0 + 1e-2, row[SCALE]["v"])
    assert not same(row["d"], 1.0 + 1e-2, row[SCALE]["d"])


def test_rows_that_differ_are_named() -> None:
    expected = {("a", 60): {"n": 2, "s": 0.3, SCALE: {"s": 0.3}}, ("b", 60): {"n": 1, "s": 0.0, SCALE: {}}}
    good = {("a", 60): {"n": 2, "s": 0.1 + 0.2, "revision": 3}, ("b", 60): {"n": 1, "s": 0.0}}
    assert_same_rows(expected, good)
    with pytest.raises(AssertionError, match=r"missing row \('b', 60\)"):
        assert_same_rows(expected, {("a", 60): good["a", 60]})
    with pytest.raises(AssertionError, match="unexpected row"):
        assert_same_rows({}, good)
    with pytest.raises(AssertionError, match="n: expected 2, got 3"):
        assert_same_rows(expected, {**good, ("a", 60): {"n": 3, "s": 0.3}})
    with pytest.raises(AssertionError, match="no column 's'"):
        assert_same_rows(expected, {**good, ("a", 60): {"n": 2}})
