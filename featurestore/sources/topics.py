"""What a topic is now: its generation, its partitions, and what of it can still be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
import tenacity
from confluent_kafka import Consumer, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from featurestore.errors import FeatureStoreError, OffsetGapError, SourceError, TopicNotFoundError
from featurestore.sources.client import client_settings, kafka_error, make_client
from featurestore.sources.embedded import EmbeddedAddress, embedded_address

log = structlog.get_logger()

REQUEST_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class TopicInfo:
    """A topic. generation: unlike for a topic made again under the same name. partitions: (first, end) offsets."""

    generation: str
    partitions: dict[int, tuple[int, int]]


def describe_topic(
    bootstrap_servers: str, topic: str, settings: Mapping[str, str], embedded: EmbeddedAddress | None = None
) -> TopicInfo:
    """Ask the broker about a topic.

    embedded: the embedded broker's address file, when it is the one asked; it knows no topic ids. Raises
    BrokerUnavailableError, TopicNotFoundError, ConfigError.
    """
    shared = client_settings(bootstrap_servers, settings)
    consumer = make_client(Consumer, {**shared, "group.id": "featurestore-describe", "enable.auto.commit": False})
    try:
        metadata = consumer.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic]
        if metadata.error is not None or not metadata.partitions:
            raise TopicNotFoundError(
                f"topic '{topic}' does not exist at {bootstrap_servers}",
                hint="create it, or send to it first: featurestore produce TOPIC FILE",
            )
        partitions = {
            partition: consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=REQUEST_TIMEOUT_S)
            for partition in sorted(metadata.partitions)
        }
    except KafkaException as error:
        raise kafka_error(error, bootstrap_servers, f"describing topic '{topic}'") from error
    finally:
        consumer.close()
    generation = embedded.generation if embedded else _topic_id(shared, bootstrap_servers, topic)
    return TopicInfo(generation, partitions)


def _topic_id(settings: dict[str, object], bootstrap_servers: str, topic: str) -> str:
    admin = make_client(AdminClient, dict(settings))
    try:
        futures = admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_S)
        identifier = str(futures[topic].result().topic_id)
    except KafkaException as error:
        raise kafka_error(error, bootstrap_servers, f"describing topic '{topic}'") from error
    # Base64 of Kafka's ids may hold "/" (not in the URL-safe form) and begins file names here.
    return "".join(char if char.isalnum() or char in "-_" else "_" for char in identifier)


def wait_for_topic(
    bootstrap_servers: str,
    topic: str,
    settings: Mapping[str, str],
    data_dir: Path,
    *,
    stop: Callable[[], bool],
) -> TopicInfo:
    """`describe_topic`, tried again with backoff while the broker or the topic is not there, one log line a try.

    bootstrap_servers: an address, or "embedded". stop: ends the waiting with the last error.
    """

    def attempt() -> TopicInfo:
        if bootstrap_servers != "embedded":
            return describe_topic(bootstrap_servers, topic, settings)
        address = embedded_address(data_dir)
        return describe_topic(address.bootstrap_servers, topic, settings, address)

    def log_try(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, FeatureStoreError) and state.next_action
        wait_s = round(state.next_action.sleep, 1)
        log.warning("waiting_for_topic", topic=topic, error=error.message, hint=error.hint, retry_in_s=wait_s)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, SourceError) and error.retryable),
        wait=tenacity.wait_exponential(multiplier=0.5, max=15),
        stop=lambda state: stop(),
        sleep=lambda seconds: _sleep(seconds, stop),
        before_sleep=log_try,
        reraise=True,
    )
    return retrying(attempt)


def _sleep(seconds: float, stop: Callable[[], bool]) -> None:
    import time

    until = time.monotonic() + seconds
    while not stop() and time.monotonic() < until:
        time.sleep(0.05)


def check_resume(topic: str, partition: int, resume_offset: int, first: int, end: int) -> None:
    """Refuse to read on where the log can't give what is still needed.

    Raises OffsetGapError when the first readable offset is past the resume point (retention removed events), or the
    log's end is before it in the same generation (the log was cut).
    """
    if first > resume_offset:
        raise OffsetGapError(
            f"topic '{topic}' partition {partition}: offsets {resume_offset} to {first - 1} are still needed, but the "
            f"broker keeps only those from {first} on",
            hint="lengthen the topic's retention; to begin again without them, use a new data_dir",
        )
    if end < resume_offset:
        raise OffsetGapError(
            f"topic '{topic}' partition {partition} ends at {end}, but offset {resume_offset} was already read",
            hint="the topic's log was cut (an unclean leader election?); to begin again, use a new data_dir",
        )
