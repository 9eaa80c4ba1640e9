"""Bad messages at scale and of any size, through the whole program on a real broker."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Producer

from featurestore.examples.transactions import Shape, TransactionStream
from tests.faults.support import assert_stores_hold, committed_log
from tests.integration.project import Project
from tests.kafka_broker import KafkaBroker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
PARTITIONS = 3
MEGABYTE = 1_000_000


def worse(value: bytes, chance: random.Random) -> bytes | None:
    """A value with one of the faults that messages have."""
    event = json.loads(value)
    ts = chance.choice([2**63, -(2**63) - 1, 10**400, 253_402_300_800_000, -62_135_596_800_001, 1.5, "now", None])
    return chance.choice(
        [
            None,
            b"",
            value[: chance.randrange(len(value))],
            value + value,
            b"\xff\xfe" + value,
            value.replace(b'"card_id":"', b'"card_id":"\xc3\x28'),
            value.replace(b'"amount":', b'"amount":NaN,"was":'),
            value.replace(b'"amount":', b'"amount":-Infinity,"was":'),
            value.replace(b'"amount":', b'"amount":1e999,"was":'),
            value.replace(b'"amount":', b'"amount":"1","was":'),
            b"[" * 100_000,
            b'{"more":' * 50_000 + b"1" + b"}" * 50_000,
            json.dumps({**event, "ts": ts}).encode(),
            json.dumps({name: field for name, field in event.items() if name != "card_id"}).encode(),
        ]
    )


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_bad_messages_are_dead_letters_and_cost_nobody_else(
    kafka_broker: KafkaBroker, tmp_path: Path, share: float
) -> None:
    chance = random.Random(share)
    servers = kafka_broker.bootstrap_servers
    topic = kafka_broker.create_topic(f"bad-{os.urandom(4).hex()}", PARTITIONS)
    producer = Producer({"bootstrap.servers": servers, "log_level": 0})
    made = 0
    stream = TransactionStream(Shape(events=3_000, cards=40, duration_s=5_400.0, broken_share=0.0), seed=3)
    for number, (key, value) in enumerate(stream):
        bad = number > 0 and chance.random() < share
        made += bad
        producer.produce(topic, worse(value, chance) if bad else value, key, partition=number % PARTITIONS)
        producer.poll(0)
    producer.flush(20)
    project = Project.create(tmp_path, servers, topic)
    project.run_until_end()
    stores = assert_stores_hold(project, committed_log(servers, topic, PARTITIONS))
    assert stores.dead.height == made > 0


def test_messages_of_megabytes_are_read_and_absurd_but_valid_times_are_kept(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    servers = kafka_broker.bootstrap_servers
    topic = kafka_broker.create_topic(f"huge-{os.urandom(4).hex()}", PARTITIONS, max_message_bytes="6000000")
    producer = Producer({"bootstrap.servers": servers, "log_level": 0, "message.max.bytes": 20 * MEGABYTE})
    messages = [value for _, value in TransactionStream(Shape(events=300, cards=10, broken_share=0.0), seed=3)]
    refused: list[int] = []

    def note(error: KafkaError | None, message: object) -> None:
        if error is not None:
            refused.append(error.code())

    for number, value in enumerate(messages):
        event = json.loads(value)
        if number % 60 == 10:
            value = json.dumps({**event, "country": "x" * 5 * MEGABYTE}).encode()
        elif number % 60 == 20:
            value = b"x" * 5 * MEGABYTE
        elif number % 60 == 30:
            value = b"x" * 7 * MEGABYTE
        elif number % 60 == 40:
            value = json.dumps({**event, "ts": [0, -1, -62_135_596_800_000][number % 3]}).encode()
        producer.produce(topic, value, partition=number % PARTITIONS, on_delivery=note)
        producer.poll(0)
    producer.flush(60)
    assert refused == [KafkaError.MSG_SIZE_TOO_LARGE] * 5, "what is over the broker's limit never is in the log"
    project = Project.create(tmp_path, servers, topic)
    project.run_until_end()
    stores = assert_stores_hold(project, committed_log(servers, topic, PARTITIONS))
    assert stores.dead["value"].bin.size().max() == 5 * MEGABYTE
    assert stores.late.height == 5, "times long ago are too late, not dead"
