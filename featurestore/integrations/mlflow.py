"""MLflow: a run knows the feature service and training set of its model, and a registered model version finds them.

What is written to MLflow is enough to read it without the registry: tags on the run and on the model version, the
service and the training set's manifest as artifacts. Errors of MLflow itself are passed on as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.definitions.specs import FeatureServiceSpec
from featurestore.errors import ConfigError, MalformedRequestError, RegistryError
from featurestore.feature_store import FeatureStore
from featurestore.registry import Registry
from featurestore.registry.models import ModelLink, Models, TrainingSetMark
from featurestore.registry.records import content_hash, decoded, encoded
from featurestore.registry.services import find_service
from featurestore.training.output import data_path
from featurestore.training.trained_with import TrainedWith, trained_with

try:
    import mlflow
    import mlflow.artifacts
    from mlflow import MlflowClient
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset
except ModuleNotFoundError as error:
    raise ConfigError(
        f"MLflow can't be used: '{error.name}' is not installed", hint="pip install 'featurestore[mlflow]'"
    ) from error

if TYPE_CHECKING:
    from mlflow.entities import Run

SERVICE = "featurestore.service"
SERVICE_HASH = "featurestore.service_hash"
VIEWS = "featurestore.views"
TRAINING_SET = "featurestore.training_set"
TRAINING_SET_HASH = "featurestore.training_set_sha256"
TAGS = (SERVICE, SERVICE_HASH, VIEWS, TRAINING_SET, TRAINING_SET_HASH)
"""Tags of a run and of a model version. VIEWS: "activity@1,limits@2"; the last two only where a set was logged."""

SERVICE_FILE = "featurestore/feature_service.json"
MANIFEST_FILE = "featurestore/training_set.manifest.json"
"""Artifacts of a run."""

# MLflow keeps no longer digest.
_DIGEST_CHARACTERS = 36


@dataclass(frozen=True)
class LoggedService:
    """What MLflow knows of a model version. service: as it was when it was logged; run_id: of the run that did."""

    service: FeatureServiceSpec
    service_hash: str
    training_set: TrainingSetMark | None
    run_id: str


def log_feature_service(
    store: FeatureStore | Registry, service: str, *, training_set: str | Path | None = None
) -> FeatureServiceSpec:
    """Log a feature service, and the training set that was made of it, with the active MLflow run.

    training_set: the path of its manifest. The service is logged with the versions that the set was made with; without
    a set, as it is deployed. Both become artifacts, the set a dataset input "training"; tags and parameters name them.
    Returns what was logged. Raises MalformedRequestError when no run is active, or the set is of other features;
    UnknownFeatureServiceError.
    """
    run = mlflow.active_run()
    if run is None:
        raise MalformedRequestError("no MLflow run is active", hint="call it within: with mlflow.start_run(): …")
    with _registry(store) as registry:
        deployed = {name: found.spec for name, found in registry.feature_services().items()}
    spec = find_service(deployed, service)
    made, dataset = None, None
    if training_set is not None:
        made = trained_with(Path(training_set), spec)
        spec, dataset = made.service, _dataset(made)
    text = encoded(spec)
    tags = {SERVICE: spec.name, SERVICE_HASH: content_hash(text), VIEWS: _views(spec)}
    # Tags come last: who sees them finds the artifacts.
    mlflow.log_text(text, SERVICE_FILE)
    if made is not None and dataset is not None:
        tags |= {TRAINING_SET: made.mark.manifest, TRAINING_SET_HASH: made.mark.sha256}
        mlflow.log_text(Path(made.mark.manifest).read_text(), MANIFEST_FILE)
        mlflow.log_input(dataset, context="training")
    mlflow.log_params({"feature_service": spec.name, "feature_views": _views(spec)})
    mlflow.set_tags(tags)
    return spec


def link_model(store: FeatureStore | Registry, name: str, version: str | int) -> ModelLink:
    """Link a version of a registered MLflow model to the feature service that its run logged.

    The registry records it (`Models.link`), and the version in MLflow gets the run's tags. Calling it again changes
    nothing. Raises RegistryError when the version has no run, or its run logged no feature service.
    """
    logged = logged_service(name, version)
    with _registry(store) as registry:
        link = Models(registry.database).link(
            name,
            str(version),
            logged.service,
            uri=f"models:/{name}/{version}",
            training_set=logged.training_set,
            run_id=logged.run_id,
        )
    client = MlflowClient()
    tags = client.get_run(logged.run_id).data.tags
    for tag in TAGS:
        if tag in tags:
            client.set_model_version_tag(name, str(version), tag, tags[tag])
    return link


def logged_service(name: str, version: str | int) -> LoggedService:
    """The feature service of a registered model version, by what its run logged: MLflow alone is asked.

    Raises RegistryError when the version has no run, or its run logged no feature service.
    """
    client = MlflowClient()
    what = f"version {version} of MLflow model '{name}'"
    run_id = client.get_model_version(name, str(version)).run_id
    if not run_id:
        raise RegistryError(f"{what} has no run", hint=f"featurestore model link {name} {version} --service …")
    run = client.get_run(run_id)
    if SERVICE_HASH not in run.data.tags:
        raise RegistryError(
            f"{what}: its run {run_id} logged no feature service",
            hint="call log_feature_service in the run that trains the model",
        )
    return _logged(run)


def _logged(run: Run) -> LoggedService:
    tags, run_id = run.data.tags, run.info.run_id
    place = f"runs:/{run_id}/{SERVICE_FILE}"
    text = mlflow.artifacts.load_text(place)
    if content_hash(text) != tags[SERVICE_HASH]:
        raise RegistryError(f"{place} is not what the run logged: it was changed since")
    mark = TrainingSetMark(tags[TRAINING_SET], tags[TRAINING_SET_HASH]) if TRAINING_SET in tags else None
    return LoggedService(decoded(text, FeatureServiceSpec, place), tags[SERVICE_HASH], mark, run_id)


def _dataset(made: TrainedWith) -> MetaDataset:
    data = data_path(Path(made.mark.manifest))
    source = resolve_dataset_source(data.as_uri())
    return MetaDataset(source, data.name, made.mark.sha256[:_DIGEST_CHARACTERS])  # type: ignore[abstract]


def _views(spec: FeatureServiceSpec) -> str:
    return ",".join(f"{view.name}@{view.version}" for view in spec.views)


@contextmanager
def _registry(store: FeatureStore | Registry) -> Iterator[Registry]:
    if isinstance(store, Registry):
        yield store
        return
    registry = Registry.open(store.registry_place, create=False)
    try:
        yield registry
    finally:
        registry.close()
