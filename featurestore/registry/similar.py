"""Features that are computed as another one is: a new one of them is one too many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from featurestore.definitions.specs import BatchViewSpec, FeatureSpec, ViewSpec

Computed = tuple[object, ...]
"""What a feature computes from what; equal for two that have the same value wherever there are events."""


@dataclass(frozen=True, order=True)
class Similar:
    """`feature` computes what `known` does already; "view:feature" both."""

    feature: str
    known: str

    def __str__(self) -> str:
        return f"{self.feature} computes what {self.known} does already"


def similar_features(
    wanted: Iterable[ViewSpec | BatchViewSpec], deployed: Iterable[ViewSpec | BatchViewSpec]
) -> tuple[Similar, ...]:
    """Features that `wanted` views bring and that compute what another feature does. Sorted; each new feature once.

    A feature is compared with those of deployed views, whose place a wanted one of the same name takes, and with wanted
    ones before it. Alike are features of the same source, join keys, filter, function, column (by what it is derived
    from, whatever its name) and window, also if default or ttl differ; of batch views, of the same column of the same
    source.
    """
    wanted, deployed = list(wanted), list(deployed)
    old = {name for view in deployed for name, _ in _features(view)}
    replaced = {view.name for view in wanted}
    owners: dict[Computed, str] = {}
    for view in deployed:
        if view.name not in replaced:
            for name, computed in _features(view):
                owners.setdefault(computed, name)
    brought = [(name, computed) for view in wanted for name, computed in _features(view)]
    # Those that were there first: a new one is never what an old one is compared with.
    for name, computed in brought:
        if name in old:
            owners.setdefault(computed, name)
    return tuple(
        sorted(
            Similar(name, owners[computed])
            for name, computed in brought
            if name not in old and owners.setdefault(computed, name) != name
        )
    )


def _features(view: ViewSpec | BatchViewSpec) -> list[tuple[str, Computed]]:
    if isinstance(view, BatchViewSpec):
        keys = frozenset((key.name, key.dtype) for key in view.join_keys)
        return [(f"{view.name}:{one.name}", ("batch", view.source, keys, one.name)) for one in view.features]
    derived = dict(view.derive)
    return [(f"{view.name}:{one.name}", _computed(view, one, derived)) for one in view.features]


def _computed(view: ViewSpec, feature: FeatureSpec, derived: dict[str, str]) -> Computed:
    # A derived column may not have the name of one of the source's, but a text could look like a name.
    column = feature.column
    read = ("derived", derived[column]) if column in derived else ("column", column)
    keys = frozenset((key.name, key.dtype) for key in view.join_keys)
    window = feature.window
    return (
        "stream",
        view.source,
        keys,
        view.where,
        feature.function,
        read,
        feature.input_dtype,
        # The size of tiles says how exact the tail of a sliding window is, not what is meant.
        (window.kind, window.size_us, window.every_us, window.offset_us),
    )
