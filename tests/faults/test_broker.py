"""The broker killed, paused, cut off; a topic deleted, made again, shortened: under load, beside an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.offline.read import archive_counts
from tests.conftest import TopicAt
from tests.faults.proxy import CuttingProxy
from tests.faults.support import MODULE, Load, committed_log, shorter_or, wait_for
from tests.integration.project import Project, assert_same_stores, log_events, read_stores
from tests.integration.road import send
from tests.integration.test_kill import committed_events
from tests.kafka_broker import KafkaBroker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(400)]
PARTITIONS = 3
Fault = Callable[[KafkaBroker, CuttingProxy, random.Random], None]


@pytest.fixture(scope="module")
def proxy() -> Iterator[CuttingProxy]:
    proxy = CuttingProxy()
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def own_broker(
    kafka_broker: KafkaBroker, proxy: CuttingProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaBroker]:
    """A broker to be hurt; `kafka_broker` only says whether there can be one."""
    folder = tmp_path_factory.mktemp("hurt") / "broker"
    with KafkaBroker(folder, heap="256m", proxy_port=proxy.port) as broker:
        proxy.start(broker.behind_proxy_port)
        yield broker


def killed(broker: KafkaBroker, proxy: CuttingProxy, chance: random.Random) -> None:
    broker.kill()
    time.sleep(chance.uniform(0.0, 2.0))
    broker.start()


def paused(broker: KafkaBroker, proxy: CuttingProxy, chance: random.Random) -> None:
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        time.sleep(shorter_or(60, 10))
    finally:
        os.kill(broker.pid, signal.SIGCONT)


def cut(broker: KafkaBroker, proxy: CuttingProxy, chance: random.Random) -> None:
    were = 0
    for _ in range(int(shorter_or(200, 15))):
        were += proxy.cut()
        time.sleep(chance.uniform(0.0, 0.6))
    assert were > 5, "connections to cut"


@pytest.mark.parametrize("fault", [killed, paused, cut])
def test_a_broker_in_trouble_costs_nothing_but_time(
    own_broker: KafkaBroker, proxy: CuttingProxy, tmp_path: Path, fault: Fault
) -> None:
    topic = own_broker.create_topic(f"trouble-{os.urandom(4).hex()}", PARTITIONS)
    chance = random.Random(fault.__name__)
    project = Project.create(tmp_path / "troubled", f"127.0.0.1:{proxy.port}", topic)
    log = tmp_path / "run.log"
    load = Load(own_broker.bootstrap_servers, topic, PARTITIONS, seed=9)
    load.start()
    worker = project.start("--log-level", "debug", "run", MODULE, "--apply", "--processes", "2", log=log)
    try:
        for _ in range(int(shorter_or(5, 2 if fault is killed else 1))):
            before = len(log_events(log, "commit"))
            wait_for(lambda before=before: committed_events(log, before) > 500, 60, log)
            fault(own_broker, proxy, chance)
        before = len(log_events(log, "commit"))
        wait_for(lambda: committed_events(log, before) > 1_000, 60, log)
        assert len(log_events(log, "worker_started")) == 2, "the worker waits, it does not start again"
    finally:
        load.stop()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, log.read_text()[-3000:]
    project.run_until_end()
    other = Project.create(tmp_path / "undisturbed", own_broker.bootstrap_servers, topic)
    other.run_until_end()
    assert_same_stores(read_stores(project), read_stores(other))
    counts = archive_counts(project.data_dir / "offline", "transactions")
    assert counts.read == len(committed_log(own_broker.bootstrap_servers, topic, PARTITIONS))


def make_again(broker: KafkaBroker, topic: str) -> None:
    broker.delete_topic(topic)
    until = time.monotonic() + 20
    while True:
        try:
            broker.create_topic(topic, PARTITIONS)
            return
        except KafkaException:
            # The deletion takes a moment.
            assert time.monotonic() < until
            time.sleep(0.2)


@pytest.mark.parametrize("running", [True, False])
def test_a_topic_made_again_is_noticed_and_read_from_its_beginning(
    kafka_broker: KafkaBroker, tmp_path: Path, running: bool
) -> None:
    address = kafka_broker.bootstrap_servers
    topic = kafka_broker.create_topic(f"again-{os.urandom(4).hex()}", PARTITIONS)
    place = TopicAt("kafka", address, address, topic, PARTITIONS)
    messages = list(TransactionStream(Shape(events=3_000, cards=50, duration_s=900.0), seed=4))
    project = Project.create(tmp_path, address, topic)
    config = project.folder / "featurestore.toml"
    config.write_text(config.read_text() + '[kafka.settings]\n"topic.metadata.refresh.interval.ms" = "500"\n')
    send(place, messages[:2_000])
    log = tmp_path / "run.log"
    worker = project.start("--log-level", "debug", "run", MODULE, "--apply", log=log)
    try:
        wait_for(lambda: committed_events(log, 0) >= 1_990, 60, log)
        if not running:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        make_again(kafka_broker, topic)
        # Fewer than the old topic had: read on at the old offsets, they would all be skipped.
        send(place, messages[2_000:])
        if running:
            assert worker.wait(60) != 0, "it says so and ends"
            assert "made again" in log.read_text()
    finally:
        if worker.poll() is None:
            worker.kill()
    project.run_until_end()
    counts = archive_counts(project.data_dir / "offline", "transactions")
    assert counts.read == 3_000
    folders = sorted((project.data_dir / "offline" / "events" / "transactions").iterdir())
    assert len(folders) == 2
    status = project.call("status", "--json")
    assert status.returncode == 0, status.stderr
    for view in json.loads(status.stdout)["views"]:
        assert view["applied"] + view["filtered"] + view["null_key"] == counts.accepted, "every event of both, once"
