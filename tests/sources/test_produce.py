"""A file is sent whole, or it is said what was not."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import polars as pl
import pytest

from featurestore.errors import BrokerUnavailableError, ConfigError, SourceError, TopicNotFoundError
from featurestore.sources.produce import MessageSender, Produced, produce, read_messages
from featurestore.sources.topics import wait_for_topic
from tests.conftest import TopicAt
from tests.kafka_broker import KafkaBroker


def test_lines_are_sent_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": 1.0}\r\n\n{"a":"\xc3\xbc"}\nnot json')
    assert list(read_messages(path)) == [
        (None, b'{"a": 1.0}'),
        (None, b'{"a":"\xc3\xbc"}'),
        (None, b"not json"),
    ]


def test_a_field_can_be_the_key(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text('{"id": "x"}\n{"id": 5}\n{"id": null}\n')
    assert [key for key, _ in read_messages(path, "id")] == [b"x", b"5", None]
    with pytest.raises(ConfigError, match=r"line 1 has no field 'card'"):
        list(read_messages(path, "card"))
    path.write_text('{"id": "x"}\n{')
    with pytest.raises(ConfigError, match="line 2"):
        list(read_messages(path, "id"))


def test_a_bad_line_is_told_before_the_first_message_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"id": "x"}\n' * 3_000 + '{"other": 1}\n')
    with pytest.raises(ConfigError, match=r"line 3001 has no field 'id'"):
        next(read_messages(path, "id"))


def test_parquet_rows_become_json_objects(tmp_path: Path) -> None:
    at = datetime(2026, 1, 1, tzinfo=timezone.utc)
    frame = pl.DataFrame({"id": ["ü", None], "n": [2**60, -1], "x": [1.0, 0.1], "ok": [True, False], "at": [at, at]})
    frame.write_parquet(tmp_path / "events.parquet")
    messages = list(read_messages(tmp_path / "events.parquet", "id"))
    assert [key for key, _ in messages] == ["ü".encode(), None]
    assert [json.loads(value) for _, value in messages] == [
        {"id": "ü", "n": 2**60, "x": 1.0, "ok": True, "at": "2026-01-01T00:00:00Z"},
        {"id": None, "n": -1, "x": 0.1, "ok": False, "at": "2026-01-01T00:00:00Z"},
    ]


def test_a_file_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "events.csv").write_text("a,b\n")
    for name, said in (
        ("none.jsonl", "does not exist"),
        ("events.csv", "neither"),
        ("broken.parquet", "Parquet"),
    ):
        with pytest.raises(ConfigError, match=said):
            list(read_messages(tmp_path / name))


def test_all_messages_arrive_and_are_counted(any_topic: TopicAt, tmp_path: Path) -> None:
    heard: list[int] = []
    messages = [(b"k%d" % (n % 7), b"%05d" % n) for n in range(25_000)]
    sent = produce(any_topic.address, any_topic.topic, messages, {}, progress=heard.append)
    assert sent == Produced(25_000, 125_000)
    assert heard == [10_000, 20_000]
    info = wait_for_topic(any_topic.bootstrap_servers, any_topic.topic, {}, tmp_path / "data", stop=lambda: True)
    assert sum(high - low for low, high in info.partitions.values()) == 25_000


def test_a_full_queue_is_waited_for(any_topic: TopicAt) -> None:
    settings = {"queue.buffering.max.messages": "50"}
    sent = produce(any_topic.address, any_topic.topic, [(None, b"x")] * 2_000, settings)
    assert sent == Produced(2_000, 2_000)


def test_a_message_that_is_too_large_is_told(any_topic: TopicAt) -> None:
    with pytest.raises(SourceError, match=r"(?i)large"):
        produce(any_topic.address, any_topic.topic, [(None, b"x" * 2_000_000)], {})


def test_a_partition_that_is_not_there_is_told(any_topic: TopicAt) -> None:
    sender = MessageSender(any_topic.address, any_topic.topic, {})

    def send() -> None:
        sender.send(b"x", partition=99)
        sender.flush()

    with pytest.raises(SourceError, match=r"(?i)partition"):
        send()


def test_without_a_broker_nothing_is_sent() -> None:
    with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1"):
        produce("127.0.0.1:1", "t", [(None, b"x")], {})


@pytest.mark.kafka
def test_a_topic_that_the_broker_does_not_make_is_named(kafka_broker: KafkaBroker) -> None:
    with pytest.raises(TopicNotFoundError, match="'no-such-topic'"):
        produce(kafka_broker.bootstrap_servers, "no-such-topic", [(None, b"x")], {})
