"""Training sets of a feature service: the set of its features, with the service in the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import polars as pl
import pytest

from featurestore import BatchFeatureView, Entity, FeatureService, FeatureStore, Field, FileSource
from featurestore.batch.materialize import Materializer
from featurestore.compile.batch import CompiledBatchView
from featurestore.definitions.resolve import ResolvedDefinitions, resolve_service
from featurestore.definitions.resolve_batch import resolve_batch_view
from featurestore.errors import MalformedRequestError, UnknownFeatureServiceError, UnknownViewError
from featurestore.registry import Registry
from featurestore.training.manifest import Manifest, read_manifest
from featurestore.training.training_set import TrainingSetRequest, make_training_set
from tests.cli.support import command

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
VIEW = BatchFeatureView(
    "limits",
    source=FileSource("limits.parquet", event_time="at"),
    entities=[Entity("card", join_keys={"card_id": pl.String})],
    features=[Field("credit", pl.Int64), Field("tier", pl.String)],
)
SERVICE = FeatureService("fraud_v3", features=[VIEW[["tier", "credit"]]])
FEATURES = ["limits:tier", "limits:credit"]


def apply(registry: Registry, view: BatchFeatureView, *services: FeatureService) -> None:
    spec = resolve_batch_view(view)
    resolved = {one.name: resolve_service(one, {spec.name: spec}) for one in services}
    registry.apply(registry.plan(ResolvedDefinitions({}, {}, {spec.name: spec}, resolved)))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A project with a materialized batch view, and a service of it."""
    rows = {"card_id": ["a", "b"], "credit": [10, 20], "tier": ["x", "y"], "at": [NOON - timedelta(hours=1)] * 2}
    pl.DataFrame(rows).write_parquet(tmp_path / "limits.parquet")
    (tmp_path / "featurestore.toml").write_text('[store]\ndata_dir = "data"\n')
    spine = pl.DataFrame({"card_id": ["b", "c", "a"], "event_timestamp": [NOON] * 3})
    spine.write_parquet(tmp_path / "spine.parquet")
    registry = Registry.open(tmp_path / "data" / "registry" / "registry.db")
    apply(registry, VIEW, SERVICE)
    materialize(registry, tmp_path, 1)
    yield registry
    registry.close()


