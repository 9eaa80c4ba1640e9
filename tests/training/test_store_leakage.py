"""A store's own features do not know the future; a join that does is found on the real archive."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.sources.embedded import EmbeddedBroker
from featurestore.testing.store_leakage import assert_store_does_not_leak
from featurestore.training import history, training_set
from tests.conftest import TopicAt
from tests.integration.project import Project
from tests.integration.road import send
from tests.training.test_training_set import FEATURES, payment, project, store

__all__ = ["project", "store"]  # fixtures


@pytest.fixture(scope="module")
def labels(project: Project) -> pl.DataFrame:
    """A row at each of the archive's events: the label's own event lies at its instant."""
    events = pl.read_parquet(project.data_dir / "offline/events/**/*.parquet", hive_partitioning=False)
    return events.select("card_id", "merchant_id", event_timestamp="event_time", is_fraud=pl.lit(0))


@pytest.fixture(scope="module")
def under_way(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, pl.DataFrame]:
    """Payments of the last ten minutes, every second one arrived later; rows as of when the first half had."""
    folder = tmp_path_factory.mktemp("under_way")
    begin = datetime.now(timezone.utc) - timedelta(minutes=10)

    def lately(number: int) -> tuple[None, bytes]:
        event = json.loads(payment(number)[1])
        return None, json.dumps(event | {"ts": int((begin + timedelta(seconds=number)).timestamp() * 1_000)}).encode()

    with EmbeddedBroker(folder / "data") as broker:
        assert broker.address is not None
        topic = TopicAt("embedded", "embedded", broker.address.bootstrap_servers, "payments", 4)
        project = Project.create(folder / "project", "embedded", "payments", data_dir=folder / "data")
        send(topic, map(lately, range(0, 300, 2)))
        project.run_until_end()
        send(topic, map(lately, range(1, 300, 2)))
        project.run_until_end()
    events = pl.read_parquet(folder / "data/offline/events/**/*.parquet", hive_partitioning=False)
    assert events.height == 300
    first_half = events["arrival_time"].sort()[149]
    rows = events.select("card_id", "merchant_id").unique().with_columns(event_timestamp=pl.lit(first_half))
    return FeatureStore(project.folder), rows


def leak_by(monkeypatch: pytest.MonkeyPatch, shift_us: int) -> None:
    """Join as of later instants than were asked for."""
    real = training_set.point_in_time_join

    def join(root: Any, spine: Any, *others: Any) -> Any:
        return real(root, replace(spine, as_of=spine.as_of + shift_us), *others)

    monkeypatch.setattr(training_set, "point_in_time_join", join)


def test_a_store_does_not_leak(store: FeatureStore, labels: pl.DataFrame):
    assert_store_does_not_leak(store, labels, FEATURES)
    assert_store_does_not_leak(store, labels, FEATURES, rows=20, cuts=2, seed=3)


def test_a_store_does_not_leak_by_arrival(under_way: tuple[FeatureStore, pl.DataFrame]):
    assert_store_does_not_leak(*under_way, FEATURES, knowledge="arrival")


def test_the_store_is_not_touched(project: Project, store: FeatureStore, labels: pl.DataFrame):
    before = {path: path.read_bytes() for path in (project.data_dir / "offline").rglob("*.parquet")}
    assert_store_does_not_leak(store, labels, FEATURES, cuts=1)
    assert {path: path.read_bytes() for path in (project.data_dir / "offline").rglob("*.parquet")} == before


@pytest.mark.parametrize("shift_us", [1, 3_600_000_000], ids=["the label's own event", "an hour"])
def test_features_from_later_are_found(
    store: FeatureStore, labels: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, shift_us: int
):
    leak_by(monkeypatch, shift_us)
    with pytest.raises(AssertionError, match=r"rows up to .* changed when what lies after it was left out"):
        assert_store_does_not_leak(store, labels, FEATURES)


def test_event_time_where_arrival_was_meant_is_found(
    under_way: tuple[FeatureStore, pl.DataFrame], monkeypatch: pytest.MonkeyPatch
):
    real = history.JoinOptions
    monkeypatch.setattr(training_set, "JoinOptions", lambda knowledge, *others: real("event", *others))
    with pytest.raises(AssertionError, match=r"rows up to .* changed when what lies after it was left out"):
        assert_store_does_not_leak(*under_way, FEATURES, knowledge="arrival")


def test_it_does_not_pass_what_it_can_not_check(store: FeatureStore, labels: pl.DataFrame):
    after = labels.with_columns(pl.col("event_timestamp").dt.offset_by("10d"))
    with pytest.raises(AssertionError, match="nothing could leak"):
        assert_store_does_not_leak(store, after, FEATURES)
