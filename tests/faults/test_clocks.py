"""The clock of the worker's machine jumps back and forward, by hours and days: nothing of a result changes."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from featurestore.durations import parse_instant_us
from featurestore.offline.read import archive_counts
from featurestore.sources.clock import SteadyClock
from tests.faults.shims import JumpingClock, compiler
from tests.faults.support import MODULE, Load, committed_log, wait_for
from tests.faults.test_kills import kill_all
from tests.integration.project import Project, assert_same_stores, log_events, read_stores
from tests.integration.test_kill import committed_events
from tests.kafka_broker import KafkaBroker

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.timeout(300),
    pytest.mark.skipif(compiler() is None, reason="there is no C compiler for the clock that jumps"),
]
PARTITIONS = 3
HOUR_S = 3_600
JUMPS_S = (-30 * HOUR_S, 50 * HOUR_S, -240 * HOUR_S, -240 * HOUR_S + 90, 2 * HOUR_S, 0)
SETTLED_S = 30.0
"""Far more than a commit takes, and far less than any jump."""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_clock_that_jumps_changes_nothing_and_stops_nothing(
    kafka_broker: KafkaBroker, tmp_path: Path, processes: int
) -> None:
    servers = kafka_broker.bootstrap_servers
    topic = kafka_broker.create_topic(f"clocks-{os.urandom(4).hex()}", PARTITIONS)
    clock = JumpingClock(tmp_path)
    project = Project.create(tmp_path / "jumping", servers, topic)
    project.variables = clock.variables
    run = ("--log-level", "debug", "run", MODULE, "--apply", "--processes", str(processes))
    log = tmp_path / "run.log"
    load = Load(servers, topic, PARTITIONS, seed=20, live=True)
    load.start()
    worker = project.start(*run, log=log)
    try:
        wait_for(lambda: committed_events(log, 0) > 500, 60, log)
        for number, jump_s in enumerate(JUMPS_S):
            clock.jump(jump_s)
            before = committed_events(log, 0)
            wait_for(lambda before=before: committed_events(log, 0) > before + 1_000, SETTLED_S, log)
            if number == 1:
                # It starts with a clock that is ahead, and is put right under it.
                kill_all(worker)
                worker = project.start(*run, log=log)
                before = committed_events(log, 0)
                wait_for(lambda before=before: committed_events(log, 0) > before, 60, log)
        load.stop()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, log.read_text()[-3000:]
    finally:
        load.stop()
        kill_all(worker)
    told = [parse_instant_us(str(entry["timestamp"])) for entry in log_events(log, "commit")]
    assert max(told) - min(told) > 200 * HOUR_S * 1_000_000, "the worker's clock has jumped"
    project.run_until_end()
    other = Project.create(tmp_path / "undisturbed", servers, topic)
    other.run_until_end()
    assert_same_stores(read_stores(project), read_stores(other))
    counts = archive_counts(project.data_dir / "offline", "transactions")
    assert counts.read == len(committed_log(servers, topic, PARTITIONS))
    assert "event_time_in_future" not in counts.dead_letters


def test_set_back_while_nothing_comes_what_came_last_is_committed_and_a_signal_is_heard(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    servers = kafka_broker.bootstrap_servers
    topic = kafka_broker.create_topic(f"clocks-{os.urandom(4).hex()}", PARTITIONS)
    clock = JumpingClock(tmp_path)
    project = Project.create(tmp_path / "jumping", servers, topic)
    project.variables = clock.variables
    config = project.folder / "featurestore.toml"
    text, changed = re.subn(r'commit_interval = "\w+"', 'commit_interval = "5s"', config.read_text())
    assert changed == 1
    config.write_text(text)
    log = tmp_path / "run.log"
    load = Load(servers, topic, PARTITIONS, seed=21)
    load.start()
    worker = project.start("--log-level", "debug", "run", MODULE, "--apply", log=log)
    try:
        wait_for(lambda: committed_events(log, 0) > 500, 60, log)
        load.stop()
        # All is read now; the commits of most shards are still to come, and nothing else comes that would wake them.
        time.sleep(1.0)
        clock.jump(-100 * HOUR_S)
        accepted = len(committed_log(servers, topic, PARTITIONS)) * 0.99
        wait_for(lambda: committed_events(log, 0) > accepted, SETTLED_S, log)
        # It hears a signal, too, although it waits for messages that don't come.
        clock.jump(-200 * HOUR_S)
        time.sleep(1.0)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(SETTLED_S) == 0, log.read_text()[-3000:]
    finally:
        load.stop()
        kill_all(worker)


def test_the_clock_that_tells_the_future_follows_forward_and_is_never_set_back() -> None:
    wall, monotonic = [1_000_000], [50]
    clock = SteadyClock(wall=lambda: wall[0], monotonic=lambda: monotonic[0])
    assert clock() == 1_000_000
    monotonic[0] += 10
    wall[0] += 10
    assert clock() == 1_000_010
    wall[0] -= 500_000  # set back
    monotonic[0] += 7
    assert clock() == 1_000_017
    wall[0] = 3_000_000  # put right
    assert clock() == 3_000_000
    wall[0] = 1_000_000  # a jump that was none
    assert clock() == 1_000_017
    # A process that starts while the clock is set back, in a run that has known better.
    assert SteadyClock(1_000_017, wall=lambda: wall[0] - 400, monotonic=lambda: monotonic[0])() == 1_000_017
