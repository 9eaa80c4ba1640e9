"""A replay sends each message at most once, whatever step it dies after; a crash loses none either."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from featurestore.errors import SourceError, StoreFormatError, StoreLockedError
from featurestore.sources import replay as replaying
from featurestore.sources.fetch import MessageFetcher
from featurestore.sources.produce import MessageSender
from featurestore.sources.replay import ORIGIN_HEADER, Replayable, Replayer, Settled
from featurestore.sources.replay_journal import Begun, Origin, journal_path, open_journal, read_replayed
from featurestore.sources.topics import TopicInfo, look_at_topic
from tests.conftest import TopicAt

POINTS = ("begun", "produced", "committed", "settled")


class KilledError(Exception):
    """The process ended here."""


def dies_at(point: str, times: int = 1):
    left = [times]

    def crash_point(name: str) -> None:
        if name == point:
            left[0] -= 1
            if left[0] == 0:
                raise KilledError

    return crash_point


def letters(count: int, generation: str = "g") -> list[Replayable]:
    return [Replayable(Origin(generation, n % 4, n), f"k{n}".encode(), f"v{n}".encode()) for n in range(count)]


class Place:
    """A topic and a data_dir."""

    def __init__(self, at: TopicAt, data_dir: Path) -> None:
        self.at = at
        self.data_dir = data_dir
        MessageSender(at.address, at.topic, {}).flush()

    def describe(self) -> TopicInfo:
        return look_at_topic(self.at.bootstrap_servers, self.at.topic, {}, self.data_dir)

    def replay(self, messages: list[Replayable], **options: object) -> tuple[int, Settled]:
        with open_journal(self.data_dir, "payments") as journal:
            replayer = Replayer(self.at.address, self.at.topic, {}, "replay", journal, self.describe, **options)
            return replayer.replay(messages), replayer.settled

    def arrived(self) -> list[tuple[int, bytes | None, bytes | None, bytes]]:
        # A commit is answered before the broker has written it into every partition.
        until = time.monotonic() + 5
        everything = {"isolation.level": "read_uncommitted"}
        while (
            look_at_topic(self.at.bootstrap_servers, self.at.topic, everything, self.data_dir) != self.describe()
            and time.monotonic() < until
        ):
            time.sleep(0.05)
        fetcher = MessageFetcher(self.at.address, self.at.topic, {})
        try:
            return [
                (partition, message.key(), message.value(), dict(message.headers() or [])[ORIGIN_HEADER])
                for partition, (first, end) in self.describe().partitions.items()
                if first < end
                for message in fetcher.span(partition, first)
            ]
        finally:
            fetcher.close()


@pytest.fixture
def place(any_topic: TopicAt, tmp_path: Path) -> Place:
    return Place(any_topic, tmp_path / "data")


def test_bytes_partition_and_origin_arrive_as_they_were(place: Place):
    sent, settled = place.replay([*letters(10), Replayable(Origin("g", 3, 77), None, b"\xff\x00")])
    assert (sent, settled) == (11, Settled())
    topic = place.at.topic
    wanted = [(n % 4, f"k{n}".encode(), f"v{n}".encode(), f"{topic}/g/{n % 4}/{n}".encode()) for n in range(10)]
    assert sorted(place.arrived(), key=repr) == sorted(
        [*wanted, (3, None, b"\xff\x00", f"{topic}/g/3/77".encode())], key=repr
    )


def test_a_second_replay_sends_nothing_again(place: Place):
    assert place.replay(letters(5))[0] == 5
    assert place.replay(letters(7))[0] == 2
    assert len(place.arrived()) == 7
    assert read_replayed(journal_path(place.data_dir, "payments")) == {letter.origin for letter in letters(7)}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("chunk", [1, 2])
def test_a_crash_after_any_step_neither_repeats_nor_loses(
    place: Place, point: str, chunk: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(replaying, "CHUNK", 4)
    with pytest.raises(KilledError):
        place.replay(letters(12), crash_point=dies_at(point, chunk))
    place.replay(letters(12))
    counts = Counter(value for _, _, value, _ in place.arrived())
    assert counts == {f"v{n}".encode(): 1 for n in range(12)}


@pytest.mark.parametrize("point", POINTS[:3])
def test_a_crash_again_while_settling_changes_nothing(place: Place, point: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(replaying, "CHUNK", 4)
    for _ in range(3):
        with pytest.raises(KilledError):
            place.replay(letters(12), crash_point=dies_at(point))
    place.replay(letters(12))
    assert Counter(value for _, _, value, _ in place.arrived()) == {f"v{n}".encode(): 1 for n in range(12)}


def test_until_it_is_settled_a_chunk_counts_as_sent(place: Place):
    with pytest.raises(KilledError):
        place.replay(letters(3), crash_point=dies_at("begun"))
    path = journal_path(place.data_dir, "payments")
    assert len(read_replayed(path)) == 3
    assert place.replay([])[1] == Settled(absent=3)
    assert read_replayed(path) == set()


def test_what_can_not_be_known_is_not_sent_again_and_told(place: Place):
    """A chunk that went to another generation of the topic, or behind offsets that the topic has forgotten."""
    with open_journal(place.data_dir, "payments") as journal:
        journal.begin(Begun("c", "now", "another", {0: 0}, [letter.origin for letter in letters(3)]))
    sent, settled = place.replay(letters(5))
    assert (sent, settled) == (2, Settled(unknown=3))


@pytest.mark.kafka
def test_a_zombie_can_not_send_after_it_was_replaced(kafka_broker, tmp_path: Path):
    """What a killed replay still has under way can't arrive behind the back of the next one (a real broker fences)."""
    topic = kafka_broker.create_topic(f"zombie-{os.urandom(4).hex()}", 4)
    servers = kafka_broker.bootstrap_servers
    place = Place(TopicAt("kafka", servers, servers, topic, 4), tmp_path)

    def take_over(point: str) -> None:
        if point == "produced":
            with open_journal(tmp_path, "another") as free:
                Replayer(servers, topic, {}, "replay", free, place.describe)

    with pytest.raises(SourceError, match=r"[Ff]enced|epoch"):
        place.replay(letters(2), crash_point=take_over)
    assert place.arrived() == []


def test_one_replay_of_a_source_at_a_time(tmp_path: Path):
    with open_journal(tmp_path, "payments"):
        with pytest.raises(StoreLockedError, match="payments"), open_journal(tmp_path, "payments"):
            pass
        with open_journal(tmp_path, "other"):
            pass


def test_a_torn_line_was_never_followed_by_a_message(tmp_path: Path):
    with open_journal(tmp_path, "payments") as journal:
        journal.begin(Begun("c", "now", "g", {}, [Origin("g", 0, 1)]))
        journal.settle([Origin("g", 0, 1)], "now")
    path = journal_path(tmp_path, "payments")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: os.path.getsize(path) // 3])
    assert read_replayed(path) == {Origin("g", 0, 1)}
    with open_journal(tmp_path, "payments") as journal:
        assert journal.unsettled is None
    assert path.read_bytes() == whole


def test_a_damaged_journal_is_named(tmp_path: Path):
    path = journal_path(tmp_path, "payments")
    path.parent.mkdir(parents=True)
    path.write_text('{"type": "nonsense"}\n')
    with pytest.raises(StoreFormatError, match=r"journal\.jsonl line 1"):
        read_replayed(path)
