"""Any stream, any cut, any number of shards and processes: the stores are those of the oracle."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.check import check
from tests.simulation.log import Topic, as_cut, at_random, whole
from tests.simulation.simulator import Habits, Simulation
from tests.simulation.views import VERY_LATE, all_views
from tests.strategies import PARAMS, cuts, random_stream, streams

BOTH = st.sampled_from([PARAMS, VERY_LATE])


def run_and_check(root, params, stream, habits, *, shards, seed, close, rocks=False):
    cases = all_views(params)
    topic = Topic.of("payments", stream)
    simulation = Simulation(root, params, shards, seed, rocks=rocks)
    simulation.run([case.bound for case in cases], topic, habits, close_windows=close)
    check(simulation, cases, topic, params, close_windows=close)
    return simulation


@settings(max_examples=25)
@given(data=st.data(), params=BOTH, shards=st.sampled_from([1, 2, 4]), seed=st.integers(0, 2**32), close=st.booleans())
def test_stores_agree_with_the_oracle_however_the_stream_is_cut(data, params, shards, seed, close):
    stream = data.draw(streams(params, gaps=data.draw(st.booleans())))
    habits = Habits(as_cut(data.draw(cuts(stream))), commit_share=data.draw(st.sampled_from([0.1, 0.5, 1.0])))
    with tempfile.TemporaryDirectory() as root:
        run_and_check(Path(root), params, stream, habits, shards=shards, seed=seed, close=close)


@settings(max_examples=5)
@given(data=st.data(), seed=st.integers(0, 2**32), close=st.booleans())
def test_the_same_holds_for_the_shards_in_rocksdb(data, seed, close):
    stream = data.draw(streams(VERY_LATE, gaps=True))
    habits = Habits(at_random(seed, 10), processes=(1, 2))
    with tempfile.TemporaryDirectory() as root:
        run_and_check(Path(root), VERY_LATE, stream, habits, shards=2, seed=seed, close=close, rocks=True)


@pytest.mark.parametrize("count", [1, 7, 1_000, 50_000])
def test_batches_of_any_size_give_the_same_stores(count, tmp_path):
    stream = random_stream(1, 300, params=VERY_LATE)
    habits = Habits(whole(count), commit_share=0.05 if count == 1 else 1.0, write_share=0.05)
    run_and_check(tmp_path, VERY_LATE, stream, habits, shards=2, seed=5, close=False)
