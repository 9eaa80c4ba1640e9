"""Events with an id that comes again, in any stream, through any death: counted once, and the counters say so."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.testing.crash import CrashSchedule
from tests import oracle
from tests.oracle import SourceParams
from tests.oracle.model import MINUTE, SECOND
from tests.simulation.check import check
from tests.simulation.log import Topic, as_cut, at_random, whole
from tests.simulation.simulator import Habits, Simulation
from tests.simulation.views import VERY_LATE, small_views
from tests.strategies import PARAMS, Stream, cuts, random_stream, streams

HISTORIES = int(os.environ.get("FEATURESTORE_TEST_HISTORIES", "200")) // 4
BLOCKS = 5


def deduped(params: SourceParams, by: str, beyond_us: int) -> SourceParams:
    """quantity is seldom the same with the same event time: what is hard about a horizon."""
    return dataclasses.replace(params, dedupe_by=by, dedupe_us=params.ooo_us + params.lateness_us + beyond_us)


def sent_twice(stream: Stream, seed: int) -> Stream:
    """The stream of a producer that repeats stretches of what it sent: same events, later offsets and arrivals."""
    repeated: Stream = []
    for partition in stream:
        line = list(partition)
        for n in range(seed % 3, len(partition), 17):
            again = partition[max(0, n - 5) : n]
            line[len(line) - (len(partition) - n) : len(line) - (len(partition) - n)] = again
        offset = 0
        renumbered = []
        arrival_us = 0
        for message in line:
            arrival_us = max(arrival_us, message.arrival_us)
            renumbered.append(dataclasses.replace(message, offset=offset, arrival_us=arrival_us))
            offset += 1 + (message.offset % 4 == 3)
        repeated.append(renumbered)
    return repeated


def assert_some_were_found(topic: Topic, params: SourceParams) -> None:
    for partition in topic.stream:
        kinds = [verdict.kind for verdict in oracle.judge(partition, params)]
        assert not partition or "duplicate" in kinds


@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 2**32), beyond=st.sampled_from([0, SECOND, 10 * MINUTE]))
def test_stores_agree_with_the_oracle_however_the_stream_is_cut(data, seed, beyond):
    params = deduped(data.draw(st.sampled_from([PARAMS, VERY_LATE])), "quantity", beyond)
    stream = data.draw(streams(params, gaps=True))
    cases = small_views(params)
    topic = Topic.of("payments", stream)
    with tempfile.TemporaryDirectory() as root:
        simulation = Simulation(Path(root), params, 2, seed)
        simulation.run([case.bound for case in cases], topic, Habits(as_cut(data.draw(cuts(stream)))))
        check(simulation, cases, topic, params)


@pytest.mark.parametrize("count", [1, 7, 1_000])
def test_batches_of_any_size_give_the_same_stores(count, tmp_path):
    params = deduped(PARAMS, "quantity", 0)
    topic = Topic.of("payments", sent_twice(random_stream(1, 300, params=params), 1))
    assert_some_were_found(topic, params)
    cases = small_views(params)
    simulation = Simulation(tmp_path, params, 2, 5)
    habits = Habits(whole(count), commit_share=0.05 if count == 1 else 1.0, write_share=0.05)
    simulation.run([case.bound for case in cases], topic, habits)
    check(simulation, cases, topic, params)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_death_between_any_two_writes_finds_the_same_duplicates_again(block, tmp_path):
    died = 0
    size = HISTORIES // BLOCKS
    for seed in range(block * size, (block + 1) * size):
        params = deduped(VERY_LATE if seed % 2 else PARAMS, "quantity", (0, MINUTE, 60 * MINUTE)[seed % 3])
        stream = sent_twice(random_stream(seed, 100, 1 + seed % 3, params=params, keys=6, trouble=0.25), seed)
        topic = Topic.of("payments", stream)
        assert_some_were_found(topic, params)
        cases = small_views(params)
        crash = CrashSchedule(seed, mean_points=60, deaths=5)
        simulation = Simulation(tmp_path / str(seed), params, 1 + seed % 3, seed, crash=crash)
        habits = Habits(at_random(seed, 8), processes=(1, 2), drain_share=0.1, segment_events=16 + seed % 32)
        simulation.run([case.bound for case in cases], topic, habits)
        check(simulation, cases, topic, params)
        died += len(simulation.crashes)
    assert died > size // 2, "histories with crashes"


@pytest.mark.parametrize("seed", range(4))
def test_a_view_that_comes_later_reads_the_log_again_and_finds_them_too(seed, tmp_path):
    params = deduped(VERY_LATE, "quantity", MINUTE)
    topic = Topic.of("payments", sent_twice(random_stream(seed, 150, params=params, keys=6, trouble=0.25), seed))
    cases = small_views(params)
    middle = {partition: end // 2 for partition, end in topic.end.items()}
    simulation = Simulation(tmp_path, params, 2, seed)
    simulation.run([cases[0].bound], topic.up_to(middle), Habits(at_random(seed, 8)))
    simulation.run([case.bound for case in cases], topic, Habits(at_random(seed, 8), processes=(1, 2)))
    check(simulation, cases, topic, params)
