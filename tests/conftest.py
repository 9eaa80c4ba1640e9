"""Brokers for tests: the embedded one, and a real Apache Kafka."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Small batches gain nothing from polars' thread pool, and two cores are all there may be.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "house",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """One real broker for the session; tests use topics of their own."""
    from tests.kafka_broker import KafkaBroker, class_path, why_not

    reason = why_not()
    if reason is None:
        try:
            class_path()
        except RuntimeError as error:
            reason = str(error)
    if reason is not None:
        if os.environ.get("FEATURESTORE_REQUIRE_KAFKA") == "1":
            pytest.fail(f"no Kafka broker: {reason}")
        pytest.skip(f"no Kafka broker: {reason}")
    with KafkaBroker(tmp_path_factory.mktemp("kafka") / "broker") as broker:
        yield broker


@dataclass
class TopicAt:
    """A fresh topic. bootstrap_servers: as [kafka] bootstrap_servers; address: what a client connects to."""

    kind: str
    bootstrap_servers: str
    address: str
    topic: str
    partitions: int


ON_KAFKA = pytest.mark.parametrize("any_topic", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def any_topic(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TopicAt]:
    """A fresh topic of four partitions: on the embedded broker (data_dir: tmp_path/"data"), on a real one.

    A long test whose parts are tested on both brokers takes the real one alone: `ON_KAFKA`.
    """
    topic = f"topic-{os.urandom(4).hex()}"
    if request.param == "kafka":
        broker = request.getfixturevalue("kafka_broker")
        broker.create_topic(topic, 4)
        yield TopicAt("kafka", broker.bootstrap_servers, broker.bootstrap_servers, topic, 4)
        return
    from featurestore.sources.embedded import EmbeddedBroker

    with EmbeddedBroker(tmp_path / "data") as broker:
        assert broker.address is not None
        yield TopicAt("embedded", "embedded", broker.address.bootstrap_servers, topic, 4)
