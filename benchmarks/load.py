"""Fill a topic: `python -m benchmarks.load SERVERS EVENTS PARTITIONS SEED [STREAM TOPIC]`.

STREAM: a name in `benchmarks.events.STREAMS`; the standard job's when left out, as is TOPIC.
"""

from __future__ import annotations

import sys

import polars as pl
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks.events import STREAMS, make_events, message_values, partitions_of

TOPIC = "payments"
BATCH = 10_000
CHUNK = 1_000_000
FLUSH_TIMEOUT_S = 120


def stored(servers: str, topic: str) -> dict[int, int]:
    """Messages in the topic by partition; empty when there is no such topic."""
    admin = AdminClient({"bootstrap.servers": servers})
    found = admin.list_topics(timeout=10).topics.get(topic)
    if found is None:
        return {}
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "benchmarks"})
    try:
        counts = {}
        for partition in sorted(found.partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            counts[partition] = high - low
        return counts
    finally:
        consumer.close()


def create_topic(servers: str, topic: str, partitions: int) -> None:
    """Make the topic. Raises KafkaException when the broker refuses."""
    new = NewTopic(topic, num_partitions=partitions, replication_factor=1)
    admin = AdminClient({"bootstrap.servers": servers})  # it must outlive the answer
    admin.create_topics([new])[topic].result(20)


def send(servers: str, topic: str, events: pl.DataFrame, *, keyed: bool) -> None:
    """Send the events, each to its `partition`, in order, and wait until the broker has them all."""
    failed: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "enable.idempotence": True,  # the order of a partition is the order of sending
            "linger.ms": 50,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": CHUNK + 1,
            "queue.buffering.max.kbytes": 2_000_000,
        }
    )

    def note(error: object, message: object) -> None:
        if error is not None:
            failed.append(str(error))

    for at in range(0, events.height, CHUNK):
        chunk = events.slice(at, CHUNK)
        for partition in sorted(chunk["partition"].unique().to_list()):
            own = chunk.filter(pl.col("partition") == partition)
            keys = own["card_id"].to_list() if keyed else [None] * own.height
            messages = [{"value": value, "key": key} for value, key in zip(message_values(own), keys)]
            for first in range(0, len(messages), BATCH):
                producer.produce_batch(topic, messages[first : first + BATCH], partition, on_delivery=note)
                producer.poll(0)
        left = producer.flush(FLUSH_TIMEOUT_S)
        if left or failed:
            raise SystemExit(f"{left + len(failed)} messages were not delivered {failed[:1]}")


def main(arguments: list[str]) -> int:
    """Make and fill the topic, unless it holds as many messages already."""
    servers = arguments[0]
    events, partitions, seed = (int(argument) for argument in arguments[1:4])
    name, topic = arguments[4:6] or ("payments", TOPIC)
    stream = STREAMS[name]
    made = make_events(events, seed, stream)
    made = made.with_columns(partitions_of(made, partitions, stream))
    wanted = dict.fromkeys(range(partitions), 0) | dict(made["partition"].value_counts().iter_rows())
    there = stored(servers, topic)
    if there:
        if there == wanted:
            return 0
        print(f"topic {topic} holds other messages {there}: delete it", file=sys.stderr)
        return 1
    try:
        create_topic(servers, topic, partitions)
    except KafkaException as error:
        print(f"topic {topic} can't be made: {error}", file=sys.stderr)
        return 1
    send(servers, topic, made, keyed=stream.keyed)
    if stored(servers, topic) != wanted:
        print(f"topic {topic} holds {stored(servers, topic)}, not {wanted}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
