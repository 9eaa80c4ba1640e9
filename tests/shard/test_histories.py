"""Shards against the oracle: any stream, any cut, any number of shards, crashes between any two writes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.testing.crash import CrashSchedule
from tests.oracle import SourceParams
from tests.shard.history import Case, History, case
from tests.strategies import PARAMS, random_stream, streams

HOUR = 3_600_000_000

# Late by up to several snapshot intervals: such an event is left out of the snapshots that it came too late for.
VERY_LATE = SourceParams("ts", ooo_us=5_000_000, lateness_us=HOUR // 6, max_future_us=HOUR // 60)

# So late that no event comes beyond retention, however long its partition was silent.
EVER_LATE = SourceParams("ts", ooo_us=5_000_000, lateness_us=48 * HOUR, max_future_us=HOUR // 60)


def cases(params: SourceParams) -> list[Case]:
    every = ["count", "sum", "mean", "min", "max", "var", "stddev"]
    return [
        case(
            1,
            ("card_id",),
            [
                *((name, None if name == "count" else "amount", "10m") for name in every),
                *((name, "quantity", "1h") for name in every),
                *((name, None if name == "count" else "amount", "tumbling") for name in every),
                ("count", None, "ever"),
                ("sum", "doubled", "ever"),
                ("first", "merchant_id", "ever"),
                ("last", "merchant_id", "1h"),
                ("last", "amount", "ever"),
                ("first", "online", "10m"),
                ("sum", "online", "1h"),
            ],
            params,
            ttl_us=2 * HOUR,
        ),
        case(
            2,
            ("merchant_id",),
            [("count", None, "hopping"), ("sum", "amount", "hopping"), ("max", "quantity", "shifted")],
            params,
        ),
        case(
            3, ("card_id", "merchant_id"), [("count", None, "ever"), ("mean", "doubled", "10m")], params, filtered=False
        ),
    ]


@settings(max_examples=60)
@given(data=st.data(), shards=st.sampled_from([1, 2, 4]), seed=st.integers(0, 2**32), close=st.booleans())
def test_stores_agree_with_the_oracle_however_the_stream_is_cut(data, shards, seed, close):
    params = data.draw(st.sampled_from([PARAMS, VERY_LATE]))
    stream = data.draw(streams(params))
    History(cases(params), stream, params, shards, seed).run(close_windows=close).check(close_windows=close)


@pytest.mark.parametrize("most", [1, 7, 1_000, 50_000])
def test_batches_of_any_size_give_the_same_stores(most):
    stream = random_stream(1, 600, params=VERY_LATE)
    History(cases(VERY_LATE), stream, VERY_LATE, 2, 5, most=most).run().check()


@pytest.mark.parametrize("block", range(10))
def test_a_crash_between_any_two_writes_changes_nothing(block):
    lives = 0
    for seed in range(block * 30, block * 30 + 30):
        params = VERY_LATE if seed % 2 else PARAMS
        stream = random_stream(seed, 120, params=params)
        crash = CrashSchedule(seed, mean_points=12, deaths=4)
        history = History(cases(params)[: 1 + seed % 3], stream, params, 1 + seed % 3, seed, most=20, crash=crash)
        history.run(close_windows=seed % 2 == 0).check(close_windows=seed % 2 == 0)
        lives += history.lives
    assert lives > 30, "histories with crashes"


@pytest.mark.parametrize("seed", range(30))
def test_what_comes_after_a_silence_corrects_every_window_that_it_missed(seed):
    params = EVER_LATE if seed % 2 else replace(EVER_LATE, ooo_us=HOUR // 12)
    stream = random_stream(seed, 150, params=VERY_LATE, keys=5, step_us=HOUR // 60)
    history = History(cases(params), stream, params, 1 + seed % 2, seed, most=20, silences=0.5)
    history.run(close_windows=True).check(close_windows=True)
