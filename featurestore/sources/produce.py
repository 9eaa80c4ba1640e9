"""Send files to a topic: JSON lines as they are, Parquet rows as JSON objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from featurestore.errors import ConfigError, SourceError
from featurestore.sources.client import client_settings, kafka_error, make_client

FLUSH_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Produced:
    """How many messages the broker has acknowledged, and how many bytes their values have."""

    messages: int
    value_bytes: int


class MessageSender:
    """A producer that keeps every delivery's result. Raises BrokerUnavailableError, ConfigError when made or flushed."""

    def __init__(self, bootstrap_servers: str, topic: str, settings: Mapping[str, str]) -> None:
        shared = client_settings(bootstrap_servers, settings)
        defaults = {"linger.ms": 5, "queue.buffering.max.messages": 200_000, "message.timeout.ms": 30_000}
        self._servers = bootstrap_servers
        self._topic = topic
        self._producer = make_client(Producer, {**defaults, **shared})
        self._error: KafkaError | None = None
        self._delivered = 0
        self._bytes = 0
        try:
            self._producer.list_topics(topic, timeout=5.0)
        except KafkaException as error:
            raise kafka_error(error, bootstrap_servers, f"sending to topic '{topic}'") from error

    def send(self, value: bytes, key: bytes | None = None, partition: int | None = None) -> None:
        """Queue one message; waits when the queue is full."""
        place = {} if partition is None else {"partition": partition}
        while True:
            try:
                self._producer.produce(self._topic, value, key=key, on_delivery=self._note, **place)
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.1)

    def flush(self) -> Produced:
        """Wait until the broker has everything. Raises SourceError when a message was not delivered."""
        left = self._producer.flush(FLUSH_TIMEOUT_S)
        if self._error is not None:
            raise kafka_error(self._error, self._servers, f"sending to topic '{self._topic}'")
        if left:
            raise SourceError(f"{left} messages to topic '{self._topic}' were not acknowledged in {FLUSH_TIMEOUT_S:.0f} s")
        return Produced(self._delivered, self._bytes)

    def _note(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._error = error
        else:
            self._delivered += 1
            self._bytes += len(message.value() or b"")


def read_messages(path: Path, key_column: str | None = None) -> Iterator[tuple[bytes | None, bytes]]:
    """(key, value) of each row of a JSON-lines or Parquet file.

    Raises ConfigError when the file is missing, of another kind, or lacks the key column.
    """
    if not path.exists():
        raise ConfigError(f"file {path} does not exist")
    if path.suffix == ".parquet":
        yield from _parquet_messages(path, key_column)
    elif path.suffix in (".jsonl", ".ndjson", ".json"):
        yield from _json_messages(path, key_column)
    else:
        raise ConfigError(f"file {path} is neither JSON lines nor Parquet", hint="name it .jsonl, .ndjson, .json or .parquet")


def _json_messages(path: Path, key_column: str | None) -> Iterator[tuple[bytes | None, bytes]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            value = line.rstrip(b"\r\n")
            if not value:
                continue
            key = None
            if key_column is not None:
                try:
                    row = msgspec.json.decode(value, type=dict[str, object])
                except msgspec.DecodeError as error:
                    raise ConfigError(f"{path} line {number}: {error}") from error
                key = _key(row, key_column, f"{path} line {number}")
            yield key, value


def _parquet_messages(path: Path, key_column: str | None) -> Iterator[tuple[bytes | None, bytes]]:
    for batch in pl.read_parquet(path).iter_slices(50_000):
        for row in batch.iter_rows(named=True):
            key = None if key_column is None else _key(row, key_column, str(path))
            yield key, msgspec.json.encode(row)


def _key(row: Mapping[str, object], column: str, place: str) -> bytes | None:
    if column not in row:
        raise ConfigError(f"{place} has no field '{column}' for the key", hint=f"fields: {', '.join(row)}")
    value = row[column]
    return None if value is None else str(value).encode()


def produce(
    bootstrap_servers: str,
    topic: str,
    messages: Iterable[tuple[bytes | None, bytes]],
    settings: Mapping[str, str],
    *,
    progress: Callable[[int], None] = lambda sent: None,
) -> Produced:
    """Send messages to a topic and wait until the broker has them all. progress: told the number sent, now and then."""
    sender = MessageSender(bootstrap_servers, topic, settings)
    for sent, (key, value) in enumerate(messages, start=1):
        sender.send(value, key)
        if sent % 10_000 == 0:
            progress(sent)
    return sender.flush()
