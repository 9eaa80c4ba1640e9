"""The yardstick: `Consumer.consume()` over the topic and nothing else.

`python -m benchmarks.bare_consume SERVERS TOPIC EVENTS` prints {"messages": …, "first_to_last_s": …}.
"""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import Consumer, TopicPartition

BATCH = 10_000
SILENCE_S = 30.0


def main(arguments: list[str]) -> int:
    """Read that many messages."""
    servers, topic, events = arguments[0], arguments[1], int(arguments[2])
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "benchmarks",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            # librdkafka's default of 1000 ms reads a filled topic seven times slower at the same CPU.
            "fetch.queue.backoff.ms": 10,
        }
    )
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    messages, first, last = 0, None, time.monotonic()
    while messages < events:
        batch = consumer.consume(BATCH, 0.1)
        now = time.monotonic()
        if batch:
            first = first or now
            last = now
            for message in batch:
                if message.error() is not None:
                    print(message.error(), file=sys.stderr)
                    return 1
            messages += len(batch)
        elif now - last > SILENCE_S:
            print(f"only {messages} of {events} messages came", file=sys.stderr)
            return 1
    consumer.close()
    print(json.dumps({"messages": messages, "first_to_last_s": last - (first or last)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
