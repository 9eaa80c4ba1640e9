"""Models in a real local MLflow (SQLite, files, model registry), trained on real training sets and served online."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest
from mlflow import MlflowClient

from featurestore import FeatureStore
from featurestore.client import FeatureStoreClient
from featurestore.errors import MalformedRequestError, RegistryError, UnknownFeatureServiceError
from featurestore.integrations.mlflow import link_model, log_feature_service, logged_service
from featurestore.registry import Registry
from featurestore.registry.models import Models
from featurestore.registry.records import content_hash, encoded
from featurestore.serving import FeatureService
from featurestore.sources.embedded import EmbeddedBroker
from tests.conftest import TopicAt
from tests.integration.project import Project
from tests.integration.road import send
from tests.serving.support import served

# MLflow warns of its own type hints when it is imported, and of models that have none.
pytestmark = [pytest.mark.filterwarnings("ignore:::mlflow"), pytest.mark.timeout(300)]

START = datetime(2026, 11, 20, 8, tzinfo=timezone.utc)
SERVICES = """
from featurestore import FeatureService
from pipelines.transactions import card_activity, merchant_activity

fraud_v3 = FeatureService(
    "fraud_v3",
    features=[card_activity[["count_1h", "amount_eur_sum_24h"]], merchant_activity[["count"]]],
    owner="risk@example.com",
)
cards_only = FeatureService("cards_only", features=[card_activity[["count_1h"]]], owner="risk@example.com")
"""
FEATURES = ["card_activity:count_1h", "card_activity:amount_eur_sum_24h", "merchant_activity:count"]
NAMES = [name.partition(":")[2] for name in FEATURES]


def payment(number: int) -> tuple[None, bytes]:
    event = {
        "transaction_id": f"t{number}",
        "card_id": f"c{number % 5}",
        "merchant_id": f"m{number % 3}",
        "amount": 1.0 + number,
        "currency": "EUR",
        "status": "approved",
        "ts": int((START + timedelta(minutes=number)).timestamp() * 1_000),
    }
    return None, json.dumps(event).encode()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Five hours of payments in both stores, and two applied services."""
    folder = tmp_path_factory.mktemp("mlflow")
    with EmbeddedBroker(folder / "data") as broker:
        assert broker.address is not None
        topic = TopicAt("embedded", "embedded", broker.address.bootstrap_servers, "payments", 4)
        project = Project.create(folder / "project", "embedded", "payments", data_dir=folder / "data")
        (project.folder / "pipelines" / "services.py").write_text(SERVICES)
        send(topic, map(payment, range(300)))
        project.run_until_end()
    assert project.call("apply", "pipelines/services.py").returncode == 0
    return project


@pytest.fixture(scope="module")
def store(project: Project) -> FeatureStore:
    return FeatureStore(project.folder)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An MLflow of the module's own. It keeps its choice in environment variables, which other tests must not see."""
    folder = tmp_path_factory.mktemp("tracking")
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    artifacts = (folder / "artifacts").as_uri()
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("fraud", artifact_location=artifacts))
    yield
    mlflow.set_tracking_uri(None)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ.update(before)


@dataclass(frozen=True)
class Made:
    """A training set: its file and its manifest."""

    data: Path
    manifest: Path


