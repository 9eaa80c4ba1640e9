"""The oracle against examples worked out by hand. Times in the drawings are seconds after `T0`."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import pytest

import tests.oracle
from tests.oracle import (
    Feature,
    Message,
    SourceParams,
    View,
    Window,
    applied_events,
    default_tile_us,
    hopping,
    judge,
    lifetime,
    online_row,
    online_value,
    same,
    sliding,
    snapshots,
    source_counts,
    tumbling,
    view_counts,
    view_watermark,
)
from tests.oracle.model import DAY, HOUR, MINUTE, SECOND
from tests.oracle.windows import SCALE, dataset_name

T0 = 20_000 * DAY
SOURCE = SourceParams("ts", ooo_us=5 * SECOND, lateness_us=60 * SECOND, max_future_us=60 * SECOND)
COUNT = Feature("n", "count", None, tumbling(MINUTE))


def at(seconds: float) -> int:
    return T0 + round(seconds * SECOND)


def log(*seconds: float | None, partition: int = 0, key: Any = "a", **columns: Any) -> list[Message]:
    """A partition's messages; each arrives at T0 + 1 h. None: undecodable. A list: by message."""
    messages = []
    for offset, second in enumerate(seconds):
        values = {name: v[offset] if isinstance(v, list) else v for name, v in {"k": key, **columns}.items()}
        event = None if second is None else {"ts": at(second), **values}
        messages.append(Message(partition, offset, event, at(3600)))
    return messages


def view_of(*features: Feature, **options: Any) -> View:
    return View(("k",), features, **options)


def rows_of(view: View, messages: list[Message], close_windows: bool = True) -> dict[str, dict[Any, Any]]:
    """Datasets with ends in seconds and without scales."""
    verdicts = judge(messages, SOURCE)
    found = snapshots(view, messages, verdicts, SOURCE, close_windows=close_windows)
    return {
        name: {
            (key[0], (end - T0) / SECOND): {n: v for n, v in row.items() if n != SCALE}
            for (key, end), row in rows.items()
        }
        for name, rows in found.items()
    }


def value_of(function: str, values: list[Any], *, floats: bool = False) -> Any:
    feature = Feature("f", function, "x", lifetime(), floats=floats)
    messages = log(*range(len(values)), x=values)
    view = view_of(feature)
    events = applied_events(view, messages, judge(messages, SOURCE), SOURCE)["a",]
    return online_value(view, feature, events, at(10_000))[0]


def test_the_oracle_shares_no_code_with_the_project() -> None:
    folder = Path(tests.oracle.__file__).parent
    roots = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots.add((node.module or "").split(".")[0])
    standard = {"__future__", "collections", "dataclasses", "datetime", "fractions", "json", "math", "typing"}
    assert roots == standard | {"tests"}


# --- lateness -------------------------------------------------------------------------------------------
# out of order by 5 s, allowed lateness 60 s
#
# offset          0      1      2      3      4      5      6
# event time    100    200    196    194    135   134.999999  201
# newest before   -    100    200    200    200    200    200
# watermark       -     95    195    195    195    195    195
# behind          -      0      0      1     60   60.000001  0
# verdict        ok     ok     ok     ok     ok   late     ok


def test_lateness_is_measured_from_the_newest_of_earlier_offsets() -> None:
    verdicts = judge(log(100, 200, 196, 194, 135, 134.999999, 201), SOURCE)
    assert [v.kind for v in verdicts] == ["accepted"] * 5 + ["late", "accepted"]
    assert [v.watermark_before for v in verdicts] == [None, at(95)] + [at(195)] * 5
    assert [v.lateness_us for v in verdicts] == [0, 0, 0, SECOND, MINUTE, MINUTE + 1, 0]
    counts = source_counts(verdicts)
    assert (counts.read, counts.accepted, counts.late_accepted, counts.too_late, counts.dead) == (
        7,
        6,
        2,
        1,
        0,
    )


def test_partitions_do_not_see_each_other() -> None:
    early, late = log(10, 11, partition=0), log(3000, 3001, partition=1)
    messages = [late[0], early[0], late[1], early[1]]
    assert [v.watermark_before for v in judge(messages, SOURCE)] == [None, None, at(2995), at(5)]
    assert {v.kind for v in judge(messages, SOURCE)} == {"accepted"}


