"""Histories of which everything is drawn from a seed, mostly short ones: many find more than long ones.

Drawn are the log (late, future and broken messages, ids that come again, gaps of offsets, an empty partition), how it
is read (portions, processes, shards, drains, ends of runs), and where it dies.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from pathlib import Path

from featurestore.testing.crash import CrashSchedule
from tests.oracle import Run
from tests.oracle.model import MINUTE
from tests.simulation.check import check
from tests.simulation.log import Topic, at_random
from tests.simulation.simulator import Habits, Simulation
from tests.simulation.test_duplicates import deduped, sent_twice
from tests.simulation.views import VERY_LATE, small_views
from tests.strategies import BASE_US, PARAMS, Stream, random_stream

EVENTS = (4, 6, 6, 9, 9, 12, 12, 24, 48)


def drawn_history(seed: int, root: Path) -> Simulation:
    """Live one history in a folder and hold what it leaves against the oracle; raises AssertionError."""
    chance = random.Random(seed)
    params = chance.choice([PARAMS, VERY_LATE])
    events, partitions = chance.choice(EVENTS), chance.randint(1, 3)
    empty = (partitions,) if chance.random() < 0.2 else ()
    stream = random_stream(
        seed,
        events,
        partitions + len(empty),
        params=params,
        keys=chance.choice([2, 6]),
        trouble=chance.choice([0.0, 0.25, 0.5]),
        step_us=chance.choice([2_000_000, 60_000_000]),
        empty_partitions=empty,
    )
    if chance.random() < 0.3:
        params = deduped(params, "quantity", chance.choice([0, MINUTE, 60 * MINUTE]))
        stream = sent_twice(stream, seed)
    if chance.random() < 0.3:
        stream = with_gaps(stream, chance)
    broker_time = chance.random() < 0.8
    topic = Topic.of("payments", stream, broker_time=broker_time)
    cases = small_views(params)
    if chance.random() < 0.5:
        cases = [chance.choice(cases)]
    simulation = Simulation(
        root,
        params,
        chance.randint(1, 3),
        seed,
        crash=CrashSchedule(seed, mean_points=chance.choice([5, 20, 60]), deaths=chance.randint(0, 5)),
    )
    habits = Habits(
        at_random(seed, chance.choice([1, 3, 8, 30])),
        processes=chance.choice([(1,), (2,), (1, 2, 3)]),
        commit_share=chance.choice([0.1, 0.3, 1.0]),
        write_share=chance.choice([0.05, 0.2, 1.0]),
        drain_share=chance.choice([0.0, 0.2]),
        segment_events=chance.choice([4, 16, 64]),
        # A clock that has a say jumps to and fro.
        wall_us=(0,) if broker_time else [BASE_US + minutes * MINUTE for minutes in range(6)],
    )
    runs: list[Run] = []
    for end in _ends(topic, chance):
        close = chance.random() < 0.5
        simulation.run([case.bound for case in cases], topic.up_to(end), habits, close_windows=close)
        runs.append(Run(end, close))
    several = runs if len(runs) > 1 else []
    check(simulation, cases, topic, params, close_windows=runs[-1].close_windows, runs=several)
    return simulation


def with_gaps(stream: Stream, chance: random.Random) -> Stream:
    """The stream as compaction and markers of transactions leave it: offsets between messages are gone."""
    gapped: Stream = []
    for partition in stream:
        offset, line = -1, []
        for message in partition:
            offset += chance.choice([1, 1, 1, 2, 9])
            line.append(dataclasses.replace(message, offset=offset))
        gapped.append(line)
    return gapped


def _ends(topic: Topic, chance: random.Random) -> list[Mapping[int, int]]:
    """Where the runs end; the last one at the topic's end."""
    ends: list[Mapping[int, int]] = [topic.end]
    while chance.random() < 0.3:
        ends.insert(0, {partition: chance.randint(0, end) for partition, end in ends[0].items()})
    return ends
