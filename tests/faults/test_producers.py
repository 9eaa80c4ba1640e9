"""What producers do: transactions that are aborted, compacted topics, null keys and values, messages sent twice."""

from __future__ import annotations

import dataclasses
import os
import random
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from featurestore.examples.transactions import Shape, TransactionStream
from tests.faults.support import (
    MODULE,
    Load,
    assert_stores_hold,
    change_pipeline,
    committed_log,
    shorter_or,
    wait_for,
)
from tests.integration.project import Project, assert_same_stores, log_events, read_stores
from tests.integration.test_kill import committed_events
from tests.integration.test_road import PARAMS
from tests.kafka_broker import KafkaBroker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
PARTITIONS = 3
STREAM = Shape(events=3_000, cards=40, duration_s=5_400.0, late_share=0.02, too_late_share=0.01, broken_share=0.01)


@pytest.fixture
def topic(kafka_broker: KafkaBroker) -> str:
    return kafka_broker.create_topic(f"faults-{os.urandom(4).hex()}", PARTITIONS)


@pytest.mark.parametrize("seed", range(int(shorter_or(20, 2))))
def test_aborted_transactions_leave_no_trace_and_the_counters_add_up_over_the_gaps(
    kafka_broker: KafkaBroker, topic: str, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    settings = {"bootstrap.servers": kafka_broker.bootstrap_servers, "log_level": 0}
    producer = Producer({**settings, "transactional.id": topic})
    producer.init_transactions(20)
    plain = Producer(settings)
    project = Project.create(tmp_path, kafka_broker.bootstrap_servers, topic)
    messages = list(TransactionStream(STREAM, seed=seed))
    at = 0
    committed = 0
    while at < len(messages):
        part = messages[at : at + chance.randint(1, 200)]
        producer.begin_transaction()
        for number, (key, value) in enumerate(part, start=at):
            producer.produce(topic, value, key, partition=number % PARTITIONS)
        producer.flush(20)
        if chance.random() < 0.4:
            producer.abort_transaction(20)
        else:
            producer.commit_transaction(20)
            committed += len(part)
        # One without a transaction between them, which the reader must not hold back for long.
        plain.produce(topic, messages[at][1], messages[at][0], partition=chance.randrange(PARTITIONS))
        plain.flush(20)
        committed += 1
        if at < len(messages) // 2 <= at + len(part):
            # The end of this run lies on a marker, or on an aborted message.
            project.run_until_end("--processes", "2")
        at += len(part)
    project.run_until_end()
    log = committed_log(kafka_broker.bootstrap_servers, topic, PARTITIONS)
    assert len(log) == committed
    assert log[-1][1] > sum(1 for partition, _, _ in log if partition == PARTITIONS - 1), "offsets with gaps"
    assert_stores_hold(project, log)


def test_what_compaction_left_of_a_topic_is_read_over_its_holes(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    servers = kafka_broker.bootstrap_servers
    topic = kafka_broker.create_topic(
        f"compacted-{os.urandom(4).hex()}", PARTITIONS, cleanup_policy="compact", segment_ms="100",
        min_cleanable_dirty_ratio="0.01", max_compaction_lag_ms="100",
    )  # fmt: skip
    project = Project.create(tmp_path, servers, topic)
    producer = Producer({"bootstrap.servers": servers, "log_level": 0})
    messages = list(TransactionStream(STREAM, seed=1))
    read: dict[tuple[int, int], bytes | None] = {}
    for part in (messages[:1_500], messages[1_500:]):
        for number, (key, value) in enumerate(part):
            # The producer deletes a key now and then: a tombstone, which is a dead letter.
            producer.produce(topic, None if number % 50 == 0 else value, key, partition=number % PARTITIONS)
            if number % 300 == 0:
                # The newest segment is never compacted; after segment.ms the next message begins another one.
                producer.flush(20)
                time.sleep(0.15)
        producer.flush(20)
        deadline = time.monotonic() + 60
        seen, before = 0, -1
        while seen != before or seen > len(part):
            assert time.monotonic() < deadline, "compaction"
            time.sleep(2.0)
            seen, before = len(committed_log(servers, topic, PARTITIONS)), seen
        log = committed_log(servers, topic, PARTITIONS)
        reached = {p: max((offset for q, offset in read if q == p), default=-1) for p in range(PARTITIONS)}
        read |= {(p, offset): value for p, offset, value in log if offset > reached[p]}
        project.run_until_end()
        assert committed_log(servers, topic, PARTITIONS) == log, "no compaction during the run"
    offsets = [offset for partition, offset in sorted(read) if partition == 0]
    assert len(offsets) < offsets[-1], "offsets with holes"
    assert None in read.values()
    assert_stores_hold(project, [(*place, value) for place, value in sorted(read.items())])


def test_null_keys_and_null_values_end_in_one_place_each(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> None:
    chance = random.Random(5)
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap_servers, "log_level": 0})
    nothing = 0
    for number, (key, value) in enumerate(TransactionStream(STREAM, seed=5)):
        kind = chance.choice(["whole", "whole", "no key", "no value", "neither", "empty"])
        sent = {"no value": None, "neither": None, "empty": b""}.get(kind, value)
        nothing += sent is None
        producer.produce(topic, sent, None if kind in ("no key", "neither") else key, partition=number % PARTITIONS)
    producer.flush(20)
    project = Project.create(tmp_path, kafka_broker.bootstrap_servers, topic)
    project.run_until_end()
    stores = assert_stores_hold(project, committed_log(kafka_broker.bootstrap_servers, topic, PARTITIONS))
    assert stores.dead.filter(stores.dead["reason"] == "tombstone").height == nothing > 0


def test_messages_sent_twice_count_once_through_kills_and_other_numbers_of_processes(
    kafka_broker: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    servers = kafka_broker.bootstrap_servers

    def deduped(folder: Path) -> Project:
        project = Project.create(folder, servers, topic)
        change_pipeline(project, 'event_time="ts",', 'event_time="ts", dedupe_by="transaction_id", dedupe_within="1h",')
        return project

    project = deduped(tmp_path / "killed")
    log = tmp_path / "run.log"
    load = Load(servers, topic, PARTITIONS, seed=6, again=40)
    load.start()
    chance = random.Random(6)
    try:
        for _ in range(int(shorter_or(20, 3))):
            before = len(log_events(log, "commit"))
            worker = project.start("--log-level", "debug", "run", MODULE, "--apply", log=log)
            wanted = chance.randrange(1, 1_200)
            wait_for(lambda before=before, wanted=wanted: committed_events(log, before) >= wanted, 60, log)
            time.sleep(chance.random() * 0.4)
            worker.kill()
            worker.wait()
    finally:
        load.stop()
    project.run_until_end("--processes", "2")
    other = deduped(tmp_path / "undisturbed")
    other.run_until_end()
    assert_same_stores(read_stores(project), read_stores(other))
    params = dataclasses.replace(PARAMS, dedupe_by="transaction_id", dedupe_us=3_600_000_000)
    whole = committed_log(servers, topic, PARTITIONS)
    stores = assert_stores_hold(project, whole, params)
    assert not stores.events["transaction_id"].is_duplicated().any()
    assert len(whole) > stores.events.height + stores.late.height + stores.dead.height