def test_dead_letters_do_not_move_the_watermark() -> None:
    # arrival is at 3600, so 3660 is as far ahead as is allowed
    # time         100   3660.000001   None    96   3660   3594
    # watermark     -        95        95     95    95   3655 (61 s behind: too late)
    verdicts = judge(log(100, 3660.000001, None, 96, 3660, 3594), SOURCE)
    assert [v.kind for v in verdicts] == ["accepted", "dead", "dead", "accepted", "accepted", "late"]
    assert [v.watermark_before for v in verdicts] == [None, at(95), at(95), at(95), at(95), at(3655)]
    no_time = Message(0, 0, {"ts": None, "k": "a"}, at(0))
    assert judge([no_time], SOURCE)[0].kind == "dead"


def test_the_view_watermark_is_the_least_of_the_partitions_that_have_events() -> None:
    #   partition 0: newest 300 -> 295     partition 1: newest 200 -> 195     partition 2: only a dead letter
    messages = log(300, 290, partition=0) + log(200, partition=1) + log(None, partition=2)
    assert view_watermark(messages, judge(messages, SOURCE), SOURCE) == at(195)
    dead = log(None, None)
    assert view_watermark(dead, judge(dead, SOURCE), SOURCE) is None


# --- where, null keys -----------------------------------------------------------------------------------


def test_filtered_comes_before_null_key() -> None:
    view = view_of(COUNT, where=lambda e: None if e["status"] is None else e["status"] == "ok")
    messages = log(
        *(1, 2, 3, 4, 5, None),
        key=["a", None, None, "a", "b", "-"],
        status=["ok", "ok", "no", None, "ok", "-"],
    )
    verdicts = judge(messages, SOURCE)
    counts = view_counts(view, messages, verdicts)
    assert (counts.applied, counts.filtered, counts.null_key) == (2, 2, 1)
    assert set(applied_events(view, messages, verdicts, SOURCE)) == {("a",), ("b",)}


def test_derived_columns_are_made_from_the_event_as_it_came() -> None:
    feature = Feature("s", "sum", "x2", tumbling(MINUTE))
    view = view_of(feature, derive={"x2": lambda e: None if e["x"] is None else 2 * e["x"]})
    assert rows_of(view, log(1, 2, 3, x=[1, None, 4])) == {"tumbling_1m": {("a", 60): {"s": 10}}}


# --- aggregates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "values", "expected"),
    [
        ("count", [1, None, 3], 2),
        ("sum", [1, None, 3], 4),
        ("sum", [None, None], 0),
        ("sum", [0.5, 0.25], 0.75),
        ("sum", [True, False, None, True], 2),
        ("sum", [1e16, 1.0, -1e16], 1.0),
        ("mean", [1, 2, None], 1.5),
        ("mean", [None], None),
        ("min", ["b", "a", None], "a"),
        ("max", [-2, -1, None], -1),
        ("max", [True, False], True),
        ("min", [None], None),
        ("var", [1, 3, None], 2.0),
        ("var", [1e9 + 1, 1e9 + 3], 2.0),
        ("var", [7], None),
        ("stddev", [1.0, 3.0], math.sqrt(2)),
        ("stddev", [5.0, 5.0], 0.0),
        ("first", [None, "x", "y"], "x"),
        ("last", ["x", "y", None], "y"),
        ("last", [None], None),
    ],
)
def test_aggregates(function: str, values: list[Any], expected: Any) -> None:
    value = value_of(function, values)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("function", ["sum", "mean", "min", "max", "var", "stddev", "last"])
def test_nan_goes_through(function: str) -> None:
    assert math.isnan(value_of(function, [1.0, 2.0, math.nan]))
    assert value_of("count", [1.0, math.nan, None]) == 2
    assert value_of("first", [1.0, math.nan]) == 1.0


def test_a_float_column_gives_floats() -> None:
    assert same(0.0, value_of("sum", [None], floats=True))
    assert same(3.0, value_of("sum", [1, 2], floats=True))


def test_ties_of_first_and_last_are_broken_by_partition_then_offset() -> None:
    #             offset 0   1   2
    # partition 1     5: p              last = p: of the highest partition, for all that its offset is low
    # partition 0     5: r   5   5: s   first = r
    messages = log(5, partition=1, x=["p"]) + log(5, 5, 5, partition=0, x=["r", "q", "s"])
    view = view_of(Feature("f", "first", "x", lifetime()), Feature("l", "last", "x", lifetime()))
    assert rows_of(view, messages) == {"sliding": {("a", 60): {"f": "r", "l": "p"}}}
    assert rows_of(view, messages[1:]) == {"sliding": {("a", 60): {"f": "r", "l": "s"}}}


