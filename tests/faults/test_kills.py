"""A hundred times kill -9 over two million events; other numbers of processes and of partitions from run to run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from featurestore.offline.read import archive_counts
from tests.faults.processes import family
from tests.faults.support import LONG, MODULE, Load, committed_log, wait_for
from tests.integration.project import Project, assert_same_stores, log_events, read_stores
from tests.integration.test_kill import committed_events
from tests.kafka_broker import KafkaBroker

pytestmark = [pytest.mark.kafka]
KILLS, EVENTS = 100, 2_000_000
EVENTS_PER_S = 8_000
PARTITIONS = 4


def kill_all(worker: subprocess.Popen[bytes]) -> None:
    """kill -9 of a worker and of all its processes."""
    for pid in family(worker.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    worker.wait()


def kill_a_member(log: Path, chance: random.Random) -> None:
    """kill -9 of one process of a cluster; its supervisor starts all of them again."""
    clusters = log_events(log, "cluster_started")
    pids = clusters[-1]["pids"]
    assert isinstance(pids, list)
    os.kill(chance.choice(pids), signal.SIGKILL)
    wait_for(lambda: len(log_events(log, "cluster_started")) > len(clusters), 60, log)


def assert_nothing_lost_or_twice(project: Project, folder: Path, servers: str, topic: str, partitions: int) -> int:
    """Both stores, brought to the topic's end, against an undisturbed run; how many messages the topic has."""
    for one in (project, other := Project.create(folder, servers, topic)):
        one.run_until_end(timeout=900)
    assert_same_stores(read_stores(project), read_stores(other))
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "plain"})
    places = [TopicPartition(topic, partition) for partition in range(partitions)]
    ends = [consumer.get_watermark_offsets(place, timeout=30) for place in places]
    consumer.close()
    messages = sum(end - first for first, end in ends)
    counts = archive_counts(project.data_dir / "offline", "transactions")
    assert counts.read == messages
    return messages


@pytest.mark.slow
@pytest.mark.timeout(3_000)
@pytest.mark.skipif(not LONG, reason="ten minutes of both cores: FEATURESTORE_TEST_FAULTS=long")
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_a_hundred_times_over_two_million_events(
    kafka_broker: KafkaBroker, tmp_path: Path, processes: int
) -> None:
    servers = kafka_broker.bootstrap_servers
    topic = kafka_broker.create_topic(f"kills-{os.urandom(4).hex()}", PARTITIONS)
    project = Project.create(tmp_path / "killed", servers, topic)
    chance = random.Random(processes)
    load = Load(servers, topic, PARTITIONS, seed=17, events_per_s=EVENTS_PER_S)
    load.start()
    worker: subprocess.Popen[bytes] | None = None
    log = tmp_path / "none.log"
    several = ("--processes", str(processes)) if processes > 1 else ()
    kills = 0
    try:
        while kills < KILLS or load.sent < EVENTS:
            if worker is None or worker.poll() is not None:
                log = tmp_path / f"run-{kills}.log"
                worker = project.start("--log-level", "debug", "run", MODULE, "--apply", *several, log=log)
            before = committed_events(log, 0)
            wanted = before + chance.choice([1, chance.randrange(1, 2_000), chance.randrange(1, 20_000)])
            wait_for(lambda log=log, wanted=wanted: committed_events(log, 0) >= wanted, 120, log)
            time.sleep(chance.random() * 0.3)
            if processes > 1 and kills % 2:
                kill_a_member(log, chance)
            else:
                kill_all(worker)
            kills += 1
    finally:
        load.stop()
        if worker is not None:
            kill_all(worker)
    messages = assert_nothing_lost_or_twice(project, tmp_path / "undisturbed", servers, topic, PARTITIONS)
    assert messages == load.sent >= EVENTS


@pytest.mark.timeout(240)
def test_processes_and_partitions_change_from_run_to_run(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    servers = kafka_broker.bootstrap_servers
    topic = kafka_broker.create_topic(f"grown-{os.urandom(4).hex()}", 1)
    project = Project.create(tmp_path / "changed", servers, topic)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    project.variables = {"TMPDIR": str(temporary)}
    config = project.folder / "featurestore.toml"
    config.write_text(config.read_text() + '[kafka.settings]\n"topic.metadata.refresh.interval.ms" = "500"\n')
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    load = Load(servers, topic, 1, seed=18)
    load.start()
    try:
        for number, processes in enumerate((1, 2, 4, 1), start=1):
            log = tmp_path / f"run-{number}.log"
            worker = project.start(
                *("--log-level", "debug", "run", MODULE, "--apply", "--processes", str(processes)), log=log
            )
            try:
                wait_for(lambda log=log: committed_events(log, 0) > 300, 60, log)
                admin.create_partitions([NewPartitions(topic, number + 1)])[topic].result(30)
                wait_for(lambda log=log: log_events(log, "partitions_added"), 30, log)
                # The sender refuses messages to a partition that it has not heard of.
                time.sleep(1.0)
                load.partitions = number + 1
                before = committed_events(log, 0)
                wait_for(lambda log=log, before=before: committed_events(log, 0) > before + 1_000, 60, log)
                if processes == 4:
                    kill_all(worker)
                else:
                    worker.send_signal(signal.SIGTERM)
                    assert worker.wait(30) == 0, log.read_text()[-3000:]
            finally:
                if worker.poll() is None:
                    kill_all(worker)
    finally:
        load.stop()
    assert list(temporary.iterdir()) == [], "what the killed run had there was removed by the next one"
    project.variables = {}
    messages = assert_nothing_lost_or_twice(project, tmp_path / "undisturbed", servers, topic, 5)
    assert messages == load.sent == len(committed_log(servers, topic, 5))
