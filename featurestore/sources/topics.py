"""What a topic is now: its generation, its partitions, and what of it can still be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
import tenacity
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from featurestore.errors import (
    FeatureStoreError,
    OffsetGapError,
    SourceError,
    TopicNotFoundError,
)
from featurestore.sources.client import LEADER_MOVES, client_settings, kafka_error, make_client
from featurestore.sources.embedded import EMBEDDED, EmbeddedAddress, embedded_address

log = structlog.get_logger()

GAP_HINT = "lengthen the topic's retention; to go on without them: featurestore run … --accept-gap"
REQUEST_TIMEOUT_S = 5.0
RETRY_WAIT_S_MAX = 5.0


@dataclass(frozen=True)
class TopicInfo:
    """A topic. generation: another one once it is deleted and made again. partitions: (first, end) offset."""

    generation: str
    partitions: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class ReadFrom:
    """Where to read on. lost: how many offsets are skipped because the broker has them no more."""

    offset: int
    lost: int = 0


def made_again(topic: str) -> SourceError:
    """The error of a reader whose topic was deleted and made again under it."""
    return SourceError(
        f"topic '{topic}' was deleted and made again while it was read",
        hint="start again: the new topic is read from its beginning",
    )


def refuse_made_again(servers: str, topic: str, settings: Mapping[str, str], generation: str) -> None:
    """Raise `made_again` when the topic is another one by now; nothing when that can't be known."""
    try:
        found = describe_topic(servers, topic, settings)
    except SourceError as error:
        log.debug("topic_unknown", topic=topic, error=error.message)
        return
    if found.generation != generation:
        raise made_again(topic)


def describe_topic(
    bootstrap_servers: str,
    topic: str,
    settings: Mapping[str, str],
    embedded: EmbeddedAddress | None = None,
) -> TopicInfo:
    """Ask the broker about a topic.

    embedded: the embedded broker's address file, when it is the one asked; it knows no topic ids. Raises
    BrokerUnavailableError, TopicNotFoundError, ConfigError.
    """
    said: list[str] = []
    shared = client_settings(bootstrap_servers, settings)
    shared["error_cb"] = lambda error: said.append(error.str())
    group = {"group.id": "featurestore-describe", "enable.auto.commit": False}
    consumer = make_client(Consumer, {**shared, **group})
    try:
        metadata = consumer.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic]
        if metadata.error is not None and metadata.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise kafka_error(metadata.error, bootstrap_servers, f"describing topic '{topic}'")
        if not metadata.partitions:
            raise TopicNotFoundError(
                f"topic '{topic}' does not exist at {bootstrap_servers}",
                hint="create it, or send to it first: featurestore produce TOPIC FILE",
            )
        partitions = {
            partition: _offsets(consumer, TopicPartition(topic, partition)) for partition in sorted(metadata.partitions)
        }
        generation = embedded.generation if embedded else _topic_id(shared, topic)
    except KafkaException as error:
        # What was wrong with the connection comes by the error callback, which is served here.
        consumer.poll(0)
        why = said[0] if said else None
        raise kafka_error(error, bootstrap_servers, f"describing topic '{topic}'", why) from error
    finally:
        consumer.close()
    return TopicInfo(generation, partitions)


def _offsets(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    """(first, end) offset; asked again while the partition moves to another leader, or has none yet."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, KafkaException) and error.args[0].code() in LEADER_MOVES
        ),
        wait=tenacity.wait_fixed(0.1),
        stop=tenacity.stop_after_delay(REQUEST_TIMEOUT_S),
        reraise=True,
    )
    return retrying(consumer.get_watermark_offsets, partition, timeout=REQUEST_TIMEOUT_S)


def _topic_id(settings: dict[str, object], topic: str) -> str:
    admin = make_client(AdminClient, dict(settings))
    futures = admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_S)
    # Base64; it begins file names here, so its two signs are those of the URL-safe form.
    return str(futures[topic].result().topic_id).translate(str.maketrans("+/", "-_")).rstrip("=")


def look_at_topic(bootstrap_servers: str, topic: str, settings: Mapping[str, str], data_dir: Path) -> TopicInfo:
    """`describe_topic` of a broker that may be the embedded one, whose generation is in its address file.

    bootstrap_servers: "embedded", or an address, that of the embedded broker too. Raises what `describe_topic` raises.
    """
    if bootstrap_servers != EMBEDDED:
        return describe_topic(bootstrap_servers, topic, settings, _embedded_at(bootstrap_servers, data_dir))
    address = embedded_address(data_dir)
    return describe_topic(address.bootstrap_servers, topic, settings, address)


def wait_for_topic(
    bootstrap_servers: str,
    topic: str,
    settings: Mapping[str, str],
    data_dir: Path,
    *,
    stop: Callable[[], bool],
) -> TopicInfo:
    """`describe_topic`, tried again with backoff while broker or topic are not there, one log line a try.

    bootstrap_servers: an address, or "embedded". stop: ends the waiting with the last error. What waiting
    can't mend (a wrong setting, no right to read) is raised at once.
    """

    def attempt() -> TopicInfo:
        return look_at_topic(bootstrap_servers, topic, settings, data_dir)

    def log_try(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, FeatureStoreError)
        wait_s = round(state.upcoming_sleep, 1)
        log.warning("waiting_for_topic", topic=topic, error=error.message, hint=error.hint, retry_in_s=wait_s)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, SourceError) and error.retryable),
        wait=tenacity.wait_exponential(multiplier=0.5, max=RETRY_WAIT_S_MAX),
        stop=lambda state: stop(),
        sleep=lambda seconds: _sleep(seconds, stop),
        before_sleep=log_try,
        reraise=True,
    )
    return retrying(attempt)


def _embedded_at(bootstrap_servers: str, data_dir: Path) -> EmbeddedAddress | None:
    try:
        address = embedded_address(data_dir)
    except SourceError:
        return None
    return address if address.bootstrap_servers == bootstrap_servers else None


def _sleep(seconds: float, stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not stop() and time.monotonic() < until:
        time.sleep(0.05)


def check_resume(
    resume_offset: int, first: int, end: int, *, place: str = "the partition", accept_gap: bool = False
) -> ReadFrom:
    """Decide where to read on, given what the log still holds: offsets [first, end).

    place: names topic and partition in errors. accept_gap: read on behind what retention removed, and count
    it. Raises OffsetGapError when offsets that are still needed are gone, or the log ends before the resume
    point (it was cut: with the same generation that can't be right, whatever is accepted).
    """
    if end < resume_offset:
        raise OffsetGapError(
            f"{place} ends at offset {end}, but everything below {resume_offset} was read already",
            hint="the log was cut (an unclean leader election?); to begin again, use a new data_dir",
        )
    if first > resume_offset and not accept_gap:
        raise OffsetGapError(
            f"{place}: offsets {resume_offset} to {first - 1} are still needed, but the broker keeps "
            f"only those from {first} on",
            hint=GAP_HINT,
        )
    return ReadFrom(max(first, resume_offset), max(0, first - resume_offset))
