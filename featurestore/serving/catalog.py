"""What can be read: the applied views, compiled, and a plan for each list of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Union

from featurestore.compile.batch import CompiledBatchView
from featurestore.compile.view import CompiledView, compile_view
from featurestore.definitions.specs import JoinKeySpec
from featurestore.errors import MalformedRequestError, UnknownFeatureError, UnknownViewError
from featurestore.registry import Registry
from featurestore.serving.protocol import FeatureNameCollisionError

_PLANS_KEPT = 1024

ServedView = Union[CompiledView, CompiledBatchView]


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
    """The applied views at one moment, by name."""

    views: Mapping[str, ServedView]
    _plans: dict[tuple[tuple[str, ...], bool], ReadPlan] = field(default_factory=dict, compare=False)

    @property
    def stores(self) -> list[str]:
        """Online stores of the views, sorted."""
        return sorted({view.store for view in self.views.values()})

    def plan(self, features: Sequence[str], full_feature_names: bool) -> ReadPlan:
        """The plan of these "view:feature" references.

        Raises UnknownViewError, UnknownFeatureError (with the nearest names), MalformedRequestError.
        """
        key = (tuple(features), full_feature_names)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._make_plan(key[0], full_feature_names)
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _make_plan(self, references: tuple[str, ...], full_feature_names: bool) -> ReadPlan:
        if not references:
            raise MalformedRequestError("no features are asked for", hint='send "features": ["view:feature"]')
        asked: dict[str, list[tuple[int, str]]] = {}
        names: list[str] = []
        dtypes: list[str] = []
        for position, reference in enumerate(references):
            view, feature = self._find(reference)
            asked.setdefault(view.name, []).append((position, feature))
            names.append(f"{view.name}__{feature}" if full_feature_names else feature)
            dtypes.append(view.features[feature].output_dtype)
        join_keys = {key.name: key for name in asked for key in self.views[name].spec.join_keys}
        _refuse_collisions(references, [*join_keys, *names], len(join_keys), full_feature_names)
        parts = tuple(
            PlanPart(self.views[name], tuple(f for _, f in wanted), tuple(position for position, _ in wanted))
            for name, wanted in asked.items()
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
    """Compile the applied views. Raises RegistryError."""
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
    finally:
        registry.close()
    return Catalog(views)


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
