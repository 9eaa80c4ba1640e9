"""Send files to a topic: JSON lines as they are, Parquet rows as JSON objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from featurestore.errors import ConfigError, SourceError, TopicNotFoundError
from featurestore.sources.client import client_settings, kafka_error, make_client

FLUSH_TIMEOUT_S = 30.0
TOPIC_TIMEOUT_S = 5.0
ROWS_AT_ONCE = 50_000
PROGRESS_EVERY = 10_000


@dataclass(frozen=True)
class Produced:
    """How many messages the broker has acknowledged, and how many bytes their values have."""

    messages: int
    value_bytes: int


class MessageSender:
    """A producer that keeps every delivery's result; messages of one key keep their order.

    Raises BrokerUnavailableError, TopicNotFoundError (the broker does not create topics), ConfigError when
    made; SourceError for what was not delivered.
    """

    def __init__(self, bootstrap_servers: str, topic: str, settings: Mapping[str, str]) -> None:
        defaults = {
            # Retries neither repeat a message nor change their order.
            "enable.idempotence": True,
            "linger.ms": 5,
            "queue.buffering.max.messages": 200_000,
            "message.timeout.ms": 30_000,
        }
        self._servers = bootstrap_servers
        self._topic = topic
        self._doing = f"sending to topic '{topic}'"
        self._producer = make_client(Producer, {**defaults, **client_settings(bootstrap_servers, settings)})
        self._error: KafkaError | None = None
        self._sent = 0
        self._delivered = 0
        self._bytes = 0
        self._wait_for_topic()

    def send(self, value: bytes | None, key: bytes | None = None, partition: int | None = None) -> None:
        """Queue one message; waits when the queue is full. partition: None for the one that the key gives."""
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value,
                    key=key,
                    partition=-1 if partition is None else partition,
                    on_delivery=self._note,
                )
                break
            except BufferError:
                self._producer.poll(0.1)
                self._raise_undelivered()
            except KafkaException as error:  # larger than the broker takes, no such partition
                raise kafka_error(error, self._servers, self._doing) from error
        self._sent += 1
        if self._sent % 1_000 == 0:
            self._producer.poll(0)
            self._raise_undelivered()

    def flush(self) -> Produced:
        """Wait until the broker has everything; as long as deliveries go on, this may take its time."""
        left = len(self._producer)
        while left:
            before, left = left, self._producer.flush(FLUSH_TIMEOUT_S)
            self._raise_undelivered()
            if left >= before:
                raise SourceError(
                    f"{self._doing}: {left} messages were not acknowledged within {FLUSH_TIMEOUT_S:.0f} s",
                    hint="look at the broker's log",
                )
        self._producer.poll(0)
        self._raise_undelivered()
        return Produced(self._delivered, self._bytes)

    def _wait_for_topic(self) -> None:
        until = time.monotonic() + TOPIC_TIMEOUT_S
        while True:
            try:
                found = self._producer.list_topics(self._topic, timeout=TOPIC_TIMEOUT_S).topics[self._topic]
            except KafkaException as error:
                raise kafka_error(error, self._servers, self._doing) from error
            if found.partitions:
                return
            # A broker that creates topics on first use needs a moment.
            if time.monotonic() > until:
                raise TopicNotFoundError(
                    f"topic '{self._topic}' does not exist at {self._servers}",
                    hint="create it: this broker does not make topics on first use",
                )
            time.sleep(0.1)

    def _raise_undelivered(self) -> None:
        if self._error is not None:
            raise kafka_error(self._error, self._servers, self._doing)

    def _note(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._error = error
        else:
            self._delivered += 1
            self._bytes += len(message.value() or b"")


def read_messages(path: Path, key_column: str | None = None) -> Iterator[tuple[bytes | None, bytes]]:
    """(key, value) of each row of a JSON-lines or Parquet file.

    Lines are sent as they are, empty ones left out. Of Parquet rows times become ISO 8601 text and binary
    base64. Raises ConfigError, before the first message, when the file is missing, of another kind, or a row lacks
    the key column.
    """
    if not path.is_file():
        raise ConfigError(f"file {path} does not exist")
    if path.suffix == ".parquet":
        yield from _parquet_messages(path, key_column)
    elif path.suffix in (".jsonl", ".ndjson", ".json"):
        yield from _json_messages(path, key_column)
    else:
        raise ConfigError(
            f"file {path} is neither JSON lines nor Parquet",
            hint="name it .jsonl, .ndjson, .json or .parquet",
        )


def _json_messages(path: Path, key_column: str | None) -> Iterator[tuple[bytes | None, bytes]]:
    if key_column is not None:
        # A bad line is found before the first message is sent: afterwards nobody could tell what to send again.
        for _ in _json_lines(path, key_column):
            pass
    yield from _json_lines(path, key_column)


def _json_lines(path: Path, key_column: str | None) -> Iterator[tuple[bytes | None, bytes]]:
    decode = msgspec.json.Decoder(dict[str, object]).decode
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            value = line.rstrip(b"\r\n")
            if not value:
                continue
            key = None
            if key_column is not None:
                try:
                    row = decode(value)
                except msgspec.DecodeError as error:
                    raise ConfigError(f"{path} line {number}: {error}") from error
                key = _key(row, key_column, f"{path} line {number}")
            yield key, value


def _parquet_messages(path: Path, key_column: str | None) -> Iterator[tuple[bytes | None, bytes]]:
    encode = msgspec.json.Encoder().encode
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"file {path} can't be read as Parquet: {error}") from error
    for batch in frame.iter_slices(ROWS_AT_ONCE):
        for row in batch.iter_rows(named=True):
            yield None if key_column is None else _key(row, key_column, str(path)), encode(row)


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
    """Send (key, value) messages to a topic and wait until the broker has them all.

    progress: told the number of messages sent, now and then. Raises as `MessageSender` does.
    """
    sender = MessageSender(bootstrap_servers, topic, settings)
    for sent, (key, value) in enumerate(messages, start=1):
        sender.send(value, key)
        if sent % PROGRESS_EVERY == 0:
            progress(sent)
    return sender.flush()
