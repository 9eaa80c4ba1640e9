"""Stream feature views: which features, of which entities, from which source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from featurestore.definitions.agg import Aggregation
from featurestore.definitions.entity import Entity, check_name
from featurestore.definitions.expressions import check_elementwise
from featurestore.definitions.source import KafkaSource
from featurestore.definitions.specs import WindowSpec
from featurestore.definitions.windows import Duration, duration_us
from featurestore.durations import format_duration
from featurestore.errors import DefinitionError

RESERVED = frozenset(
    {
        *("window_start", "window_end", "revision", "created_timestamp", "event_timestamp"),
        *("_partition", "_offset", "_key", "_partition_watermark", "event_time", "arrival_time"),
    }
)


@dataclass(frozen=True, eq=False)
class StreamFeatureView:
    """Features of one or several entities, aggregated from a source by event time.

    where: boolean expression, events for which it is false or null are left out. derive: columns computed from the
    event before aggregation. ttl: how long an entity counts as known after its newest event, None for ever.
    snapshot_every: distance of the snapshots of sliding windows. start: where a new view begins in the topic.
    Raises DefinitionError when built wrongly, naming the view, the field and the way to mend it.
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

    def __post_init__(self) -> None:
        check_name(self.name, "view")
        what = f"view '{self.name}'"
        if not isinstance(self.source, KafkaSource):
            raise DefinitionError(f"{what}: source is {self.source!r}", hint="give a KafkaSource")
        if not self.entities or not all(isinstance(entity, Entity) for entity in self.entities):
            raise DefinitionError(f"{what}: entities is {self.entities!r}", hint="give a list of Entity objects")
        if not self.features or not all(isinstance(feature, Aggregation) for feature in self.features):
            raise DefinitionError(
                f"{what}: features must be a list of aggregates and not be empty", hint='features=[agg.count(over="1h")]'
            )
        keys = [key for entity in self.entities for key in entity.join_keys]
        names = [name for feature in self.features for name in feature.feature_names()]
        for name, number in Counter(keys).items():
            if number > 1:
                raise DefinitionError(f"{what}: join key '{name}' comes from two entities", hint="join keys must differ")
        for name, number in Counter(names).items():
            if number > 1:
                raise DefinitionError(
                    f"{what}: feature '{name}' is defined {number} times", hint="rename one with .alias(...)"
                )
            check_name(name, f"{what}, feature")
            if name in RESERVED or name in keys:
                raise DefinitionError(
                    f"{what}: feature name '{name}' is {'a join key' if name in keys else 'reserved'}",
                    hint="rename it with .alias(...)",
                )
        self._check_expressions(what)
        self._check_windows(what)
        if self.start not in ("earliest", "latest"):
            raise DefinitionError(f"{what}: start is {self.start!r}", hint='"earliest" or "latest"')
        duration_us(self.snapshot_every, f"{what}: snapshot_every")
        if self.ttl is not None:
            duration_us(self.ttl, f"{what}: ttl")

    def _check_expressions(self, what: str) -> None:
        if self.where is not None:
            check_elementwise(self.where, f"{what}, where")
        for column, expression in (self.derive or {}).items():
            check_name(column, f"{what}, derive")
            if column in RESERVED:
                raise DefinitionError(f"{what}: derived column '{column}' is reserved", hint="choose another name")
            check_elementwise(expression, f"{what}, derive '{column}'")

    def _check_windows(self, what: str) -> None:
        windows: list[WindowSpec] = [window for feature in self.features for window in feature.windows]
        tiles = sorted({window.tile_us for window in windows if window.tile_us})
        for finer, coarser in zip(tiles, tiles[1:], strict=False):
            if coarser % finer:
                raise DefinitionError(
                    f"{what}: tiles {format_duration(finer)} and {format_duration(coarser)} do not divide each other",
                    hint="choose tiles of which each is a multiple of the next smaller one",
                )
