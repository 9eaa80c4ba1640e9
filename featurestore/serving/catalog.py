"""What can be read: the applied views, compiled, and a plan for each list of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Union

from featurestore.compile.batch import CompiledBatchView
from featurestore.compile.view import CompiledView, compile_view
from featurestore.definitions.resolve import fingerprint
from featurestore.definitions.specs import FeatureServiceSpec, JoinKeySpec, ServiceViewSpec
from featurestore.errors import MalformedRequestError, UnknownFeatureError, UnknownViewError
from featurestore.registry import Registry
from featurestore.registry.services import check_pin, find_service
from featurestore.serving.protocol import FeatureNameCollisionError

_PLANS_KEPT = 1024

ServedView = Union[CompiledView, CompiledBatchView]
Asked = tuple[str, ServedView, str]
"""A reference "view:feature", the view and the feature's name."""


@dataclass(frozen=True)
class PlanPart:
    """What to read of one view. positions: where each feature's column goes among the requested features."""

    view: ServedView
    features: tuple[str, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class ReadPlan:
    """How to answer a list of features. names, dtypes: of the feature columns, in the requested order.

    join_keys: every join key that the views need, in the order of their first use.
    """

    join_keys: tuple[JoinKeySpec, ...]
    parts: tuple[PlanPart, ...]
    names: tuple[str, ...]
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Catalog:
    """The applied views and feature services at one moment, by name."""

    views: Mapping[str, ServedView]
    services: Mapping[str, FeatureServiceSpec] = field(default_factory=dict)
    _plans: dict[tuple[tuple[str, ...] | str, bool], ReadPlan] = field(default_factory=dict, compare=False)

    @property
    def stores(self) -> list[str]:
        """Online stores of the views, sorted."""
        return sorted({view.store for view in self.views.values()})

    def plan(self, asked: Sequence[str] | str, full_feature_names: bool) -> ReadPlan:
        """The plan of a list of "view:feature" references, or of the feature service of this name.

        Raises UnknownViewError, UnknownFeatureError, UnknownFeatureServiceError (with the nearest names),
        PinnedVersionError, MalformedRequestError.
        """
        key = (asked if isinstance(asked, str) else tuple(asked), full_feature_names)
        plan = self._plans.get(key)
        if plan is None:
            if isinstance(key[0], str):
                plan = self._make_plan(self._of_service(key[0]), full_feature_names)
            else:
                plan = self._make_plan([(name, *self._find(name)) for name in key[0]], full_feature_names)
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _of_service(self, name: str) -> list[Asked]:
        service = find_service(self.services, name)
        found = [(pin, self._pinned(name, pin)) for pin in service.views]
        return [(f"{pin.name}:{feature}", view, feature) for pin, view in found for feature in pin.features]

    def _pinned(self, service: str, pin: ServiceViewSpec) -> ServedView:
        """The version of a view that a service was applied with; the one place that says which that is.

        Only the deployed version of a view can be read, so it must be that one, or compute the same.
        """
        view = self.views[pin.name]  # a service is applied with its views, and no view goes
        check_pin(service, pin, view.version, fingerprint(view.spec))
        return view

    def _make_plan(self, wanted: Sequence[Asked], full_feature_names: bool) -> ReadPlan:
        if not wanted:
            raise MalformedRequestError("no features are asked for", hint='send "features": ["view:feature"]')
        asked: dict[str, list[tuple[int, str]]] = {}
        views: dict[str, ServedView] = {}
        names: list[str] = []
        dtypes: list[str] = []
        for position, (_, view, feature) in enumerate(wanted):
            views[view.name] = view
            asked.setdefault(view.name, []).append((position, feature))
            names.append(f"{view.name}__{feature}" if full_feature_names else feature)
            dtypes.append(view.features[feature].output_dtype)
        join_keys = {key.name: key for name in asked for key in views[name].spec.join_keys}
        references = [reference for reference, _, _ in wanted]
        _refuse_collisions(references, [*join_keys, *names], len(join_keys), full_feature_names)
        parts = tuple(
            PlanPart(views[name], tuple(feature for _, feature in own), tuple(position for position, _ in own))
            for name, own in asked.items()
        )
        return ReadPlan(tuple(join_keys.values()), parts, tuple(names), tuple(dtypes))

    def _find(self, reference: str) -> tuple[ServedView, str]:
        view_name, colon, feature = reference.partition(":")
        if not colon:
            raise MalformedRequestError(
                f"feature {reference!r} is not written as view:feature",
                hint=_nearest(reference, list(self.views)),
            )
        view = self.views.get(view_name)
        if view is None:
            raise UnknownViewError(
                f"feature view '{view_name}' does not exist", hint=_nearest(view_name, list(self.views))
            )
        if feature not in view.features:
            raise UnknownFeatureError(
                f"feature view '{view_name}' has no feature '{feature}'",
                hint=_nearest(feature, list(view.features)),
            )
        return view, feature


def load_catalog(registry_path: Path) -> Catalog:
    """Compile the applied views, and read the feature services. Raises RegistryError."""
    registry = Registry.open(registry_path, create=False)
    try:
        views: dict[str, ServedView] = {
            view.spec.name: compile_view(
                view.spec, registry.source(view.spec.source), view_id=view.view_id, version=view.version
            )
            for view in registry.views()
        }
        for batch_view in registry.batch_views():
            views[batch_view.spec.name] = CompiledBatchView(batch_view.view_id, batch_view.version, batch_view.spec)
        services = {name: service.spec for name, service in registry.feature_services().items()}
    finally:
        registry.close()
    return Catalog(views, services)


def _refuse_collisions(
    references: Sequence[str], names: Sequence[str], join_key_count: int, full_feature_names: bool
) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name not in seen:
            seen.add(name)
            continue
        reference = references[index - join_key_count]
        if references.count(reference) > 1:
            raise FeatureNameCollisionError(f"feature '{reference}' is asked for twice", hint="name it once")
        raise FeatureNameCollisionError(
            f"feature '{reference}': another column of the answer is named '{name}' too",
            hint=None if full_feature_names else "set full_feature_names, which names columns view__feature",
        )


def _nearest(name: str, known: Sequence[str]) -> str:
    if not known:
        return "nothing is applied yet: featurestore apply MODULE"
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{match}'" for match in close) + "?"
    shown = ", ".join(sorted(known)[:5])
    return f"there is {shown}" + (", …" if len(known) > 5 else "")