# --- tumbling and hopping -------------------------------------------------------------------------------
# tumbling 1 m        [0       60)[60      120)[120     180)
# events               0   59.9    60            120
# newest 120 -> watermark 115: only [0, 60) has been passed


def test_tumbling_windows_are_half_open() -> None:
    view = view_of(COUNT)
    messages = log(0, 59.999999, 60, 120)
    closed = {("a", 60): {"n": 2}, ("a", 120): {"n": 1}, ("a", 180): {"n": 1}}
    assert rows_of(view, messages) == {"tumbling_1m": closed}
    assert rows_of(view, messages, close_windows=False) == {"tumbling_1m": {("a", 60): {"n": 2}}}


def test_a_window_is_emitted_when_the_watermark_is_at_its_end() -> None:
    assert rows_of(view_of(COUNT), log(1, 65), close_windows=False)["tumbling_1m"] == {("a", 60): {"n": 1}}
    assert rows_of(view_of(COUNT), log(1, 64.999999), close_windows=False)["tumbling_1m"] == {}


def test_a_late_event_counts_in_its_window_and_a_too_late_one_nowhere() -> None:
    # watermark before offsets 2 and 3: 115; 56 is 59 s late, 54 is 61 s late
    assert rows_of(view_of(COUNT), log(10, 120, 56, 54))["tumbling_1m"][("a", 60)] == {"n": 2}


def test_an_offset_shifts_the_windows() -> None:
    # [-45, 15) [15, 75)
    view = view_of(Feature("n", "count", None, tumbling(MINUTE, 15 * SECOND)))
    assert rows_of(view, log(14, 15, 74)) == {"tumbling_1m_offset_15s": {("a", 15): {"n": 1}, ("a", 75): {"n": 2}}}


def test_an_event_is_in_every_hopping_window_that_covers_it() -> None:
    # size 3 m, every 1 m
    # event at 60:                [-60, 120) [0, 180) [60, 240)
    # event at 59:   [-120, 60)  [-60, 120) [0, 180)
    view = view_of(Feature("n", "count", None, hopping(3 * MINUTE, MINUTE)))
    ends = {60: 1, 120: 2, 180: 2, 240: 1}
    assert rows_of(view, log(60, 59)) == {"hopping_3m_1m": {("a", end): {"n": n} for end, n in ends.items()}}


@pytest.mark.parametrize(
    ("window", "name"),
    [
        (sliding(HOUR), "sliding"),
        (lifetime(), "sliding"),
        (tumbling(90 * MINUTE), "tumbling_90m"),
        (hopping(10 * MINUTE, MINUTE), "hopping_10m_1m"),
        (tumbling(HOUR, 5 * MINUTE), "tumbling_1h_offset_5m"),
        (tumbling(7 * DAY), "tumbling_7d"),
        (tumbling(500_000), "tumbling_500ms"),
    ],
)
def test_dataset_names(window: Window, name: str) -> None:
    assert dataset_name(window) == name


# --- sliding --------------------------------------------------------------------------------------------


def test_default_tiles() -> None:
    sizes = {
        SECOND: 0.1,
        MINUTE: 1,
        10 * MINUTE: 10,
        HOUR: 60,
        24 * HOUR: 900,
        7 * DAY: 7200,
        90 * DAY: 86400,
    }
    assert {size: default_tile_us(size) / SECOND for size in sizes} == sizes


def test_a_sliding_read_is_exact_at_its_head_and_rounded_out_at_its_tail() -> None:
    # window 10 m, tile 10 s; as of t = 1234.5: t - 600 = 634.5, tile_floor = 630
    #   629.999999 | 630  634  ...  1234.499999 | 1234.5
    #      out         in                in          out
    view = view_of(Feature("n", "count", None, sliding(10 * MINUTE)))
    messages = log(629.999999, 630, 634, 1234.499999, 1234.5)
    events = applied_events(view, messages, judge(messages, SOURCE), SOURCE)["a",]
    assert online_row(view, events, at(1234.5)) == {"n": (3, "PRESENT")}
    assert online_row(view, events, at(1234.5) + 1) == {"n": (4, "PRESENT")}
    assert online_row(view, events, at(1240)) == {"n": (2, "PRESENT")}  # [640, 1240)


