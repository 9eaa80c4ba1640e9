"""Stream feature views: which features, of which entities, from which source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import polars as pl

from featurestore.definitions.agg import Aggregation
from featurestore.definitions.entity import Entity
from featurestore.definitions.expressions import check_elementwise
from featurestore.definitions.metadata import SLO, check_people, check_view_metadata
from featurestore.definitions.names import (
    Duration,
    check_identifier,
    check_name,
    check_not_reserved,
    duration_us,
)
from featurestore.definitions.service import FeatureSelection, select
from featurestore.definitions.source import KafkaSource
from featurestore.definitions.specs import Criticality
from featurestore.definitions.windows import check_window
from featurestore.durations import format_duration
from featurestore.errors import DefinitionError


@dataclass(frozen=True, eq=False)
class StreamFeatureView:
    """Features of one or several entities, aggregated from a source by event time.

    where: boolean expression; events for which it is false or null are left out. derive: columns computed
    from the event before aggregation. ttl: how long an entity counts as known after its newest event,
    None for ever. snapshot_every: distance of the snapshots of sliding windows. start: where a new view
    begins in the topic. Raises DefinitionError when built wrongly, naming the view, the field and the way
    to mend it.
    """

    name: str
    source: KafkaSource
    entities: Sequence[Entity]
    features: Sequence[Aggregation]
    where: pl.Expr | None = None
    derive: Mapping[str, pl.Expr] = field(default_factory=dict)
    ttl: Duration | None = None
    snapshot_every: Duration = "1m"
    start: str = "earliest"
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    criticality: Criticality | None = None
    slo: SLO | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "view")
        what = f"view '{self.name}'"
        self._check_containers(what)
        # Frozen from here on, and what the author passed can't change below it.
        object.__setattr__(self, "entities", tuple(self.entities))
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "derive", dict(self.derive or {}))
        object.__setattr__(self, "tags", check_people(what, self.owner, self.description, self.tags))
        check_view_metadata(what, self.criticality, self.slo)
        if not isinstance(self.source, KafkaSource):
            raise DefinitionError(f"{what}: source is {self.source!r}", hint="give a KafkaSource")
        if not self.entities or not all(isinstance(entity, Entity) for entity in self.entities):
            raise DefinitionError(
                f"{what}: entities is {list(self.entities)!r}", hint="give one or several Entity objects"
            )
        if not self.features or not all(isinstance(feature, Aggregation) for feature in self.features):
            raise DefinitionError(
                f"{what}: features must be a list of aggregates and not be empty",
                hint='write features=[agg.count(over="1h")]',
            )
        keys = [key for entity in self.entities for key in entity.join_keys]
        names = [name for feature in self.features for name, _ in feature.features()]
        for name, number in Counter(keys).items():
            if number > 1:
                raise DefinitionError(
                    f"{what}: join key '{name}' comes from two entities", hint="give each its own join key"
                )
        for name, number in Counter(names).items():
            if number > 1:
                raise DefinitionError(
                    f"{what}: feature '{name}' is defined {number} times", hint="rename one with .alias(...)"
                )
            check_identifier(name, f"{what}, feature")
            check_not_reserved(name, f"{what}, feature")
            if name in keys:
                raise DefinitionError(
                    f"{what}: feature '{name}' has the name of a join key", hint="rename it with .alias(...)"
                )
        self._check_expressions(what)
        self._check_windows(what)
        if self.start not in ("earliest", "latest"):
            raise DefinitionError(f"{what}: start is {self.start!r}", hint='"earliest" or "latest"')
        duration_us(self.snapshot_every, f"{what}: snapshot_every", positive=True)
        if self.ttl is not None:
            duration_us(self.ttl, f"{what}: ttl", positive=True)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of all features, in order."""
        return tuple(name for feature in self.features for name, _ in feature.features())

    def __getitem__(self, names: Sequence[str]) -> FeatureSelection:
        """Some of the features, for a FeatureService: `view[["a", "b"]]`. Raises DefinitionError for unknown ones."""
        return select(self, names)

    # Python would take a class with __getitem__ for one that can be gone through by 0, 1, 2, …
    __iter__ = None

    def _check_containers(self, what: str) -> None:
        for field_name, example in (("entities", "entities=[card]"), ("features", 'features=[agg.count(over="1h")]')):
            value = getattr(self, field_name)
            if not isinstance(value, Sequence) or isinstance(value, str):
                raise DefinitionError(f"{what}: {field_name} is {value!r}, not a list", hint=f"write {example}")
        if not isinstance(self.derive, Mapping | None):
            raise DefinitionError(
                f"{what}: derive is {self.derive!r}", hint='write derive={"column": pl.col("amount") * 2}'
            )

    def _check_expressions(self, what: str) -> None:
        if self.where is not None:
            check_elementwise(self.where, f"{what}, where")
        for column, expression in (self.derive or {}).items():
            check_identifier(column, f"{what}, derive")
            check_not_reserved(column, f"{what}, derive")
            check_elementwise(expression, f"{what}, derive '{column}'")

    def _check_windows(self, what: str) -> None:
        windows = [pair for feature in self.features for pair in feature.features()]
        for name, window in windows:
            check_window(window, f"{what}, feature '{name}'")
        tiles = sorted({window.tile_us for _, window in windows if window.tile_us})
        for finer, coarser in pairwise(tiles):
            if coarser % finer:
                raise DefinitionError(
                    f"{what}: tile {format_duration(finer)} does not divide tile {format_duration(coarser)}",
                    hint="choose tiles of which each is a multiple of the next smaller one",
                )
