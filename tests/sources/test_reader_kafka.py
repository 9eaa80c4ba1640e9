"""What only a real broker does: transactions, compaction, retention, restarts, topics made again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from featurestore.errors import BrokerUnavailableError, OffsetGapError, SourceError
from featurestore.sources.produce import MessageSender
from featurestore.sources.topics import describe_topic
from tests.kafka_broker import KafkaBroker
from tests.sources.support import (
    T0_MS,
    T0_US,
    Clock,
    make_reader,
    payment,
    poll_until,
    read_to_end,
    rows,
    source,
)

pytestmark = pytest.mark.kafka


@pytest.fixture
def topic(kafka_broker: KafkaBroker, request: pytest.FixtureRequest) -> str:
    return kafka_broker.create_topic(f"topic-{time.time_ns()}")


def make_again(broker: KafkaBroker, topic: str, partitions: int) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            broker.create_topic(topic, partitions)
            return
        except KafkaException:
            # The deletion takes a moment.
            assert time.monotonic() < until
            time.sleep(0.2)


def transactional(broker: KafkaBroker, name: str) -> Producer:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "transactional.id": name, "log_level": 0})
    producer.init_transactions(20)
    return producer


def test_aborted_messages_are_passed_over(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> None:
    producer = transactional(kafka_broker, topic)
    for n in range(6):
        producer.begin_transaction()
        producer.produce(topic, payment(T0_MS + n))
        # What was not sent yet would be dropped by an abort without a trace.
        producer.flush(20)
        if n % 2:
            producer.abort_transaction(20)
        else:
            producer.commit_transaction(20)
    low, high = describe_topic(kafka_broker.bootstrap_servers, topic, {}).partitions[0]
    assert (low, high) == (0, 12), "each transaction has a marker"
    reader = make_reader(
        source(topic=topic), kafka_broker.bootstrap_servers, tmp_path, partitions=[0], stop_at={0: high}
    )
    read = read_to_end(reader)
    assert read.offsets == {0: [0, 4, 8]}
    assert read.last(0).next_offset == 12
    assert read.last(0).max_event_time_us == T0_US + 4_000


def test_a_recorded_end_inside_a_gap_is_reached(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> None:
    producer = transactional(kafka_broker, topic)
    for n in range(3):
        producer.begin_transaction()
        producer.produce(topic, payment(T0_MS + n))
        producer.commit_transaction(20)
    # Offsets 1, 3 and 5 are markers; the end was recorded when 3 was one past the last message.
    for stop_at in (1, 2, 3, 4, 5):
        reader = make_reader(
            source(topic=topic),
            kafka_broker.bootstrap_servers,
            tmp_path,
            partitions=[0],
            stop_at={0: stop_at},
        )
        read = read_to_end(reader)
        assert read.offsets[0] == [offset for offset in (0, 2, 4) if offset < stop_at]
        assert read.last(0).next_offset == stop_at


def test_an_open_transaction_does_not_hold_back_idleness_and_is_read_once_committed(
    kafka_broker: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    MessageSender(kafka_broker.bootstrap_servers, topic, {}).send(payment())
    producer = transactional(kafka_broker, topic)
    producer.begin_transaction()
    sender = MessageSender(kafka_broker.bootstrap_servers, topic, {})
    sender.send(payment())
    sender.flush()
    producer.produce(topic, payment(T0_MS + 1))
    producer.flush(20)
    assert describe_topic(kafka_broker.bootstrap_servers, topic, {}).partitions[0][1] <= 2, "the last stable offset"
    clock = Clock()
    reader = make_reader(
        source(topic=topic), kafka_broker.bootstrap_servers, tmp_path, partitions=[0],
        clock=clock.wall, monotonic=clock.monotonic,
    )  # fmt: skip
    read = poll_until(reader, lambda read: len(read.offsets.get(0, [])) >= 1)
    clock.seconds += 31
    poll_until(reader, lambda read: read.states()[0] == "idle", read)
    before = len(read.offsets[0])
    producer.commit_transaction(20)
    poll_until(reader, lambda read: len(read.offsets[0]) == before + 1, read)
    assert read.last(0).max_event_time_us == T0_US + 1_000
    reader.close()


def test_offsets_that_retention_removed_are_a_gap(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> None:
    from confluent_kafka.admin import AdminClient

    sender = MessageSender(kafka_broker.bootstrap_servers, topic, {})
    for n in range(10):
        sender.send(payment(T0_MS + n))
    sender.flush()
    admin = AdminClient({"bootstrap.servers": kafka_broker.bootstrap_servers})
    place = TopicPartition(topic, 0, 6)
    admin.delete_records([place])[place].result(20)
    info = describe_topic(kafka_broker.bootstrap_servers, topic, {})
    assert info.partitions[0] == (6, 10)
    spec = source(topic=topic)
    reader = make_reader(
        spec, kafka_broker.bootstrap_servers, tmp_path, partitions=[0], resume={0: 2}, generation=info.generation
    )
    with pytest.raises(OffsetGapError, match="partition 0"):
        poll_until(reader, lambda read: False)
    reader.close()
    reader = make_reader(spec, kafka_broker.bootstrap_servers, tmp_path, partitions=[0], resume={0: 6}, stop_at={0: 10})
    assert read_to_end(reader).offsets == {0: [6, 7, 8, 9]}


def test_the_brokers_own_time_limits_the_future(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    topic = kafka_broker.create_topic(f"topic-{time.time_ns()}", message_timestamp_type="LogAppendTime")
    now_ms = time.time_ns() // 1_000_000
    sender = MessageSender(kafka_broker.bootstrap_servers, topic, {})
    for ahead_ms in (0, 3_600_000):
        sender.send(payment(now_ms + ahead_ms))
    sender.flush()
    # The clock at reading is far ahead: it must not be asked.
    clock = Clock(now_us=now_ms * 1_000 + 10**12)
    reader = make_reader(
        source(topic=topic),
        kafka_broker.bootstrap_servers,
        tmp_path,
        partitions=[0],
        stop_at={0: 2},
        clock=clock.wall,
    )
    read = read_to_end(reader)
    assert rows(read.frame("dead"), "_offset", "reason") == [(1, "event_time_in_future")]


def test_the_groups_offset_is_written_for_tools(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> None:
    reader = make_reader(source(topic=topic), kafka_broker.bootstrap_servers, tmp_path, partitions=[0])
    tool = Consumer({"bootstrap.servers": kafka_broker.bootstrap_servers, "group.id": "test-readers"})
    until = time.monotonic() + 20
    while (found := tool.committed([TopicPartition(topic, 0)], timeout=5)[0].offset) != 7:
        assert time.monotonic() < until, found
        reader.commit_for_tools({0: 7})
        reader.poll(0.1)
    tool.close()
    reader.close()


def test_a_topic_made_again_has_another_generation(kafka_broker: KafkaBroker, topic: str) -> None:
    before = describe_topic(kafka_broker.bootstrap_servers, topic, {})
    assert before == describe_topic(kafka_broker.bootstrap_servers, topic, {})
    kafka_broker.delete_topic(topic)
    make_again(kafka_broker, topic, 3)
    after = describe_topic(kafka_broker.bootstrap_servers, topic, {})
    assert after.generation != before.generation
    assert after.partitions == dict.fromkeys(range(3), (0, 0))
    assert set(after.generation) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@pytest.mark.slow
@pytest.mark.parametrize("made_again", [False, True])
def test_a_topic_that_is_deleted_while_it_is_read_is_told(
    kafka_broker: KafkaBroker, topic: str, tmp_path: Path, made_again: bool
) -> None:
    sender = MessageSender(kafka_broker.bootstrap_servers, topic, {})
    sender.send(payment())
    sender.flush()
    settings = {"topic.metadata.propagation.max.ms": "500", "topic.metadata.refresh.interval.ms": "500"}
    reader = make_reader(
        source(topic=topic), kafka_broker.bootstrap_servers, tmp_path, partitions=[0], settings=settings,
        generation=describe_topic(kafka_broker.bootstrap_servers, topic, {}).generation,
    )  # fmt: skip
    read = poll_until(reader, lambda read: len(read.offsets.get(0, [])) == 1)
    kafka_broker.delete_topic(topic)
    if made_again:
        until = time.monotonic() + 3
        poll_until(reader, lambda read: time.monotonic() > until, read)
        make_again(kafka_broker, topic, 1)
        sender = MessageSender(kafka_broker.bootstrap_servers, topic, {})
        for n in range(5):
            sender.send(payment(card=f"new {n}"))
        sender.flush()
    with pytest.raises(SourceError, match="made again" if made_again else "does not exist"):
        poll_until(reader, lambda read: False, read, timeout_s=30)
    assert read.offsets == {0: [0]}, "nothing of the new topic was taken for the old one's"
    reader.close()


@pytest.fixture
def own_broker(kafka_broker: KafkaBroker, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker that the test may stop; `kafka_broker` only says whether there can be one."""
    with KafkaBroker(tmp_path / "own", heap="256m") as broker:
        yield broker


