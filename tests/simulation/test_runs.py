"""Several bounded runs, one after the other, on a log that grew between them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import Run
from tests.simulation.check import check, whole_state
from tests.simulation.log import Topic, at_random
from tests.simulation.simulator import Habits, Simulation
from tests.simulation.views import VERY_LATE, small_views
from tests.strategies import PARAMS, random_stream, streams


@settings(max_examples=25)
@given(data=st.data(), params=st.sampled_from([PARAMS, VERY_LATE]), seed=st.integers(0, 2**32))
def test_runs_until_growing_ends_leave_what_the_oracle_says(data, params, seed):
    topic = Topic.of("payments", data.draw(streams(params, gaps=True)))
    middle = {partition: data.draw(st.integers(0, end)) for partition, end in topic.end.items()}
    closed = data.draw(st.booleans()), data.draw(st.booleans())
    cases = small_views(params)
    views = [case.bound for case in cases]
    habits = Habits(at_random(seed, 8), processes=(1, 2))
    with tempfile.TemporaryDirectory() as root:
        simulation = Simulation(Path(root), params, 2, seed)
        simulation.run(views, topic.up_to(middle), habits, close_windows=closed[0])
        first = [Run(middle, closed[0])]
        check(simulation, cases, topic.up_to(middle), params, runs=first)
        simulation.run(views, topic, habits, close_windows=closed[1])
        check(simulation, cases, topic, params, runs=[*first, Run(topic.end, closed[1])])


@pytest.mark.parametrize("seed", range(6))
def test_two_runs_leave_what_one_run_leaves(seed, tmp_path):
    topic = Topic.of("payments", random_stream(seed, 150, params=VERY_LATE, keys=6, trouble=0.25))
    cases = small_views(VERY_LATE)
    views = [case.bound for case in cases]
    middle = {partition: end * (seed + 2) // 9 for partition, end in topic.end.items()}
    twice = Simulation(tmp_path / "twice", VERY_LATE, 2, seed)
    twice.run(views, topic.up_to(middle), Habits(at_random(seed, 8))).run(views, topic, Habits(at_random(seed, 40)))
    once = Simulation(tmp_path / "once", VERY_LATE, 4, seed).run(views, topic, Habits(at_random(seed, 20)))
    check(twice, cases, topic, VERY_LATE)
    assert whole_state(twice, cases) == whole_state(once, cases)


@pytest.mark.parametrize("seed", range(6))
def test_a_view_that_comes_later_catches_up_while_the_others_skip(seed, tmp_path):
    topic = Topic.of("payments", random_stream(seed, 150, params=VERY_LATE, keys=6, trouble=0.25))
    cases = small_views(VERY_LATE)
    middle = {partition: end // 2 for partition, end in topic.end.items()}
    simulation = Simulation(tmp_path, VERY_LATE, 2, seed)
    simulation.run([cases[0].bound], topic.up_to(middle), Habits(at_random(seed, 8)))
    simulation.run([case.bound for case in cases], topic, Habits(at_random(seed, 8), processes=(1, 2)))
    check(simulation, cases, topic, VERY_LATE)


def test_a_view_left_out_of_a_run_goes_on_where_it_stopped(tmp_path):
    topic = Topic.of("payments", random_stream(3, 150, params=VERY_LATE, keys=6, trouble=0.25))
    cases = small_views(VERY_LATE)
    views = [case.bound for case in cases]
    ends = [{p: end * third // 3 for p, end in topic.end.items()} for third in (1, 2, 3)]
    simulation = Simulation(tmp_path, VERY_LATE, 2, 3)
    for running, end in zip((views, views[:1], views), ends, strict=True):
        simulation.run(running, topic.up_to(end), Habits(at_random(3, 8)))
    check(simulation, cases, topic, VERY_LATE)