def test_a_sliding_snapshot_is_for_entities_with_an_event_in_its_interval() -> None:
    # every 1 m, window 2 m (tile 1 s)
    #   a:  10 . . . . . . . . . 130     boundaries 60: {10}, 180: [60, 180) = {130}; none at 120
    #   b:  . . . 70                     boundary 120: {70}
    view = view_of(Feature("n", "count", None, sliding(2 * MINUTE)), Feature("all", "count", None, lifetime()))
    assert rows_of(view, log(10, 70, 130, key=["a", "b", "a"])) == {
        "sliding": {
            ("a", 60): {"n": 1, "all": 1},
            ("b", 120): {"n": 1, "all": 1},
            ("a", 180): {"n": 1, "all": 2},
        }
    }


def test_a_late_event_corrects_only_the_snapshot_of_its_own_interval() -> None:
    # time       10   70  130   70.5
    # watermark   -    5   65   125     70.5 is 54.5 s late, accepted
    # boundary 60: {10}    120: {10, 70} and 70.5, of its own interval    180: came before that: all four
    view = view_of(Feature("n", "count", None, sliding(10 * MINUTE)))
    assert rows_of(view, log(10, 70, 130, 70.5))["sliding"] == {
        ("a", 60): {"n": 1},
        ("a", 120): {"n": 3},
        ("a", 180): {"n": 4},
    }
    # every 30 s
    # time       10   70  125    61
    # watermark   -    5   65   120     61 is 59 s late, accepted
    view = view_of(Feature("n", "count", None, sliding(10 * MINUTE)), snapshot_every_us=30 * SECOND)
    assert rows_of(view, log(10, 70, 125, 61))["sliding"] == {
        ("a", 30): {"n": 1},  # [0, 30): 10
        ("a", 90): {"n": 3},  # [60, 90): 70, and 61 late
        ("a", 150): {"n": 4},  # not reached before 61 came
    }
    # the same, but now 95 has a snapshot at 120 that 61 must not change: its partition was at 120 already
    assert rows_of(view, log(10, 70, 95, 125, 61))["sliding"] == {
        ("a", 30): {"n": 1},
        ("a", 90): {"n": 3},
        ("a", 120): {"n": 3},  # 10, 70, 95
        ("a", 150): {"n": 5},
    }


# --- reads ----------------------------------------------------------------------------------------------


def test_statuses() -> None:
    # events at 100 and 200, ttl 300
    #   t = 100: nothing before    200: {100}    500: newest 200 >= 500 - 300    500.000001: outside
    features = (
        Feature("n", "count", None, sliding(10 * SECOND, tile_us=SECOND), default=-1),
        Feature("s", "sum", "x", sliding(10 * SECOND, tile_us=SECOND)),
        Feature("l", "last", "x", lifetime()),
        Feature("m", "max", "x", sliding(10 * SECOND, tile_us=SECOND), default=0),
    )
    view = view_of(*features, ttl_us=300 * SECOND)
    messages = log(100, 200, x=[7, None])
    events = applied_events(view, messages, judge(messages, SOURCE), SOURCE)["a",]
    unknown, none = "NOT_FOUND", "NULL_VALUE"
    present, old = "PRESENT", "OUTSIDE_MAX_AGE"
    expected = {
        100: [(-1, unknown), (None, unknown), (None, unknown), (0, unknown)],
        101: [(1, present), (7, present), (7, present), (7, present)],
        500: [(0, present), (0, present), (7, present), (None, none)],
        500.000001: [(None, old)] * 4,
    }
    assert {t: list(online_row(view, events, at(t)).values()) for t in expected} == expected
    assert online_row(view_of(*features), events, at(9999))["n"] == (0, "PRESENT")


def test_a_read_sees_the_newest_window_that_has_ended() -> None:
    # tumbling 1 m      [0: 10, 20  60)[60: 70  120)[120: nothing
    # hopping 3 m, 1 m  the newest ended by 60 is [-120, 60), by 120 [-60, 120), by 180 [0, 180)
    view = view_of(COUNT, Feature("h", "count", None, hopping(3 * MINUTE, MINUTE)))
    messages = log(10, 20, 70)
    events = applied_events(view, messages, judge(messages, SOURCE), SOURCE)["a",]

    def read(t: float) -> list[Any]:
        return [value for value, _ in online_row(view, events, at(t)).values()]

    assert read(59.999999) == [0, 0]
    assert read(60) == [2, 2]
    assert read(119.999999) == [2, 2]
    assert read(120) == [1, 3]
    assert read(180) == [0, 3]
    assert read(240) == [0, 1]

    # offset 15 s: [-45: 10  15)[15: 20, 70  75)
    view = view_of(Feature("o", "count", None, tumbling(MINUTE, 15 * SECOND)))
    assert read(14.999999) == [0]
    assert read(15) == [1]
    assert read(74.999999) == [1]
    assert read(75) == [2]
