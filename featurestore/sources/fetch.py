"""Read a few messages of a topic again, by their places."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from featurestore.errors import BrokerUnavailableError
from featurestore.sources.client import client_settings, kafka_error, make_client

SILENCE_S = 15.0
SPAN_GAP = 1_000
"""Wanted offsets nearer than this are read in one go."""


class MessageFetcher:
    """Reads committed messages of a topic; joins no group and remembers nothing. Close it when done."""

    def __init__(self, bootstrap_servers: str, topic: str, settings: Mapping[str, str]) -> None:
        ours = {
            "group.id": "featurestore-fetch",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
        }
        self._servers = bootstrap_servers
        self._topic = topic
        self._doing = f"reading topic '{topic}' again"
        self._consumer = make_client(Consumer, {**client_settings(bootstrap_servers, settings), **ours})

    def at(self, partition: int, offsets: Sequence[int]) -> Iterator[Message]:
        """The messages at these offsets of a partition, as far as the topic still has them.

        offsets: ascending, each at or after the partition's first one. Raises BrokerUnavailableError, SourceError.
        """
        wanted = set(offsets)
        for start, end in _spans(offsets):
            yield from (message for message in self.span(partition, start, end) if message.offset() in wanted)

    def span(self, partition: int, start: int, end: int | None = None) -> Iterator[Message]:
        """Messages of a partition from `start` to before `end`, or to the present end of the partition."""
        self._consumer.assign([TopicPartition(self._topic, partition, start)])
        silent_since = time.monotonic()
        while True:
            message = self._consumer.poll(0.5)
            if message is None:
                if time.monotonic() - silent_since > SILENCE_S:
                    raise BrokerUnavailableError(
                        f"no broker answers at {self._servers} ({self._doing})", hint="start the broker, then try again"
                    )
                continue
            silent_since = time.monotonic()
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return
                raise kafka_error(KafkaException(error), self._servers, self._doing)
            offset = message.offset()
            assert offset is not None
            if end is not None and offset >= end:
                return
            yield message
            if end is not None and offset == end - 1:
                return

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def _spans(offsets: Iterable[int]) -> Iterator[tuple[int, int]]:
    start = last = None
    for offset in offsets:
        if start is None or last is None:
            start = offset
        elif offset - last > SPAN_GAP:
            yield start, last + 1
            start = offset
        last = offset
    if start is not None and last is not None:
        yield start, last + 1