def materialize(registry: Registry, folder: Path, version: int) -> None:
    (view,) = (one for one in registry.live_batch_views() if one.version == version)
    runs = Materializer(folder / "data", folder, now_us=lambda: int(NOON.timestamp() * 1_000_000))
    runs.run(CompiledBatchView(view.view_id, view.version, view.spec))


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("asked", ["fraud_v3", SERVICE], ids=["name", "definition"])
def test_a_service_gives_what_its_features_give(tmp_path: Path, asked: str | FeatureService, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    store = FeatureStore(tmp_path)
    found = store.get_historical_features("spine.parquet", asked)
    assert found["tier"].to_list() == ["y", None, "x"]
    assert found.equals(store.get_historical_features("spine.parquet", FEATURES))


def test_the_manifest_tells_service_and_versions_and_makes_the_set_again_when_the_service_changed(
    registry: Registry, tmp_path: Path
) -> None:
    spine = pl.read_parquet(tmp_path / "spine.parquet")
    made = make_training_set(tmp_path / "data", TrainingSetRequest(spine, (), feature_service="fraud_v3"))
    assert made.manifest.features == tuple(FEATURES)
    told = made.manifest.feature_service
    assert told is not None
    assert [(view.name, view.version, view.features) for view in told.views] == [("limits", 1, ("tier", "credit"))]
    apply(registry, VIEW, FeatureService("fraud_v3", features=[VIEW[["credit"]]]))
    again = make_training_set(tmp_path / "data", TrainingSetRequest(spine, ()), again=made.manifest)
    assert again.frame.equals(made.frame)
    assert again.manifest.feature_service == told


def test_a_service_that_can_not_be_read_is_refused(registry: Registry, tmp_path: Path) -> None:
    store, spine = FeatureStore(tmp_path), tmp_path / "spine.parquet"
    with pytest.raises(UnknownFeatureServiceError, match="did you mean 'fraud_v3'"):
        store.get_historical_features(spine, "fraud")
    with pytest.raises(MalformedRequestError, match="is one feature, not a list"):
        store.get_historical_features(spine, "limits:tier")
    with pytest.raises(MalformedRequestError, match="applied with other features"):
        store.get_historical_features(spine, FeatureService("fraud_v3", features=[VIEW]))
    with pytest.raises(MalformedRequestError, match="both features and a feature service"):
        make_training_set(tmp_path / "data", TrainingSetRequest(spine, tuple(FEATURES), feature_service="fraud_v3"))


def test_versions_of_a_batch_view_are_read_by_name_by_pin_and_by_manifest(registry: Registry, tmp_path: Path) -> None:
    data, spine = tmp_path / "data", pl.read_parquet(tmp_path / "spine.parquet")
    first = make_training_set(data, TrainingSetRequest(spine, tuple(FEATURES)))
    rows = {"card_id": ["a"], "credit": [99], "tier": ["z"], "at": [NOON - timedelta(hours=1)]}
    pl.DataFrame(rows).write_parquet(tmp_path / "other.parquet")
    apply(
        registry,
        BatchFeatureView(VIEW.name, FileSource("other.parquet", event_time="at"), VIEW.entities, VIEW.features),
    )
    materialize(registry, tmp_path, 2)

    def credit(request: TrainingSetRequest, again: Manifest | None = None) -> tuple[list[int | None], int]:
        made = make_training_set(data, request, again=again)
        return made.frame["credit"].to_list(), made.manifest.batch_views[0].version

    old, new = ([20, None, 10], 1), ([None, None, 99], 2)
    assert credit(TrainingSetRequest(spine, ("limits:credit",))) == old
    assert credit(TrainingSetRequest(spine, ("limits@2:credit",))) == new
    registry.versions.promote("limits", 2)
    assert credit(TrainingSetRequest(spine, ("limits:credit",))) == new
    assert credit(TrainingSetRequest(spine, ("limits@1:credit",))) == old
    assert credit(TrainingSetRequest(spine, (), feature_service="fraud_v3")) == old  # it goes on with what it pins
    assert credit(TrainingSetRequest(spine, ()), first.manifest) == old
    with pytest.raises(UnknownViewError, match="version 3 of view 'limits' is not computed"):
        credit(TrainingSetRequest(spine, ("limits@3:credit",)))
    shutil.rmtree(data / "offline" / "features" / "limits" / "v1")
    with pytest.raises(MalformedRequestError, match="1 files of limits@1 are gone"):
        credit(TrainingSetRequest(spine, ()), first.manifest)


@pytest.mark.usefixtures("registry")
def test_from_the_shell(tmp_path: Path) -> None:
    done = command(tmp_path, "training-set", "--spine", "spine.parquet", "--service", "fraud_v3", "--out", "t.parquet")
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(tmp_path / "t.parquet").columns == ["card_id", "event_timestamp", "tier", "credit"]
    manifest = read_manifest(tmp_path / "t.parquet.manifest.json")
    assert manifest.feature_service is not None
    assert manifest.feature_service.name == "fraud_v3"


@pytest.mark.usefixtures("registry")
def test_a_manifest_of_before_services_is_read(tmp_path: Path) -> None:
    spine = pl.read_parquet(tmp_path / "spine.parquet")
    made = make_training_set(tmp_path / "data", TrainingSetRequest(spine, tuple(FEATURES)))
    document = json.loads(msgspec.json.encode(made.manifest))
    assert document.pop("feature_service") is None
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert read_manifest(tmp_path / "old.json") == made.manifest
