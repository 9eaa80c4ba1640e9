"""Training sets count as reads: a feature that only they use is not unused."""

from __future__ import annotations

from pathlib import Path

from featurestore.registry.usage import TRAINING, record_reads
from featurestore.training.manifest import Manifest, view_of


def record_training(place: Path | str, manifest: Manifest) -> None:
    """Count one read of each feature of a training set. place: of the registry; one that can't be written is left."""
    versions = {view.name: view.version for view in manifest.views}
    versions |= {view.name: view.version for view in manifest.batch_views}
    asked = [(view_of(feature), feature.partition(":")[2]) for feature in manifest.features]
    record_reads(place, TRAINING, [(view, versions[view], name) for view, name in asked])
