"""kill -9 at random moments over a paced stream; afterwards the stores hold what an undisturbed run holds."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.sources.produce import MessageSender
from tests.conftest import TopicAt
from tests.integration.project import Project, assert_same_stores, log_events, read_stores

KILLS = int(os.environ.get("FEATURESTORE_TEST_KILLS", "12"))
EVENTS_PER_S = 1_500


class Pacer(threading.Thread):
    """Sends events at a steady pace until it is stopped. The stream is the same for a seed, however long it runs."""

    def __init__(self, topic: TopicAt, seed: int) -> None:
        super().__init__(daemon=True)
        self._topic = topic
        self._stream = iter(TransactionStream(Shape(events=1_000_000, cards=400, duration_s=400_000.0), seed=seed))
        self._stopped = threading.Event()
        self.sent = 0

    def run(self) -> None:
        sender = MessageSender(self._topic.address, self._topic.topic, {})
        while not self._stopped.is_set():
            for _ in range(EVENTS_PER_S // 10):
                key, value = next(self._stream)
                sender.send(value, key, partition=self.sent % self._topic.partitions)
                self.sent += 1
            time.sleep(0.1)
        sender.flush()

    def stop(self) -> None:
        self._stopped.set()
        self.join(30)


def committed_events(log: Path, since: int) -> int:
    """Events in the commits that were logged after the first `since` of them."""
    return sum(int(str(entry["events"])) for entry in log_events(log, "commit")[since:])


def wait_for(condition: Callable[[], bool], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.02)


def undisturbed(topic: TopicAt, folder: Path) -> Project:
    data_dir = folder / "data"
    data_dir.mkdir(parents=True)
    project = Project.create(folder, topic.bootstrap_servers, topic.topic, data_dir=data_dir)
    project.run_until_end()
    return project


@pytest.fixture
def kafka_topic(kafka_broker) -> TopicAt:
    topic = kafka_broker.create_topic(f"kill-{os.urandom(4).hex()}", 4)
    return TopicAt("kafka", kafka_broker.bootstrap_servers, kafka_broker.bootstrap_servers, topic, 4)


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_worker_killed_again_and_again_leaves_the_stores_of_an_undisturbed_run(kafka_topic: TopicAt, tmp_path: Path):
    project = Project.create(tmp_path / "killed", kafka_topic.bootstrap_servers, kafka_topic.topic)
    chance = random.Random(3)
    pacer = Pacer(kafka_topic, seed=3)
    pacer.start()
    log = tmp_path / "run.log"
    try:
        for _ in range(KILLS):
            before = len(log_events(log, "commit"))
            worker = project.start("--log-level", "debug", "run", "pipelines/transactions.py", "--apply", log=log)
            wanted = chance.randrange(1, 1_500)
            wait_for(lambda before=before, wanted=wanted: committed_events(log, before) >= wanted, 60, log)
            time.sleep(chance.random() * 0.4)
            worker.kill()
            worker.wait()
    finally:
        pacer.stop()
    project.run_until_end()
    other = undisturbed(kafka_topic, tmp_path / "undisturbed")
    assert_same_stores(read_stores(project), read_stores(other))


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_process_of_a_cluster_killed_restarts_all_and_the_supervisor_takes_its_children_along(
    kafka_topic: TopicAt, tmp_path: Path
):
    project = Project.create(tmp_path / "killed", kafka_topic.bootstrap_servers, kafka_topic.topic)
    chance = random.Random(4)
    pacer = Pacer(kafka_topic, seed=4)
    pacer.start()
    log = tmp_path / "run.log"
    run = ("--log-level", "debug", "run", "pipelines/transactions.py", "--apply", "--processes", "2")
    try:
        supervisor = project.start(*run, log=log)
        for kill in range(4):
            wait_for(lambda kill=kill: len(log_events(log, "cluster_started")) == kill + 1, 60, log)
            before = len(log_events(log, "commit"))
            wait_for(lambda before=before: committed_events(log, before) > 500, 60, log)
            time.sleep(chance.random() * 0.4)
            pids = log_events(log, "cluster_started")[-1]["pids"]
            assert isinstance(pids, list)
            os.kill(pids[kill % 2], signal.SIGKILL)
        wait_for(lambda: len(log_events(log, "cluster_started")) == 5, 60, log)
        wait_for(lambda: committed_events(log, len(log_events(log, "commit")) - 1) > 0, 60, log)
        pids = log_events(log, "cluster_started")[-1]["pids"]
        supervisor.kill()
        supervisor.wait()
        wait_for(lambda: not any(running(pid) for pid in pids), 10, log)
        # No orphan holds a lock: the next run starts at once, and a signal to a child drains all.
        supervisor = project.start(*run, log=log)
        wait_for(lambda: len(log_events(log, "cluster_started")) == 6, 60, log)
        before = len(log_events(log, "commit"))
        wait_for(lambda: committed_events(log, before) > 500, 60, log)
        os.kill(log_events(log, "cluster_started")[-1]["pids"][1], signal.SIGTERM)
        assert supervisor.wait(20) == 0, log.read_text()[-3000:]
    finally:
        pacer.stop()
    project.run_until_end()
    other = undisturbed(kafka_topic, tmp_path / "undisturbed")
    assert_same_stores(read_stores(project), read_stores(other))


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_broker_is_waited_for_at_the_start_and_not_at_the_end(tmp_path: Path):
    from tests.kafka_broker import KafkaBroker, why_not

    if why_not():
        if os.environ.get("FEATURESTORE_REQUIRE_KAFKA") == "1":
            pytest.fail(f"no Kafka broker: {why_not()}")
        pytest.skip(f"no Kafka broker: {why_not()}")
    broker = KafkaBroker(tmp_path / "broker")
    topic = TopicAt("kafka", broker.bootstrap_servers, broker.bootstrap_servers, "payments", 4)
    project = Project.create(tmp_path / "project", broker.bootstrap_servers, "payments")
    log = tmp_path / "run.log"
    worker = project.start("--log-level", "debug", "run", "pipelines/transactions.py", "--apply", log=log)
    try:
        wait_for(lambda: bool(log_events(log, "waiting_for_topic")), 60, log)
        broker.start()
        wait_for(lambda: "does not exist" in str(log_events(log, "waiting_for_topic")[-1]["error"]), 60, log)
        broker.create_topic("payments", 4)
        send(topic, list(TransactionStream(Shape(events=1_000, cards=50), seed=9)))
        # With the line of progress the group's offsets are written; after the kill nobody answers the next write.
        wait_for(lambda: any(entry["events"] == 1_000 for entry in log_events(log, "progress")), 60, log)
        broker.kill()
        time.sleep(6.0)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(15) == 0, log.read_text()[-3000:]
    finally:
        if worker.poll() is None:
            worker.kill()
        broker.remove()


def send(topic: TopicAt, messages: list[tuple[bytes | None, bytes]]) -> None:
    sender = MessageSender(topic.address, topic.topic, {})
    for number, (key, value) in enumerate(messages):
        sender.send(value, key, partition=number % topic.partitions)
    sender.flush()