@pytest.mark.slow
def test_reading_goes_on_when_the_broker_was_killed_and_comes_back(own_broker: KafkaBroker, tmp_path: Path) -> None:
    topic = own_broker.create_topic("payments", 2)
    sender = MessageSender(own_broker.bootstrap_servers, topic, {})
    for n in range(100):
        sender.send(payment(T0_MS + n), partition=n % 2)
    sender.flush()
    clock = Clock()
    reader = make_reader(
        source(), own_broker.bootstrap_servers, tmp_path / "verdicts", partitions=[0, 1],
        clock=clock.wall, monotonic=clock.monotonic,
    )  # fmt: skip
    read = poll_until(reader, lambda read: {p: len(o) for p, o in read.offsets.items()} == {0: 50, 1: 50})
    own_broker.kill()
    # The broker is gone for longer than the idle timeout: nobody can say that nothing waits.
    clock.seconds += 100
    for _ in range(30):
        clock.seconds += 1.1
        read.add(reader.poll(0.02))
    assert read.states() == {0: "active", 1: "active"}
    with pytest.raises(BrokerUnavailableError):
        describe_topic(own_broker.bootstrap_servers, topic, {})
    own_broker.start()
    sender = MessageSender(own_broker.bootstrap_servers, topic, {})
    for n in range(100, 120):
        sender.send(payment(T0_MS + n), partition=n % 2)
    sender.flush()
    poll_until(reader, lambda read: all(len(read.offsets[p]) == 60 for p in (0, 1)), read, timeout_s=40)
    assert read.offsets == {0: list(range(60)), 1: list(range(60))}
    clock.seconds += 100
    poll_until(reader, lambda read: read.states() == {0: "idle", 1: "idle"}, read)
    reader.close()
