"""The reader over the embedded broker and over a real one: the same tests, the same results."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from featurestore.errors import ConfigError, OffsetGapError
from featurestore.sources.consumer import ResumePoint, SourceReader
from featurestore.sources.produce import MessageSender
from featurestore.sources.topics import describe_topic
from tests.conftest import TopicAt
from tests.sources.support import (
    SECOND,
    T0_MS,
    T0_US,
    Clock,
    Read,
    make_reader,
    payment,
    poll_until,
    read_to_end,
    rows,
    source,
)  # fmt: skip

AT_END = {"idle", "empty"}


class Topic:
    """A fresh topic, and readers of it that are closed after the test."""

    def __init__(self, at: TopicAt, folder: Path) -> None:
        self.at = at
        self.folder = folder
        self.clock = Clock()
        self.spec = source(topic=at.topic)
        self._sender = MessageSender(at.address, at.topic, {})
        self._readers: list[SourceReader] = []

    def send(self, *placed: tuple[int, bytes | None]) -> None:
        for partition, value in placed:
            self._sender.send(value, b"key", partition)
        self._sender.flush()

    def reader(self, **options: object) -> SourceReader:
        clocks = {"clock": self.clock.wall, "monotonic": self.clock.monotonic}
        reader = make_reader(self.spec, self.at.address, self.folder, **{**clocks, **options})  # type: ignore[arg-type]
        self._readers.append(reader)
        return reader

    def close(self) -> None:
        for reader in self._readers:
            reader.close()


@pytest.fixture
def topic(any_topic: TopicAt, tmp_path: Path) -> Iterator[Topic]:
    one = Topic(any_topic, tmp_path / "verdicts")
    yield one
    one.close()


def test_every_message_comes_once_with_its_verdict(topic: Topic) -> None:
    sent = []
    for n in range(400):
        bad = b"?" if n % 10 == 3 else None if n % 10 == 4 else payment(T0_MS - 100_000) if n % 40 == 35 else b""
        sent.append((n % 4, bad if bad != b"" else payment(T0_MS + n, card=f"c{n}")))
    topic.send(*sent)
    reader = topic.reader(stop_at=dict.fromkeys(range(4), 100), max_messages=64)
    read = poll_until(reader, lambda read: reader.finished)
    assert read.offsets == {partition: list(range(100)) for partition in range(4)}
    assert read.states() == dict.fromkeys(range(4), "ended")
    dead = read.frame("dead")
    assert dict(dead["reason"].value_counts().rows()) == {"malformed": 40, "tombstone": 40}
    assert set(dead["key"]) == {b"key"}
    late = [(n % 4, n // 4) for n in range(400) if n % 40 == 35]
    assert rows(read.frame("late"), "_partition", "_offset") == sorted(late)
    cards = {(n % 4, n // 4): f"c{n}" for n in range(400) if n % 10 not in (3, 4) and n % 40 != 35}
    accepted = read.frame("accepted")
    assert {(p, o): card for p, o, card in rows(accepted, "_partition", "_offset", "card_id")} == cards
    assert [read.last(p).max_event_time_us for p in range(4)] == [
        max(T0_US + n * 1_000 for n in range(400) if (n % 4, n // 4) in cards and n % 4 == p) for p in range(4)
    ]
    assert [(read.last(p).next_offset, reader.poll(0)) for p in range(4)] == [(100, None)] * 4


def test_it_resumes_at_the_given_offset_with_the_given_maximum(topic: Topic) -> None:
    topic.send(*((0, payment(T0_MS - n * 20_000)) for n in range(6)))
    whole = poll_until(topic.reader(partitions=[0]), lambda read: len(read.offsets.get(0, [])) == 6)
    assert rows(whole.frame("late"), "_offset") == [4, 5]
    resumed = topic.reader(partitions=[0], resume={0: ResumePoint(2, T0_US)})
    again = poll_until(resumed, lambda read: len(read.offsets.get(0, [])) == 4)
    assert again.offsets == {0: [2, 3, 4, 5]}
    assert again.frame("accepted").equals(whole.frame("accepted").filter(pl.col("_offset") >= 2))
    assert again.frame("late").equals(whole.frame("late"))


def test_a_bounded_run_stops_at_its_recorded_ends(topic: Topic) -> None:
    topic.send(*((n % 2, payment(T0_MS + n)) for n in range(20)))
    topic.send((2, b"?"))
    # 0: in the middle; 1: begins at its end; 2: only a dead letter; 3: nothing at all.
    stop_at = {0: 4, 1: 5, 2: 1, 3: 0}
    reader = topic.reader(stop_at=stop_at, resume={1: ResumePoint(5, T0_US)})
    read = poll_until(reader, lambda read: reader.finished)
    assert read.offsets == {0: [0, 1, 2, 3], 2: [0]}
    assert read.states() == {0: "ended", 1: "ended", 2: "empty", 3: "empty"}
    assert {p: read.last(p).next_offset for p in range(4)} == stop_at
    topic.send((0, payment()), (3, payment()))
    assert [reader.poll(0.05) for _ in range(5)] == [None] * 5


def test_a_partition_is_idle_when_nothing_came_for_the_idle_timeout(topic: Topic) -> None:
    topic.send((0, payment()), (1, b"?"))
    reader = topic.reader()
    read = poll_until(reader, lambda read: read.states() == {0: "active", 1: "empty", 2: "empty", 3: "empty"})
    topic.clock.seconds += 29.9
    for _ in range(10):
        read.add(reader.poll(0.02))
    assert read.states()[0] == "active"
    topic.clock.seconds += 0.2
    poll_until(reader, lambda read: read.states()[0] == "idle", read)
    told = len(read.progress[0])
    topic.clock.seconds += 100
    assert [reader.poll(0.02) for _ in range(5)] == [None] * 5, "told once"
    topic.send((0, payment(T0_MS + 1)), (1, payment()))
    poll_until(reader, lambda read: len(read.progress[0]) > told and read.states()[1] == "active", read)
    assert read.states() == {0: "active", 1: "active", 2: "empty", 3: "empty"}


def test_a_partition_is_not_idle_before_its_end_was_met(topic: Topic) -> None:
    topic.send(*((0, payment(T0_MS + n)) for n in range(50)))
    reader = topic.reader(partitions=[0], max_messages=10)
    read = Read()
    while len(read.offsets.get(0, [])) < 40:
        topic.clock.seconds += 100
        read.add(reader.poll(0.05))
        if read.progress:
            assert read.states() == {0: "active"}
    poll_until(reader, lambda read: len(read.offsets[0]) == 50, read)


def test_an_offset_that_is_not_in_the_log_is_told(topic: Topic) -> None:
    topic.send((0, payment()))
    generation = describe_topic(topic.at.address, topic.at.topic, {}).generation if topic.at.kind == "kafka" else "none"
    reader = topic.reader(partitions=[0], resume={0: 100}, generation=generation)
    with pytest.raises(OffsetGapError, match="partition 0"):
        poll_until(reader, lambda read: False)


def test_lag_is_what_is_left(topic: Topic) -> None:
    topic.send(*((0, payment()) for _ in range(30)))
    reader = topic.reader(max_messages=10)
    assert reader.lag() == {}
    read = poll_until(reader, lambda read: len(read.offsets.get(0, [])) >= 10)
    assert reader.lag()[0] == 30 - len(read.offsets[0])
    poll_until(reader, lambda read: len(read.offsets[0]) == 30 and 1 in reader.lag(), read)
    assert reader.lag() == {0: 0, **{p: 0 for p in reader.lag() if p}}


def test_the_clocks_verdict_is_kept_when_the_reader_is_killed(topic: Topic) -> None:
    topic.send((0, payment(T0_MS + 61_000)), (0, payment(T0_MS + 59_000)))
    first = poll_until(topic.reader(partitions=[0]), lambda read: len(read.offsets.get(0, [])) == 2)
    topic.clock.now_us += 3_600 * SECOND
    # Not closed before: as after kill -9.
    again = poll_until(topic.reader(partitions=[0]), lambda read: len(read.offsets.get(0, [])) == 2)
    assert rows(first.frame("dead"), "_offset") == rows(again.frame("dead"), "_offset") == [0]
    topic.clock.now_us -= 7_200 * SECOND
    back = poll_until(topic.reader(partitions=[0]), lambda read: len(read.offsets.get(0, [])) == 2)
    assert rows(back.frame("accepted"), "_offset") == [1]


def test_committing_for_tools_neither_waits_nor_fails(topic: Topic) -> None:
    topic.send((0, payment()))
    reader = topic.reader()
    reader.commit_for_tools({0: 1})
    read = poll_until(reader, lambda read: len(read.offsets.get(0, [])) == 1)
    reader.commit_for_tools({0: 1, 3: 0})
    again = poll_until(topic.reader(), lambda read: len(read.offsets.get(0, [])) == 1)
    assert again.offsets == read.offsets, "the group's offset is never read"


def test_a_poll_leaves_the_collector_as_it_was(topic: Topic) -> None:
    reader = topic.reader()
    assert gc.isenabled()
    reader.poll(0)
    assert gc.isenabled()
    gc.disable()
    try:
        reader.poll(0)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_reader_without_partitions_is_finished_at_once(tmp_path: Path) -> None:
    reader = make_reader(source(), "127.0.0.1:1", tmp_path, partitions=[], stop_at={})
    assert reader.poll(0) is None
    assert reader.finished
    assert read_to_end(reader).progress == {}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"no.such.setting": "1"}, "no.such.setting"),
        ({"fetch.wait.max.ms": "soon"}, "fetch.wait.max.ms"),
        ({"auto.offset.reset": "latest"}, "auto.offset.reset"),
        ({"group.id": "other"}, "group.id"),
        ({"enable.partition.eof": "false"}, "enable.partition.eof"),
        ({"security.protocol": "ssl", "ssl.ca.location": "/no/such/file"}, "ssl.ca.location"),
    ],
)
def test_a_wrong_setting_is_named_at_once(tmp_path: Path, settings: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        make_reader(source(), "127.0.0.1:1", tmp_path, settings=settings)
