"""A topic that changes while it is read: more partitions; fields that come, go and change their type."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from featurestore.cli.demo_events import TransactionStream
from featurestore.offline import read_events
from featurestore.sources.produce import MessageSender
from tests.integration.project import Project, assert_same_stores, log_events, read_stores
from tests.integration.test_road import SHAPE, wait_for


def archived(project: Project) -> int:
    if not (project.data_dir / "offline" / "events").exists():
        return 0
    return read_events(project.data_dir / "offline", "transactions").height


@pytest.mark.kafka
@pytest.mark.timeout(180)
@pytest.mark.parametrize("processes", [1, 2])
def test_added_partitions_are_picked_up_while_the_worker_runs(kafka_broker, tmp_path: Path, processes: int):
    address = kafka_broker.bootstrap_servers
    topic = f"growing-{processes}"
    kafka_broker.create_topic(topic, 2)
    # What comes in new partitions before they are noticed is late for the others, but less than the allowed lateness.
    messages = list(TransactionStream(replace(SHAPE, events=3_000, duration_s=900.0), seed=8))
    project = Project.create(tmp_path, address, topic)
    config = project.folder / "featurestore.toml"
    config.write_text(config.read_text() + '[kafka.settings]\n"topic.metadata.refresh.interval.ms" = "500"\n')

    def send(part: list[tuple[bytes | None, bytes]], partitions: int) -> None:
        sender = MessageSender(address, topic, {})  # one that knows the topic as it is now
        for number, (key, value) in enumerate(part):
            sender.send(value, key, partition=number % partitions)
        sender.flush()

    send(messages[:1_000], 2)
    log = tmp_path / "run.log"
    worker = project.start("run", "pipelines/transactions.py", "--apply", "--processes", str(processes), log=log)
    try:
        wait_for(lambda: len(log_events(log, "worker_started")) == processes, 60, log)
        admin = AdminClient({"bootstrap.servers": address})
        admin.create_partitions([NewPartitions(topic, 5)])[topic].result(10)
        # What is sent before the worker looks again waits for it.
        send(messages[1_000:2_000], 5)
        wait_for(lambda: log_events(log, "partitions_added"), 30, log)
        wait_for(lambda: len(log_events(log, "worker_started")) == 2 * processes, 60, log)
        send(messages[2_000:], 5)
        wait_for(lambda: log_events(log, "resume")[-1]["offsets"].keys() == {"0", "1", "2", "3", "4"}, 5, log)
        time.sleep(2.0)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, log.read_text()[-3000:]
    assert read_events(project.data_dir / "offline", "transactions")["_partition"].n_unique() == 5
    project.run_until_end()
    at_once = Project.create(tmp_path / "other", address, topic)
    at_once.run_until_end()
    assert_same_stores(read_stores(project), read_stores(at_once))
