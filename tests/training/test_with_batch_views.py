"""A training set of stream and batch views together, made again after both have grown."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.compile.batch import CompiledBatchView
from featurestore.errors import MalformedRequestError
from featurestore.registry import Registry
from featurestore.training.training_set import TrainingSetRequest, make_training_set
from tests.batch.support import Project, Row, compiled, hours, write_rows
from tests.integration.project import Project as StreamProject

KEYS = ["limits:credit", "card_activity:count_1h"]


@pytest.fixture
def project(any_topic, tmp_path: Path) -> tuple[StreamProject, Project]:
    """An example's archive with a few events, and a batch view of limits in the same registry."""
    from tests.integration.road import send

    project = StreamProject.create(
        tmp_path / "project", any_topic.bootstrap_servers, any_topic.topic, data_dir=tmp_path / "data"
    )
    send(any_topic, [(None, event("a", 1.5)), (None, event("a", 2.5)), (None, event("b", 2.5))])
    project.run_until_end()
    return project, Project(tmp_path)


def event(card: str, at: float) -> bytes:
    ts = hours(at) // 1_000
    return (
        f'{{"transaction_id":"t{at}","card_id":"{card}","merchant_id":"m1","amount":1.0,"currency":"EUR",'
        f'"status":"approved","ts":{ts}}}'
    ).encode()


def apply_limits(data_dir: Path) -> CompiledBatchView:
    """Deploy the batch view as `featurestore apply` does."""
    from featurestore.definitions.resolve import ResolvedDefinitions

    spec = compiled().spec
    registry = Registry.open(data_dir / "registry" / "registry.db")
    registry.apply(registry.plan(ResolvedDefinitions({}, {}, {"limits": spec})))
    (view,) = registry.batch_views()
    registry.close()
    return CompiledBatchView(view.view_id, view.version, view.spec)


@pytest.mark.parametrize("any_topic", ["embedded"], indirect=True)
def test_both_kinds_of_views_in_one_training_set(project: tuple[StreamProject, Project]):
    streams, files = project
    view = apply_limits(streams.data_dir)
    write_rows(files.folder / "rows" / "1.parquet", [Row("a", 1, 10, 1), Row("a", 2, 20, 2), Row("b", 1, 30, 4)])
    files.materialize(view, 5)
    spine = pl.DataFrame(
        {
            "card_id": ["a", "a", "b", "z"],
            "event_timestamp": [hours(at) for at in (1.75, 3, 3, 3)],
            "label": [1, 2, 3, 4],
        }
    ).with_columns(pl.col("event_timestamp").cast(pl.Datetime("us", "UTC")))
    store = FeatureStore(streams.folder)
    found = store.get_historical_features(spine, KEYS)
    assert found.drop("credit", "count_1h").equals(spine)
    assert found["credit"].to_list() == [10, 20, 30, None]
    assert found["count_1h"].to_list() == [1, 1, 1, None]
    assert store.get_historical_features(spine, KEYS, knowledge="arrival")["credit"].to_list() == [10, 20, None, None]
    assert store.get_historical_features(spine, KEYS, knowledge_time="2026-11-23T03:00:00Z")["credit"].to_list() == [
        10,
        20,
        None,
        None,
    ]

    first = make_training_set(streams.data_dir, TrainingSetRequest(spine, tuple(KEYS)))
    assert first.frame.equals(found)
    write_rows(files.folder / "rows" / "2.parquet", [Row("a", 2.5, 99, 2.5)])
    files.materialize(view, 6)
    assert store.get_historical_features(spine, KEYS)["credit"].to_list() == [10, 99, 30, None]
    again = make_training_set(streams.data_dir, TrainingSetRequest(spine, ()), again=first.manifest)
    assert again.frame.equals(first.frame)
    with pytest.raises(MalformedRequestError, match="the spine is not the one of the manifest"):
        make_training_set(streams.data_dir, TrainingSetRequest(spine.reverse(), ()), again=first.manifest)
