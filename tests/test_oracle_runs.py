"""Several runs after each other, and values on the wire: by hand, and against one run. Seconds after `T0`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle import (
    Column,
    Feature,
    Message,
    Run,
    RunsResult,
    SourceParams,
    View,
    dead_letters,
    hopping,
    judge,
    lifetime,
    read_json,
    sliding,
    snapshots,
    snapshots_of_runs,
    tumbling,
)
from tests.oracle.model import DAY, MINUTE, SECOND
from tests.strategies import PARAMS, Stream, in_sequence, streams
from tests.wire import BAD_VALUES, EVENT_TIME, WIRE_COLUMNS, through_json

T0 = 20_000 * DAY
SOURCE = SourceParams("ts", ooo_us=5 * SECOND, lateness_us=60 * SECOND)
COUNT = View(("k",), (Feature("n", "count", None, tumbling(MINUTE)),))
SLIDING = View(("k",), (Feature("n", "count", None, sliding(10 * MINUTE)),))
CARDS = View(
    ("card_id",),
    (
        Feature("n", "count", None, tumbling(MINUTE)),
        Feature("h", "sum", "quantity", hopping(3 * MINUTE, MINUTE)),
        Feature("s", "max", "amount", sliding(10 * MINUTE)),
        Feature("l", "last", "merchant_id", lifetime()),
    ),
)


def log(*seconds: float, partition: int = 0) -> list[Message]:
    return [
        Message(partition, offset, {"ts": T0 + round(second * SECOND), "k": "a"}, T0 + DAY)
        for offset, second in enumerate(seconds)
    ]


def counts(result: RunsResult, name: str = "tumbling_1m") -> dict[float, int]:
    return {(end - T0) / SECOND: row["n"] for (_, end), row in result.rows[name].items()}


def test_a_later_run_goes_on_where_the_first_stopped() -> None:
    # run 1: 10 | 70, watermark 65: [0, 60) is emitted          run 2: 50 corrects it; 130 passes [60, 120)
    messages = log(10, 70, 50, 130)
    first = snapshots_of_runs(COUNT, messages, SOURCE, [Run({0: 2})])
    assert (counts(first), first.watermark) == ({60: 1}, T0 + 65 * SECOND)
    both = snapshots_of_runs(COUNT, messages, SOURCE, [Run({0: 2}), Run({0: 4})])
    assert (counts(both), both.watermark) == ({60: 2, 120: 1}, T0 + 125 * SECOND)


def test_the_watermark_stands_when_a_partition_wakes_up_that_was_empty() -> None:
    # partition 0: 10 . . 250 | .   watermark 245, allowed lateness back to 185
    # partition 1:            | 20 70 190   newest 190: alone it would hold the watermark at 185
    #   20 and 70: their windows can't be corrected any more; 190: [180, 240) was passed, still corrected
    messages = log(10, 250) + log(20, 70, 190, partition=1)
    runs = [Run({0: 2}), Run({0: 2, 1: 3})]
    result = snapshots_of_runs(COUNT, messages, SOURCE, runs)
    assert (counts(result), result.watermark) == ({60: 1, 240: 1}, T0 + 245 * SECOND)
    at_once = snapshots_of_runs(COUNT, messages, SOURCE, runs[1:])
    assert (counts(at_once), at_once.watermark) == ({60: 2, 120: 1}, T0 + 185 * SECOND)


def test_closed_windows_are_corrected_by_a_later_run() -> None:
    # run 1: 10, closed: [0, 60) although the watermark is 5       run 2: 20 is in it
    result = snapshots_of_runs(COUNT, log(10, 20), SOURCE, [Run({0: 1}, close_windows=True), Run({0: 2})])
    assert (counts(result), result.undetermined) == ({60: 2}, set())


def test_a_closed_snapshot_is_corrected_by_what_was_on_time_for_it() -> None:
    # run 1: 10 and 130; it closes 60: {10} and 180: {10, 130}, the watermark is 125
    # run 2: 125 is in [120, 180), the interval of 180, and corrects it
    #        90 is in [60, 120), and its partition had not passed 180: it counts at 120 and corrects 180
    closing = Run({0: 2}, close_windows=True)
    corrected = snapshots_of_runs(SLIDING, log(10, 130, 125), SOURCE, [closing, Run({0: 3})])
    assert (counts(corrected, "sliding"), corrected.undetermined) == ({60: 1, 180: 3}, set())
    both = snapshots_of_runs(SLIDING, log(10, 130, 90), SOURCE, [closing, Run({0: 3})])
    assert counts(both, "sliding") == {60: 1, 120: 2, 180: 3}


def test_a_new_window_below_the_end_of_the_closed_ones_is_undetermined() -> None:
    # run 1: a at 10 and 130, closed up to 180; run 2: b at 150 in [120, 180), the watermark stays below 180
    messages = [*log(10, 130), Message(0, 2, {"ts": T0 + 150 * SECOND, "k": "b"}, T0 + DAY)]
    runs = [Run({0: 2}, close_windows=True), Run({0: 3})]
    result = snapshots_of_runs(COUNT, messages, SOURCE, runs)
    assert counts(result) == {60: 1, 180: 1}
    assert result.undetermined == {("tumbling_1m", ("b",), T0 + 180 * SECOND)}


@given(data=st.data(), stream=streams(partitions=1))
def test_runs_over_one_partition_end_where_one_run_ends(data: st.DataObject, stream: Stream) -> None:
    messages = in_sequence(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(messages)), max_size=4)))
    closing = data.draw(st.booleans())
    runs = [*(Run({0: cut}) for cut in cuts), Run({0: len(messages)}, closing)]
    result = snapshots_of_runs(CARDS, messages, PARAMS, runs)
    assert result.rows == snapshots(CARDS, messages, judge(messages, PARAMS), PARAMS, close_windows=closing)
    assert result.undetermined == set()


# --- values on the wire -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'{"ts": 3, "x": 1}', {"ts": 3_000, "x": 1.0, "y": 7}),
        (b'{"ts": 3, "x": null, "y": 8, "more": [NOT', "malformed"),
        (b'{"ts": 3, "x": null, "y": 8, "more": {}}', {"ts": 3_000, "x": None, "y": 8}),
        (b'{"ts": 3, "y": true}', "wrong_type"),
        (b'{"ts": 3, "y": 3.0}', "wrong_type"),
        (b'{"ts": 3, "y": null, "x": "a"}', "null_field"),
        (b'{"x": "a", "ts": null}', "wrong_type"),
        (b'{"x": 1e400, "ts": 3}', "out_of_range"),
        (b'{"x": 1}', "missing_field"),
        (None, "tombstone"),
    ],
)
def test_a_json_value_is_an_event_or_has_a_reason(value: bytes | None, expected: Any) -> None:
    columns = {
        "ts": Column("Datetime", unit="ms"),
        "x": Column("Float64", nullable=True),
        "y": Column("Int64", default=7),
    }
    event, reason = read_json(value, columns, "ts")
    assert (reason if event is None else event) == expected


def test_bad_values_have_the_reasons_that_are_said_of_them() -> None:
    assert [read_json(value, WIRE_COLUMNS, EVENT_TIME)[1] for value, _ in BAD_VALUES] == [r for _, r in BAD_VALUES]


@given(stream=streams())
def test_a_stream_comes_over_the_wire_as_it_was(stream: Stream) -> None:
    sent, read = in_sequence(stream), in_sequence(through_json(stream))
    for before, after in zip(sent, read, strict=True):
        if before.event is None or before.event["ts"] is None:
            assert (after.event, after.reason is None) == (None, False)
        else:
            assert (after.event, after.reason) == (before.event, None)
    verdicts = [judge(messages, PARAMS) for messages in (sent, read)]
    assert [v.kind for v in verdicts[0]] == [v.kind for v in verdicts[1]]
    assert sum(dead_letters(verdicts[1]).values()) == [v.kind for v in verdicts[1]].count("dead")
