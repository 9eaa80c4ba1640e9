"""Feature services as deployed, and the versions that they pin: which are written, and whether they can be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from featurestore.definitions.names import nearest
from featurestore.definitions.resolve import fingerprint
from featurestore.definitions.specs import BatchViewSpec, FeatureServiceSpec, ServiceViewSpec, ViewSpec
from featurestore.errors import PinnedVersionError, RegistryError, UnknownFeatureServiceError


@dataclass(frozen=True)
class RegisteredFeatureService:
    """A deployed feature service. applied_at: UTC."""

    spec: FeatureServiceSpec
    applied_at: datetime
    applied_by: str

    @classmethod
    def of(cls, row: Any, spec: FeatureServiceSpec) -> RegisteredFeatureService:
        """Of a row of the registry's definitions, whose JSON has been read."""
        return cls(spec, row.applied_at, row.applied_by)


def pinned(
    service: FeatureServiceSpec,
    before: FeatureServiceSpec | None,
    versions: Mapping[str, int],
    live: Mapping[str, Mapping[str, int]],
) -> FeatureServiceSpec:
    """The service with the version of each view. before: as it was applied. versions: by view, those to be deployed;
    live: those that are computed, by fingerprint.

    What the service reads of a view stays as it was applied, whatever becomes of the view: a model goes on getting what
    it was trained with. It is pinned anew when it asks for other features, or when its version is no longer computed.
    """
    old = {view.name: view for view in before.views} if before is not None else {}

    def pin(view: ServiceViewSpec) -> ServiceViewSpec:
        kept = old.get(view.name)
        computed = live.get(view.name, {})
        if kept is None:
            return msgspec.structs.replace(view, version=versions[view.name])
        lives = kept.version in computed.values() or kept.fingerprint in computed
        if kept.features == view.features and lives:
            return kept
        if kept.fingerprint == view.fingerprint:
            return msgspec.structs.replace(view, version=kept.version)
        return msgspec.structs.replace(view, version=versions[view.name])

    return msgspec.structs.replace(service, views=tuple(pin(view) for view in service.views))


def repinned(service: FeatureServiceSpec, view: ViewSpec | BatchViewSpec, version: int) -> FeatureServiceSpec:
    """The service with another version of a view. Raises RegistryError when that lacks what the service reads."""
    lacking = [
        name
        for pin in service.views
        if pin.name == view.name
        for name in pin.features
        if name not in {feature.name for feature in view.features}
    ]
    if lacking:
        raise RegistryError(
            f"feature service '{service.name}' reads {view.name}:{lacking[0]}, which version {version} has not",
            hint="let its model read a service of another name",
        )
    if view.name not in {pin.name for pin in service.views}:
        raise RegistryError(f"feature service '{service.name}' reads nothing of view '{view.name}'")
    moved = {"version": version, "fingerprint": fingerprint(view)}
    pins = (msgspec.structs.replace(pin, **moved) if pin.name == view.name else pin for pin in service.views)
    return msgspec.structs.replace(service, views=tuple(pins))


def find_service(services: Mapping[str, FeatureServiceSpec], name: str) -> FeatureServiceSpec:
    """The feature service of a name. Raises UnknownFeatureServiceError, which tells the nearest."""
    if name not in services:
        raise UnknownFeatureServiceError(f"feature service '{name}' does not exist", hint=nearest(name, services))
    return services[name]


def check_pin(service: str, pin: ServiceViewSpec, version: int, fingerprint: str) -> None:
    """Whether a deployed version gives what a service was applied with: it is that version, or computes the same.

    Raises PinnedVersionError.
    """
    if version != pin.version and fingerprint != pin.fingerprint:
        raise PinnedVersionError(
            f"feature service '{service}' reads version {pin.version} of view '{pin.name}', deployed is version "
            f"{version}, which computes something else",
            hint="see whether its model can read the new version, then apply the service's module again",
        )
