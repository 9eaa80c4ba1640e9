"""A topic in memory, and a consumer that hands out its messages in the portions it is told to."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, KafkaError, TopicPartition
from confluent_kafka import Message as KafkaMessage

from tests.oracle import Message
from tests.strategies import Stream
from tests.wire import EVENT_TIME, json_value, through_json

Portions = Callable[[Mapping[int, int]], list[tuple[int, int]]]
"""Given how many messages each partition still has: (partition, count) pairs, what one poll brings, in order."""


def _in_milliseconds(message: Message) -> Message:
    rest = message.arrival_us % 1_000
    event = message.event
    if event is not None and event[EVENT_TIME] is not None and event[EVENT_TIME] > message.arrival_us:
        # It stays as far ahead of its arrival as it was.
        event = {**event, EVENT_TIME: event[EVENT_TIME] - rest}
    return replace(message, event=event, arrival_us=message.arrival_us - rest)


def at_random(seed: int, most: int) -> Portions:
    """Up to `most` messages of one or two partitions at a time, sometimes none."""
    rng = random.Random(seed)

    def portions(left: Mapping[int, int]) -> list[tuple[int, int]]:
        chosen = rng.sample(sorted(left), min(len(left), rng.choice((1, 1, 2))))
        return [(partition, rng.randint(0, most)) for partition in chosen]

    return portions


def as_cut(cuts: list[tuple[int, int]]) -> Portions:
    """One cut after the other."""
    rest = iter(cuts)
    return lambda left: [next(rest, (min(left), 1))]


def whole(count: int) -> Portions:
    """`count` messages at a time, partition after partition as they come."""

    def portions(left: Mapping[int, int]) -> list[tuple[int, int]]:
        chosen, room = [], count
        for partition in sorted(left):
            taken = min(room, left[partition])
            chosen.append((partition, taken))
            room -= taken
        return chosen

    return portions


@dataclass(frozen=True)
class Topic:
    """Partitions of JSON messages. end: by partition, one past the last offset; values: as they were produced."""

    name: str
    stream: Stream
    values: list[list[bytes | None]]
    end: Mapping[int, int]
    broker_time: bool = True

    @classmethod
    def of(cls, name: str, stream: Stream, *, broker_time: bool = True) -> Topic:
        """A stream as a JSON topic holds it: arrivals in whole milliseconds, events as the values' bytes say."""
        rounded = [[_in_milliseconds(message) for message in partition] for partition in stream]
        values = [[json_value(message) for message in partition] for partition in rounded]
        end = {number: messages[-1].offset + 1 if messages else 0 for number, messages in enumerate(stream)}
        return cls(name, through_json(rounded), values, end, broker_time)

    def up_to(self, end: Mapping[int, int]) -> Topic:
        """The topic as it was when it ended there."""
        return replace(self, end=end)


class FakeConsumer:
    """What `SourceReader` asks of a Kafka consumer, answered from a `Topic`."""

    def __init__(self, topic: Topic, portions: Portions) -> None:
        self._topic = topic
        self._portions = portions
        self._next: dict[int, int] = {}
        self._told_end: set[int] = set()

    def assign(self, places: list[TopicPartition]) -> None:
        self._next = {place.partition: place.offset for place in places}

    def incremental_unassign(self, places: list[TopicPartition]) -> None:
        for place in places:
            del self._next[place.partition]

    def get_watermark_offsets(self, place: TopicPartition, **_: object) -> tuple[int, int]:
        return 0, self._topic.end[place.partition]

    def commit(self, **_: object) -> None: ...

    def close(self) -> None: ...

    def consume(self, _count: int, _timeout_s: float) -> list[KafkaMessage]:
        waiting = {partition: self._waiting(partition) for partition in self._next}
        left = {partition: len(rows) for partition, rows in waiting.items() if rows}
        brought: list[KafkaMessage] = []
        for partition, count in self._portions(left) if left else []:
            for row in waiting.get(partition, [])[:count]:
                brought.append(self._message(partition, row))
                self._next[partition] = self._topic.stream[partition][row].offset + 1
        for partition in self._next:
            if not self._waiting(partition) and partition not in self._told_end:
                self._told_end.add(partition)
                end = KafkaError(KafkaError._PARTITION_EOF)
                offset = max(self._next[partition], self._topic.end[partition])
                brought.append(KafkaMessage(topic=self._topic.name, partition=partition, offset=offset, error=end))
        return brought

    def _waiting(self, partition: int) -> list[int]:
        end = self._topic.end[partition]
        return [
            row
            for row, message in enumerate(self._topic.stream[partition])
            if self._next[partition] <= message.offset < end
        ]

    def _message(self, partition: int, row: int) -> KafkaMessage:
        message = self._topic.stream[partition][row]
        kind = TIMESTAMP_LOG_APPEND_TIME if self._topic.broker_time else TIMESTAMP_CREATE_TIME
        return KafkaMessage(
            topic=self._topic.name,
            partition=partition,
            offset=message.offset,
            key=None if row % 3 == 0 else b"key",
            value=self._topic.values[partition][row],
            timestamp=(kind, message.arrival_us // 1_000),
        )
