"""What a model was trained with, by its training set's manifest: the feature service as it was, and the set's mark."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from featurestore.definitions.specs import FeatureServiceSpec
from featurestore.errors import MalformedRequestError
from featurestore.registry.models import TrainingSetMark
from featurestore.training.manifest import BatchViewMark, Manifest, ViewMark, read_manifest, view_of


@dataclass(frozen=True)
class TrainedWith:
    """service: with the versions whose values are in the training set."""

    service: FeatureServiceSpec
    mark: TrainingSetMark
    manifest: Manifest


def trained_with(path: Path, service: FeatureServiceSpec) -> TrainedWith:
    """What a training set's manifest tells of the service's features. service: as it is deployed.

    A set that was made of a list of features will do when these are the service's, in its order.
    Raises MalformedRequestError for a manifest that can't be read, or is of other features.
    """
    manifest = read_manifest(path)
    mark = TrainingSetMark(str(path.resolve()), hashlib.sha256(path.read_bytes()).hexdigest())
    made_of = manifest.feature_service
    if made_of is not None and made_of.name != service.name:
        raise MalformedRequestError(
            f"training set {path} was made of feature service '{made_of.name}', not of '{service.name}'",
            hint="link the model to the service that it was trained with",
        )
    if made_of is None:
        if tuple(f"{view_of(one)}:{one.partition(':')[2]}" for one in manifest.features) != service.references:
            raise MalformedRequestError(
                f"training set {path} has other features than feature service '{service.name}', or in another order",
                hint=f"make it with --service {service.name}",
            )
        views: tuple[ViewMark | BatchViewMark, ...] = (*manifest.views, *manifest.batch_views)
        marks = {view.name: view for view in views}
        pins = (
            msgspec.structs.replace(pin, version=marks[pin.name].version, fingerprint=marks[pin.name].fingerprint)
            for pin in service.views
        )
        made_of = msgspec.structs.replace(service, views=tuple(pins))
    return TrainedWith(made_of, mark, manifest)


def manifest_state(mark: TrainingSetMark) -> Literal["unchanged", "changed", "missing"]:
    """Whether a manifest is what it was when its training set was linked; seen from this machine."""
    try:
        content = Path(mark.manifest).read_bytes()
    except OSError:
        return "missing"
    return "unchanged" if hashlib.sha256(content).hexdigest() == mark.sha256 else "changed"
