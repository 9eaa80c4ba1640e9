"""What the tests of faults share: load that goes on, what the topic holds, and both lengths of a test."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, TopicPartition

from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.offline.read import archive_counts
from featurestore.sources.produce import MessageSender
from tests import oracle
from tests.integration.project import Project, Stores, read_stores
from tests.integration.road import assert_stores_agree_with_the_oracle
from tests.integration.test_road import PARAMS, VIEWS
from tests.oracle import Message, SourceParams
from tests.oracle.wire import Column

MODULE = "pipelines/transactions.py"
LONG = os.environ.get("FEATURESTORE_TEST_FAULTS") == "long"
EVENTS_PER_S = 1_000
EVENTS_MAX = 4_000_000
PATIENT = {"message.timeout.ms": "300000", "topic.metadata.refresh.interval.ms": "500"}
"""Settings of a sender that outlives a broker's absence, and soon hears of new partitions."""
COLUMNS = {
    **{name: Column("String") for name in ("transaction_id", "card_id", "merchant_id", "currency", "status")},
    "amount": Column("Float64"),
    "fx_rate": Column("Float64", default=1.0),
    "country": Column("String", nullable=True, default=None),
    "ts": Column("Datetime", unit="ms"),
}


def shorter_or(long: float, short: float) -> float:
    """`short` in CI, `long` with FEATURESTORE_TEST_FAULTS=long."""
    return long if LONG else short


class Load(threading.Thread):
    """Sends card payments at a steady pace until it is stopped; a broker that is away delays them.

    again: every this many messages the last five are sent once more, 0 for never. live: event times are those of now,
    else they pass 400 times as fast, and lie so long ago that none of an hour's run is of the future.
    """

    def __init__(
        self,
        servers: str,
        topic: str,
        partitions: int,
        seed: int,
        *,
        again: int = 0,
        events_per_s: int = EVENTS_PER_S,
        live: bool = False,
    ) -> None:
        super().__init__(daemon=True)
        self._servers = servers
        self._topic = topic
        self.partitions = partitions
        self._again = again
        self._events_per_s = events_per_s
        start = datetime.now(timezone.utc).isoformat() if live else "2026-01-05T08:00:00Z"
        duration_s = (1.0 if live else 400.0) * EVENTS_MAX / events_per_s
        shape = Shape(events=EVENTS_MAX, cards=200, start=start, duration_s=duration_s)
        self._stream = iter(TransactionStream(shape, seed=seed))
        self._stopped = threading.Event()
        self.sent = 0

    def run(self) -> None:
        sender = MessageSender(self._servers, self._topic, PATIENT)
        last: list[tuple[int, bytes | None, bytes]] = []
        while not self._stopped.is_set():
            for _ in range(self._events_per_s // 10):
                key, value = next(self._stream)
                last = [*last[-4:], (self.sent % self.partitions, key, value)]
                self.sent += 1
                repeated = last if self._again and self.sent % self._again == 0 else []
                for partition, known_key, known_value in [last[-1], *repeated]:
                    sender.send(known_value, known_key, partition=partition)
            time.sleep(0.1)
        sender.flush()

    def stop(self) -> None:
        self._stopped.set()
        self.join(120)
        assert not self.is_alive(), "all that was sent has arrived"


def committed_log(servers: str, topic: str, partitions: int) -> list[tuple[int, int, bytes | None]]:
    """(partition, offset, value) of every message that a reader of committed messages gets, by a plain consumer."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "plain",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    found: list[tuple[int, int, bytes | None]] = []
    ended: set[int | None] = set()
    deadline = time.monotonic() + 30
    while len(ended) < partitions:
        assert time.monotonic() < deadline, "the topic's end"
        for message in consumer.consume(5_000, 0.2):
            error, number, offset = message.error(), message.partition(), message.offset()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                ended.add(number)
            else:
                assert number is not None
                assert offset is not None
                found.append((number, offset, message.value()))
    consumer.close()
    return sorted(found, key=lambda one: one[:2])


def as_oracle_messages(log: Iterable[tuple[int, int, bytes | None]]) -> list[Message]:
    """What the oracle is told of a log, with the offsets that the messages really have."""
    read = [(partition, offset, oracle.read_json(value, COLUMNS, "ts")) for partition, offset, value in log]
    # Arrivals so late that no event lies in the future.
    return [Message(partition, offset, event, 2**61, reason) for partition, offset, (event, reason) in read]


def assert_stores_hold(
    project: Project, log: list[tuple[int, int, bytes | None]], params: SourceParams = PARAMS
) -> Stores:
    """Both stores are those of the oracle for this log, and every message of it is counted in exactly one place."""
    messages = as_oracle_messages(log)
    stores = read_stores(project)
    assert_stores_agree_with_the_oracle(stores, messages, params, VIEWS, close_windows=False)
    counts = archive_counts(project.data_dir / "offline", "transactions")
    told = oracle.source_counts(oracle.judge(messages, params))
    assert (counts.accepted, counts.late, sum(counts.dead_letters.values()), counts.duplicates) == (
        told.accepted,
        told.too_late,
        told.dead,
        told.duplicates,
    )
    assert counts.read == len(log)
    return stores


def change_pipeline(project: Project, old: str, new: str) -> None:
    """Replace text in the project's pipeline."""
    path = project.folder / MODULE
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def wait_for(condition: Callable[[], object], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)