def training_set(project: Project, folder: Path, *features: str) -> Made:
    """Forty labelled payments with features, by the command."""
    rows = 40
    spine = pl.DataFrame(
        {
            "card_id": [f"c{number % 5}" for number in range(rows)],
            "merchant_id": [f"m{number % 3}" for number in range(rows)],
            "event_timestamp": [START + timedelta(minutes=60 + 5 * number) for number in range(rows)],
            "label": [float(number % 2) for number in range(rows)],
        }
    )
    spine.write_parquet(folder / "spine.parquet")
    out = folder / "training.parquet"
    asked = ("--features", ",".join(features)) if features else ("--service", "fraud_v3")
    done = project.call("training-set", "--spine", str(folder / "spine.parquet"), *asked, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return Made(out, out.with_name("training.parquet.manifest.json"))


@pytest.fixture(scope="module")
def made(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return training_set(project, tmp_path_factory.mktemp("sets"))


def registered(store: FeatureStore, made: Made, name: str) -> tuple[str, str]:
    """Train a linear model on the set, log it with its service, register it; its version and run."""
    from mlflow.pyfunc import PythonModel, log_model

    class Linear(PythonModel):  # type: ignore[misc]
        """Defined here, so that it is pickled by value: who loads it needs none of these tests."""

        def __init__(self, weights: Any) -> None:
            self.weights = weights

        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            import numpy

            return numpy.asarray(model_input, dtype=float) @ self.weights

    rows = pl.read_parquet(made.data)
    weights, *_ = np.linalg.lstsq(rows.select(NAMES).cast(pl.Float64).to_numpy(), rows["label"].to_numpy(), rcond=None)
    with mlflow.start_run() as run:
        log_feature_service(store, "fraud_v3", training_set=made.manifest)
        info = log_model(name="model", python_model=Linear(weights), pip_requirements=["numpy"])
    version = mlflow.register_model(info.model_uri, name)
    return str(version.version), str(run.info.run_id)


@pytest.mark.usefixtures("tracking")
def test_from_training_to_serving_a_model_and_its_features_find_each_other(
    project: Project, store: FeatureStore, made: Made
) -> None:
    version, run_id = registered(store, made, "fraud")
    link = link_model(store, "fraud", version)
    assert link.service.references == tuple(FEATURES)
    assert link.training_set is not None
    assert Path(link.training_set.manifest).samefile(made.manifest)
    assert (link.uri, link.run_id) == (f"models:/fraud/{version}", run_id)

    # From the service to the model: in the registry, and in MLflow alone.
    registry = Registry.open(store.registry_place, create=False)
    models = Models(registry.database)
    assert [one.reference for one in models.of_service("fraud_v3")] == [f"fraud/{version}"]
    assert [one.reference for one in models.find(feature="merchant_activity:count")] == [f"fraud/{version}"]
    changes = registry.change_number()
    assert link_model(registry, "fraud", int(version)) == link, "again, by an open registry"
    assert registry.change_number() == changes
    registry.close()
    found = MlflowClient().search_model_versions("tags.`featurestore.service` = 'fraud_v3'")
    assert [(one.name, str(one.version)) for one in found] == [("fraud", version)]

    # From the model, as MLflow loads it, to its service; read online and predict.
    service = logged_service("fraud", version).service
    assert service == link.service
    model = mlflow.pyfunc.load_model(link.uri)
    entities = {"card_id": ["c4", "c1"], "merchant_id": ["m2", "m0"]}
    online = FeatureService(project.data_dir)
    online.refresh(check=True)
    with served(online) as url, FeatureStoreClient(url) as client:
        answer = client.get_online_features(feature_service=service.name, entities=entities, as_of="latest").to_dict()
    now = START + timedelta(minutes=299, microseconds=1)
    offline = store.get_historical_features(pl.DataFrame({**entities, "event_timestamp": [now, now]}), service.name)
    predicted = model.predict(np.array([answer[name] for name in NAMES], dtype=float).T)
    assert predicted == pytest.approx(model.predict(offline.select(NAMES).to_numpy()), rel=1e-9)
    assert len({round(one, 6) for one in predicted}) == 2, "the features matter"

    shown = project.call("model", "show", "fraud", version, "--json")
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout)
    assert document["features"] == [name.replace(":", "@1:") for name in FEATURES]
    assert (document["training_set_state"], document["now"]["service"]) == ("unchanged", "same")


@pytest.mark.usefixtures("tracking")
def test_a_run_has_service_versions_manifest_and_training_set(store: FeatureStore, made: Made) -> None:
    with mlflow.start_run() as active:
        logged = log_feature_service(store, "fraud_v3", training_set=made.manifest)
        log_feature_service(store, "fraud_v3", training_set=str(made.manifest))
    run = mlflow.get_run(active.info.run_id)
    assert run.data.params == {
        "feature_service": "fraud_v3",
        "feature_views": "card_activity@1,merchant_activity@1",
    }
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("featurestore.")}
    assert tags.pop("featurestore.training_set_sha256") == content_hash(made.manifest.read_text())
    assert tags == {
        "featurestore.service": "fraud_v3",
        "featurestore.service_hash": content_hash(encoded(logged)),
        "featurestore.views": "card_activity@1,merchant_activity@1",
        "featurestore.training_set": str(made.manifest.resolve()),
    }
    place = f"runs:/{active.info.run_id}/featurestore"
    assert mlflow.artifacts.load_text(f"{place}/training_set.manifest.json") == made.manifest.read_text()
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == "training.parquet"
    assert json.loads(given.dataset.source)["uri"] == made.data.resolve().as_uri()
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]


