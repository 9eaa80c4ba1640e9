"""Partitions that change their leader under load, in a cluster of three real brokers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import ElectionType, TopicPartition
from confluent_kafka.admin import AdminClient

from featurestore.offline.read import archive_counts
from tests.faults.support import MODULE, Load, committed_log, shorter_or, wait_for
from tests.integration.project import Project, assert_same_stores, log_events, read_stores
from tests.integration.test_kill import committed_events
from tests.kafka_broker import KafkaBroker, free_ports

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.timeout(1_200),
]
PARTITIONS = 6
LEADERS_KILLED = int(shorter_or(6, 1))


@pytest.fixture
def cluster(kafka_broker: KafkaBroker, tmp_path: Path) -> Iterator[list[KafkaBroker]]:
    """Three brokers, each a controller, too; `kafka_broker` only says whether there can be any."""
    ports = dict(enumerate(free_ports(3), start=1))
    with ExitStack() as stack:
        brokers = []
        for node in ports:
            broker = KafkaBroker(tmp_path / f"broker-{node}", heap="200m", node=node, controller_ports=ports)
            stack.callback(broker.remove)
            broker.launch()
            brokers.append(broker)
        yield [broker.wait_until_it_answers() for broker in brokers]


def leaders(admin: AdminClient, topic: str) -> dict[int, int]:
    found = admin.list_topics(topic, timeout=10).topics[topic].partitions
    return {number: partition.leader for number, partition in found.items()}


def eventually(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_partitions_change_their_leader_and_nothing_is_lost_or_counted_twice(
    cluster: list[KafkaBroker], tmp_path: Path
) -> None:
    servers = ",".join(broker.bootstrap_servers for broker in cluster)
    topic = cluster[0].create_topic(f"leaders-{os.urandom(4).hex()}", PARTITIONS)
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    assert len(set(leaders(admin, topic).values())) == 3
    project = Project.create(tmp_path / "project", servers, topic)
    log = tmp_path / "run.log"
    load = Load(servers, topic, PARTITIONS, seed=12)
    load.start()
    worker = project.start("--log-level", "debug", "run", MODULE, "--apply", "--processes", "2", log=log)
    try:
        for number in range(LEADERS_KILLED):
            before = len(log_events(log, "commit"))
            wait_for(lambda before=before: committed_events(log, before) > 500, 60, log)
            broker = cluster[number % 3]
            broker.kill()
            eventually(lambda node=broker.node: node not in leaders(admin, topic).values(), 30)
            before = len(log_events(log, "commit"))
            wait_for(lambda before=before: committed_events(log, before) > 500, 60, log)
            broker.start()

            def leads_again(node: int = broker.node) -> bool:
                everywhere = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
                admin.elect_leaders(ElectionType.PREFERRED, everywhere).result(20)
                return node in leaders(admin, topic).values()

            eventually(leads_again, 60)
        before = len(log_events(log, "commit"))
        wait_for(lambda: committed_events(log, before) > 500, 60, log)
        assert len(log_events(log, "worker_started")) == 2, "the worker goes on, it does not start again"
    finally:
        load.stop()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, log.read_text()[-3000:]
    project.run_until_end()
    other = Project.create(tmp_path / "undisturbed", servers, topic)
    other.run_until_end()
    assert_same_stores(read_stores(project), read_stores(other))
    counts = archive_counts(project.data_dir / "offline", "transactions")
    assert counts.read == len(committed_log(servers, topic, PARTITIONS))
