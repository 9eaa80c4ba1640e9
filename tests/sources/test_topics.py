"""What a topic is, how long to wait for it, and where to read on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import (
    BrokerUnavailableError,
    ConfigError,
    OffsetGapError,
    SourceError,
    TopicNotFoundError,
)  # fmt: skip
from featurestore.sources.embedded import EmbeddedBroker
from featurestore.sources.produce import MessageSender
from featurestore.sources.topics import ReadFrom, check_resume, describe_topic, wait_for_topic
from tests.conftest import TopicAt
from tests.kafka_broker import KafkaBroker

NOWHERE = "127.0.0.1:1"


@given(resume=st.integers(0, 20), first=st.integers(0, 20), length=st.integers(0, 20), accept=st.booleans())
def test_reading_goes_on_exactly_where_nothing_is_lost_unless_a_gap_is_accepted(
    resume: int, first: int, length: int, accept: bool
) -> None:
    end = first + length
    place = "topic 't' partition 3"
    if end < resume or (first > resume and not accept):
        with pytest.raises(OffsetGapError, match=place):
            check_resume(resume, first, end, place=place, accept_gap=accept)
    else:
        decision = check_resume(resume, first, end, place=place, accept_gap=accept)
        assert decision == ReadFrom(max(resume, first), max(0, first - resume))
        assert first <= decision.offset <= end


def test_a_gap_is_named() -> None:
    with pytest.raises(OffsetGapError, match="offsets 5 to 9 are still needed"):
        check_resume(5, 10, 20)
    with pytest.raises(OffsetGapError, match="ends at offset 20, but everything below 21 was read"):
        check_resume(21, 0, 20, accept_gap=True)


def test_a_topic_has_its_partitions_and_ends(any_topic: TopicAt, tmp_path: Path) -> None:
    sender = MessageSender(any_topic.address, any_topic.topic, {})
    for partition in (0, 0, 2):
        sender.send(b"x", partition=partition)
    sender.flush()
    info = wait_for_topic(any_topic.bootstrap_servers, any_topic.topic, {}, tmp_path / "data", stop=lambda: True)
    assert info.partitions == {0: (0, 2), 1: (0, 0), 2: (0, 1), 3: (0, 0)}
    assert info.generation
    # A caller that has looked up the embedded broker's address gets the same.
    again = wait_for_topic(any_topic.address, any_topic.topic, {}, tmp_path / "data", stop=lambda: True)
    assert again == info


def test_the_embedded_brokers_generation_is_another_after_its_restart(tmp_path: Path) -> None:
    generations = set()
    for _ in range(2):
        with EmbeddedBroker(tmp_path) as broker:
            assert broker.address is not None
            MessageSender(broker.address.bootstrap_servers, "t", {})
            info = wait_for_topic("embedded", "t", {}, tmp_path, stop=lambda: True)
            generations.add(info.generation)
    assert len(generations) == 2


def test_without_the_embedded_broker_the_hint_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailableError, match="featurestore broker"):
        wait_for_topic("embedded", "t", {}, tmp_path, stop=lambda: True)


def test_a_broker_that_does_not_answer_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1 .*refused") as caught:
        wait_for_topic(NOWHERE, "t", {}, tmp_path, stop=lambda: True)
    assert caught.value.retryable


def test_waiting_tries_again_until_it_is_stopped(tmp_path: Path) -> None:
    begun = time.monotonic()
    with structlog.testing.capture_logs() as logs, pytest.raises(BrokerUnavailableError):
        wait_for_topic("embedded", "t", {}, tmp_path, stop=lambda: time.monotonic() > begun + 2)
    assert 2 <= time.monotonic() - begun < 4
    tries = [entry for entry in logs if entry["event"] == "waiting_for_topic"]
    assert 2 <= len(tries) <= 4, "one line a try, ever more rarely"


def test_waiting_ends_when_the_broker_comes(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    tries = 0

    def stop() -> bool:
        nonlocal tries
        tries += 1
        if tries == 5:
            broker.__enter__()
            assert broker.address is not None
            MessageSender(broker.address.bootstrap_servers, "t", {})
        return False

    info = wait_for_topic("embedded", "t", {}, tmp_path, stop=stop)
    broker.__exit__(None, None, None)
    assert sorted(info.partitions) == [0, 1, 2, 3]


@pytest.mark.kafka
def test_a_missing_topic_is_named_and_not_made(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(TopicNotFoundError, match="'no-such-topic'") as caught:
            wait_for_topic(kafka_broker.bootstrap_servers, "no-such-topic", {}, tmp_path, stop=lambda: True)
        assert caught.value.retryable


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"no.such.setting": "1"}, "no.such.setting"),
        ({"security.protocol": "plainest"}, "security.protocol"),
        ({"security.protocol": "ssl", "ssl.ca.location": "/no/such/file"}, "ssl.ca.location"),
        ({"security.protocol": "sasl_plaintext", "sasl.mechanisms": "PLAIN"}, "sasl.username"),
    ],
)
def test_a_wrong_setting_is_told_at_once_and_not_waited_for(
    tmp_path: Path, settings: dict[str, str], named: str
) -> None:
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        wait_for_topic(NOWHERE, "t", settings, tmp_path, stop=lambda: False)


@pytest.mark.kafka
def test_a_broker_that_speaks_no_tls_is_told_as_unreachable(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"(?i)ssl") as caught:
        describe_topic(kafka_broker.bootstrap_servers, "t", {"security.protocol": "ssl"})
    assert caught.value.retryable
