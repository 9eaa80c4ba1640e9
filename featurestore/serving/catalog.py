"""What can be read: the applied views, compiled, and a plan for each list of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, Union

from xxhash import xxh64_intdigest

from featurestore.compile.batch import CompiledBatchView
from featurestore.compile.view import CompiledView, compile_view
from featurestore.definitions.resolve import fingerprint
from featurestore.definitions.specs import FeatureServiceSpec, JoinKeySpec, ServiceViewSpec
from featurestore.errors import MalformedRequestError, UnknownFeatureError, UnknownViewError
from featurestore.registry import split_reference
from featurestore.registry.served import DefinitionsFollower, ServedDefinitions
from featurestore.registry.services import check_pin, find_service
from featurestore.serving.protocol import FeatureNameCollisionError

_PLANS_KEPT = 1024

ServedView = Union[CompiledView, CompiledBatchView]


class _Asked(NamedTuple):
    """A feature that a request names. as_named: the view as the request has it, with its version if it names one."""

    as_named: str
    feature: str
    view: ServedView


@dataclass(frozen=True)
class PlanPart:
    """What to read of one view. positions: where each feature's column goes among the requested features.

    canary: a version that answers canary_share of the requests instead; None without one, and where it can't.
    """

    view: ServedView
    features: tuple[str, ...]
    positions: tuple[int, ...]
    canary: ServedView | None = None
    canary_share: float = 0.0

    def version_for(self, keys: Sequence[str | None]) -> ServedView:
        """The version that answers a request, decided by its first entity; all its rows are of that version.

        keys: encoded, one an entity.
        """
        if self.canary is None or not keys or keys[0] is None:
            return self.view
        drawn = xxh64_intdigest(keys[0].encode(), seed=self.view.view_id) / 2**64
        return self.canary if drawn < self.canary_share else self.view


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
    """What can be read at one moment.

    views: by name, the version that is served; versions: by "view@version", all that are computed, stream and batch.
    canaries: by view, a version and its share of the reads.
    """

    views: Mapping[str, ServedView]
    services: Mapping[str, FeatureServiceSpec] = field(default_factory=dict)
    versions: Mapping[str, ServedView] = field(default_factory=dict)
    canaries: Mapping[str, tuple[ServedView, float]] = field(default_factory=dict)
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
                plan = self._make_plan([self._find(name) for name in key[0]], full_feature_names)
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _of_service(self, name: str) -> list[_Asked]:
        service = find_service(self.services, name)
        found = [(pin, self._pinned(name, pin)) for pin in service.views]
        return [_Asked(pin.name, feature, view) for pin, view in found for feature in pin.features]

    def _pinned(self, service: str, pin: ServiceViewSpec) -> ServedView:
        """The version of a view that a service was applied with, or one that computes the same."""
        exact = self.versions.get(f"{pin.name}@{pin.version}")
        if exact is not None:
            return exact
        served = self.views[pin.name]  # a service is applied with its views, and no view goes
        others = [view for view in self.versions.values() if view.name == pin.name]
        same = [view for view in others if fingerprint(view.spec) == pin.fingerprint]
        if not same:
            check_pin(service, pin, served.version, fingerprint(served.spec))
        return same[-1] if same else served

    def _make_plan(self, wanted: Sequence[_Asked], full_feature_names: bool) -> ReadPlan:
        if not wanted:
            raise MalformedRequestError("no features are asked for", hint='send "features": ["view:feature"]')
        asked: dict[str, list[tuple[int, str]]] = {}
        views: dict[str, _Asked] = {}
        names: list[str] = []
        dtypes: list[str] = []
        for position, one in enumerate(wanted):
            views.setdefault(one.as_named, one)
            asked.setdefault(one.as_named, []).append((position, one.feature))
            names.append(f"{one.as_named}__{one.feature}" if full_feature_names else one.feature)
            dtypes.append(one.view.features[one.feature].output_dtype)
        join_keys = {key.name: key for name in asked for key in views[name].view.spec.join_keys}
        references = [f"{one.as_named}:{one.feature}" for one in wanted]
        _refuse_collisions(references, [*join_keys, *names], len(join_keys), full_feature_names)
        parts = tuple(
            PlanPart(
                views[name].view,
                tuple(feature for _, feature in own),
                tuple(position for position, _ in own),
                *self._canary(views[name], [feature for _, feature in own]),
            )
            for name, own in asked.items()
        )
        return ReadPlan(tuple(join_keys.values()), parts, tuple(names), tuple(dtypes))

    def _canary(self, asked: _Asked, features: Sequence[str]) -> tuple[ServedView | None, float]:
        """Of a view that is asked for without a version. A canary that can't answer as the served one does is none."""
        canary, share = self.canaries.get(asked.as_named, (None, 0.0))
        if canary is None or asked.view is not self.views.get(asked.as_named):
            return None, 0.0
        same = canary.spec.join_keys == asked.view.spec.join_keys and all(
            name in canary.features and canary.features[name].output_dtype == asked.view.features[name].output_dtype
            for name in features
        )
        return (canary, share) if same else (None, 0.0)

    def _find(self, reference: str) -> _Asked:
        name, colon, feature = reference.partition(":")
        if not colon:
            raise MalformedRequestError(
                f"feature {reference!r} is not written as view:feature",
                hint=_nearest(reference, list(self.views)),
            )
        view = self._version(name) if "@" in name else self.views.get(name)
        if view is None:
            raise UnknownViewError(f"feature view '{name}' does not exist", hint=_nearest(name, list(self.views)))
        if feature not in view.features:
            raise UnknownFeatureError(
                f"feature view '{name}' has no feature '{feature}'",
                hint=_nearest(feature, list(view.features)),
            )
        return _Asked(name, feature, view)

    def _version(self, reference: str) -> ServedView | None:
        """The version of "view@2". Raises UnknownViewError for a version that is not computed."""
        name, version = split_reference(reference)
        if name in self.views and f"{name}@{version}" not in self.versions:
            computed = ", ".join(one for one, view in self.versions.items() if view.name == name)
            raise UnknownViewError(
                f"version {version} of feature view '{name}' is not computed", hint=f"there is {computed}"
            )
        return self.versions.get(f"{name}@{version}")


def make_catalog(served: ServedDefinitions) -> Catalog:
    """Compile what the registry says can be read."""
    versions: dict[str, ServedView] = {}
    for view in served.views:
        source = served.sources[view.spec.source]
        compiled = compile_view(view.spec, source, view_id=view.view_id, version=view.version)
        versions[compiled.reference] = compiled
    for batch_view in served.batch_views:
        compiled_batch = CompiledBatchView(batch_view.view_id, batch_view.version, batch_view.spec)
        versions[f"{compiled_batch.name}@{compiled_batch.version}"] = compiled_batch
    views = {name: versions[f"{name}@{route.served}"] for name, route in sorted(served.routes.items())}
    canaries = {
        name: (versions[f"{name}@{route.canary}"], route.canary_share or 0.0)
        for name, route in served.routes.items()
        if route.canary is not None
    }
    return Catalog(views, served.services, versions, canaries)


def load_catalog(place: Path | str) -> Catalog:
    """What can be read now, of the registry at a path or URL. Raises RegistryError."""
    served = DefinitionsFollower(place).poll()
    assert served is not None, "the first look sees something"
    return make_catalog(served)


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
