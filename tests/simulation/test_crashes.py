"""Death between any two writes: the stores hold what an undisturbed run holds."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from featurestore.testing.crash import CrashSchedule
from tests.oracle.model import MINUTE
from tests.simulation.check import check
from tests.simulation.log import Topic, at_random
from tests.simulation.simulator import Habits, Simulation
from tests.simulation.views import VERY_LATE, small_views
from tests.strategies import BASE_US, PARAMS, random_stream

BLOCKS = 10
BLOCK = int(os.environ.get("FEATURESTORE_TEST_HISTORIES", "200")) // 2 // BLOCKS


def disturbed(seed: int, root: Path, *, rocks: bool = False) -> Simulation:
    """One history of up to five deaths, drains and changes of the number of processes, held against the oracle."""
    params = VERY_LATE if seed % 2 else PARAMS
    close = seed % 4 < 2
    empty = (1,) if seed % 5 == 0 else ()
    partitions = 1 + seed % 3 + len(empty)
    stream = random_stream(seed, 120, partitions, params=params, keys=6, trouble=0.25, empty_partitions=empty)
    topic = Topic.of("payments", stream)
    cases = small_views(params)
    crash = CrashSchedule(seed, mean_points=60, deaths=5)
    simulation = Simulation(root, params, 1 + seed % 3, seed, crash=crash, rocks=rocks)
    habits = Habits(at_random(seed, 8), processes=(1, 2), drain_share=0.1, segment_events=16 + seed % 32)
    simulation.run([case.bound for case in cases], topic, habits, close_windows=close)
    check(simulation, cases, topic, params, close_windows=close)
    return simulation


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_crash_between_any_two_writes_changes_nothing(block, tmp_path):
    died: Counter[str] = Counter()
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        died.update(disturbed(seed, tmp_path / str(seed)).crashes)
    assert died.total() > BLOCK // 2, "histories with crashes"
    assert len(died) > BLOCK // 3, f"crashes at many kinds of writes: {died}"


def test_a_crash_between_any_two_writes_changes_nothing_in_rocksdb(tmp_path):
    for seed in range(1_000, 1_005):
        disturbed(seed, tmp_path / str(seed), rocks=True)


@pytest.mark.parametrize("seed", range(8))
def test_what_the_clock_said_of_the_future_is_kept_through_crashes(seed, tmp_path):
    # The producer sets the timestamps, so the wall clock at reading judges; it jumps to and fro.
    stream = random_stream(seed, 150, 2, params=PARAMS, keys=6)
    topic = Topic.of("payments", stream, broker_time=False)
    cases = small_views(PARAMS)
    clock = [BASE_US + minutes * MINUTE for minutes in range(6)]
    simulation = Simulation(tmp_path, PARAMS, 2, seed, crash=CrashSchedule(seed, mean_points=60, deaths=5))
    habits = Habits(at_random(seed, 8), processes=(1, 2), wall_us=clock)
    simulation.run([case.bound for case in cases], topic, habits)
    check(simulation, cases, topic, PARAMS)