@pytest.mark.usefixtures("tracking")
def test_the_model_version_has_the_tags_of_its_run(store: FeatureStore, made: Made) -> None:
    version, run_id = registered(store, made, "tagged")
    assert MlflowClient().get_model_version("tagged", version).tags == {}
    link_model(store, "tagged", version)
    tags = MlflowClient().get_model_version("tagged", version).tags
    of_run = mlflow.get_run(run_id).data.tags
    assert tags == {name: value for name, value in of_run.items() if name.startswith("featurestore.")}


@pytest.mark.usefixtures("tracking")
@pytest.mark.parametrize("version", ["", "@1"])
def test_a_set_of_listed_features_will_do_when_they_are_the_service_s(
    project: Project, store: FeatureStore, tmp_path: Path, version: str
) -> None:
    made = training_set(project, tmp_path, *(name.replace(":", f"{version}:") for name in FEATURES))
    with mlflow.start_run():
        logged = log_feature_service(store, "fraud_v3", training_set=made.manifest)
        assert [(view.name, view.version) for view in logged.views] == [("card_activity", 1), ("merchant_activity", 1)]
        with pytest.raises(MalformedRequestError, match="has other features than feature service 'cards_only'"):
            log_feature_service(store, "cards_only", training_set=made.manifest)


@pytest.mark.usefixtures("tracking")
def test_what_can_not_be_logged_or_linked_is_told(store: FeatureStore, made: Made) -> None:
    with pytest.raises(MalformedRequestError, match="no MLflow run is active"):
        log_feature_service(store, "fraud_v3")
    with mlflow.start_run() as run:
        with pytest.raises(UnknownFeatureServiceError, match="'fraud_v4' does not exist"):
            log_feature_service(store, "fraud_v4")
        with pytest.raises(MalformedRequestError, match="was made of feature service 'fraud_v3', not of 'cards_only'"):
            log_feature_service(store, "cards_only", training_set=made.manifest)
        mlflow.log_text("a model", "model/weights.txt")
    assert "featurestore.service" not in mlflow.get_run(run.info.run_id).data.tags
    client = MlflowClient()
    client.create_registered_model("bare")
    without_run = client.create_model_version("bare", source="file:///nowhere", run_id=None)
    with pytest.raises(RegistryError, match="version 1 of MLflow model 'bare' has no run"):
        link_model(store, "bare", without_run.version)
    without_service = client.create_model_version("bare", f"runs:/{run.info.run_id}/model", run.info.run_id)
    with pytest.raises(RegistryError, match="logged no feature service"):
        link_model(store, "bare", without_service.version)
    assert client.get_model_version("bare", str(without_service.version)).tags == {}


@pytest.mark.usefixtures("tracking")
def test_an_artifact_that_was_changed_is_noticed(store: FeatureStore, made: Made) -> None:
    version, run_id = registered(store, made, "changed")
    place = MlflowClient().get_run(run_id).info.artifact_uri.removeprefix("file://")
    file = Path(place) / "featurestore" / "feature_service.json"
    file.write_text(file.read_text().replace("count_1h", "count_24h"))
    with pytest.raises(RegistryError, match="is not what the run logged"):
        link_model(store, "changed", version)


def test_without_mlflow_the_way_to_it_is_told_and_nothing_else_needs_it() -> None:
    program = (
        "import sys; sys.modules['mlflow'] = None\n"
        "import featurestore.cli.app, featurestore.registry.models, featurestore.training.trained_with\n"
        "from featurestore.errors import ConfigError\n"
        "try:\n    import featurestore.integrations.mlflow\n"
        "except ConfigError as error:\n    assert 'featurestore[mlflow]' in error.hint, error.hint\n"
        "else:\n    raise SystemExit('imported')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
