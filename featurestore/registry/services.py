"""Feature services as deployed, and the versions that they pin: which are written, and whether they can be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import msgspec

from featurestore.definitions.names import nearest
from featurestore.definitions.specs import FeatureServiceSpec, ServiceViewSpec
from featurestore.errors import PinnedVersionError, UnknownFeatureServiceError


@dataclass(frozen=True)
class RegisteredFeatureService:
    """A deployed feature service. applied_at: UTC."""

    spec: FeatureServiceSpec
    applied_at: datetime
    applied_by: str

    @classmethod
    def of(cls, row: Any, spec: FeatureServiceSpec) -> RegisteredFeatureService:
        """Of a row of the registry's definitions, whose JSON has been read."""
        return cls(spec, row.applied_at.replace(tzinfo=timezone.utc), row.applied_by)


def pinned(
    service: FeatureServiceSpec, before: FeatureServiceSpec | None, versions: Mapping[str, int]
) -> FeatureServiceSpec:
    """The service with the version of each view. before: as it was applied; versions: by view, those to be deployed.

    A view that computes what it did keeps its pin: a version that an operator began anew changes no service.
    """
    old = {view.name: view for view in before.views} if before is not None else {}

    def pin(view: ServiceViewSpec) -> ServiceViewSpec:
        kept = old.get(view.name)
        same = kept is not None and kept.fingerprint == view.fingerprint
        return msgspec.structs.replace(view, version=kept.version if kept and same else versions[view.name])

    return msgspec.structs.replace(service, views=tuple(pin(view) for view in service.views))


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
