"""librdkafka clients: their settings, and its errors in our words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from featurestore.errors import BrokerUnavailableError, ConfigError, FeatureStoreError, SourceError

log = structlog.get_logger()

QUEUED_KBYTES = 16 * 1024
_OURS = {"enable.auto.commit": False, "enable.partition.eof": True, "auto.offset.reset": "error"}

Client = TypeVar("Client")

LEADER_MOVES = {KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION}
"""A partition has no leader yet, or another one than the broker that was asked: passes by itself."""
_UNREACHABLE = LEADER_MOVES | {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
}


def client_settings(bootstrap_servers: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """Settings that every client shares; the user's go on top."""
    return {
        "bootstrap.servers": bootstrap_servers,
        "client.id": "featurestore",
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 2_000,
        "error_cb": _log_error,
        # librdkafka would print to stderr between our log lines; what matters reaches error_cb.
        "log_level": 0,
        **settings,
    }


def consumer_settings(bootstrap_servers: str, group_id: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """Settings of a source's consumer: it keeps its own offsets and reads a filled topic fast.

    settings: the user's. Raises ConfigError for one that is not the user's to choose.
    """
    for name in ("group.id", *_OURS):
        if name in settings:
            raise ConfigError(
                f"[kafka.settings] '{name}' can't be set: featurestore keeps its own offsets",
                hint="remove it" if name in _OURS else "set [kafka] group_id",
            )
    return {
        "isolation.level": "read_committed",
        # librdkafka's default of 1000 ms reads a filled topic seven times slower at the same CPU.
        "fetch.queue.backoff.ms": 10,
        "fetch.wait.max.ms": 50,
        "queued.max.messages.kbytes": QUEUED_KBYTES,
        "on_commit": log_commit,
        **client_settings(bootstrap_servers, settings),
        "group.id": group_id,
        **_OURS,
    }


def log_commit(error: KafkaError | None, places: Sequence[TopicPartition]) -> None:
    """What became of a group commit; nothing depends on it."""
    errors = [place.error for place in places if place.error is not None]
    if error is not None or errors:
        log.debug("group_commit_failed", error=str(error or errors[0]))


def make_client(factory: Callable[[dict[str, Any]], Client], settings: dict[str, Any]) -> Client:
    """Build a client. Raises ConfigError when librdkafka refuses a setting, naming it."""
    try:
        return factory(settings)
    except (KafkaException, TypeError, ValueError) as error:
        # confluent_kafka puts a KafkaError into its exception; what else is wrong it says in plain text.
        inner = error.args[0] if error.args else error
        text = inner.str() if isinstance(inner, KafkaError) else str(inner)
        raise ConfigError(
            f"[kafka.settings] are refused: {text}",
            hint="names and values are librdkafka's: see its CONFIGURATION.md",
        ) from error


def kafka_error(
    error: KafkaException | KafkaError, bootstrap_servers: str, doing: str, why: str | None = None
) -> FeatureStoreError:
    """Our error for one of librdkafka's, met while `doing` something. why: what it said of the connection."""
    inner = error.args[0] if isinstance(error, KafkaException) else error
    if inner.code() in _UNREACHABLE or inner.retriable():
        return BrokerUnavailableError(
            f"no broker answers at {bootstrap_servers} ({doing}: {why or inner.str()})",
            hint="start the broker, or set [kafka] bootstrap_servers ([kafka.settings] for TLS and SASL)",
        )
    return SourceError(f"{doing}: {inner.str()}")


def _log_error(error: KafkaError) -> None:
    log.warning("kafka_error", code=error.name(), error=error.str(), fatal=error.fatal())
