"""Fill the topic of the standard job: `python -m benchmarks.load SERVERS EVENTS PARTITIONS SEED`."""

from __future__ import annotations

import sys

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks.events import make_events, message_values

TOPIC = "payments"
BATCH = 10_000
FLUSH_TIMEOUT_S = 120


def stored(servers: str) -> dict[int, int]:
    """Messages in the topic by partition; empty when there is no such topic."""
    admin = AdminClient({"bootstrap.servers": servers})
    found = admin.list_topics(timeout=10).topics.get(TOPIC)
    if found is None:
        return {}
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "benchmarks"})
    try:
        counts = {}
        for partition in sorted(found.partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(TOPIC, partition), timeout=10)
            counts[partition] = high - low
        return counts
    finally:
        consumer.close()


def create_topic(servers: str, partitions: int) -> None:
    """Make the topic. Raises KafkaException when the broker refuses."""
    new = NewTopic(TOPIC, num_partitions=partitions, replication_factor=1)
    admin = AdminClient({"bootstrap.servers": servers})  # it must outlive the answer
    admin.create_topics([new])[TOPIC].result(20)


def send(servers: str, values: list[str], partitions: int) -> None:
    """Send value i to partition i % partitions, and wait until the broker has them all."""
    failed: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "enable.idempotence": True,  # the order of a partition is the order of sending
            "linger.ms": 50,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": len(values) + 1,
            "queue.buffering.max.kbytes": 2_000_000,
        }
    )

    def note(error: object, message: object) -> None:
        if error is not None:
            failed.append(str(error))

    for partition in range(partitions):
        own = values[partition::partitions]
        for at in range(0, len(own), BATCH):
            producer.produce_batch(
                TOPIC, [{"value": value} for value in own[at : at + BATCH]], partition, on_delivery=note
            )
            producer.poll(0)
    left = producer.flush(FLUSH_TIMEOUT_S)
    if left or failed:
        raise SystemExit(f"{left + len(failed)} messages were not delivered {failed[:1]}")


def main(arguments: list[str]) -> int:
    """Make and fill the topic, unless it holds as many messages already."""
    servers = arguments[0]
    events, partitions, seed = (int(argument) for argument in arguments[1:4])
    wanted = {p: len(range(p, events, partitions)) for p in range(partitions)}
    there = stored(servers)
    if there:
        if there == wanted:
            return 0
        print(f"topic {TOPIC} holds other messages {there}: delete it", file=sys.stderr)
        return 1
    try:
        create_topic(servers, partitions)
    except KafkaException as error:
        print(f"topic {TOPIC} can't be made: {error}", file=sys.stderr)
        return 1
    send(servers, message_values(make_events(events, seed)), partitions)
    if stored(servers) != wanted:
        print(f"topic {TOPIC} holds {stored(servers)}, not {wanted}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
