"""Everything that the registry knows of one thing: a view, a feature, a source, an entity or a feature service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Union

from featurestore.definitions.names import nearest
from featurestore.definitions.specs import BatchViewSpec, FeatureMetadataSpec, FeatureServiceSpec, SourceSpec, ViewSpec
from featurestore.errors import RegistryError, UnknownFeatureError
from featurestore.registry.discovery import Definition, read_definitions, services_reading, window_text
from featurestore.registry.lineage import Node, build_lineage
from featurestore.registry.plan import Kind
from featurestore.registry.store import Registry
from featurestore.registry.usage import FeatureReads, FeatureUse
from featurestore.registry.views import Route, ViewVersion

_ORDER: tuple[Kind, ...] = ("view", "batch_view", "feature_service", "source", "entity")
"""In this order a name is looked up."""


@dataclass(frozen=True)
class ColumnRead:
    """A column that a feature is computed from. column: "source.column"; role: value, where, key or time."""

    column: str
    role: str
    expression: str


@dataclass(frozen=True)
class Reads:
    """Who reads it. recorded_since: the first day of which any read, of whatever, is known; None when none is.

    consumers: by name, with how many reads of any of its features are known and the newest of them.
    """

    recorded_since: date | None
    last_read_at: datetime | None
    consumers: tuple[Consumer, ...]


@dataclass(frozen=True)
class Consumer:
    """Who read something. reads: requests, counted once for each feature."""

    name: str
    reads: int
    last_read_at: datetime


@dataclass(frozen=True)
class FeatureSheet:
    """One feature. window: in words, None for a column of a batch view; services: that read it."""

    name: str
    type: str
    function: str | None
    column: str | None
    window: str | None
    default: object
    metadata: FeatureMetadataSpec
    columns: tuple[ColumnRead, ...]
    services: tuple[str, ...]
    reads: Reads


@dataclass(frozen=True)
class Sheet:
    """definition: as it was applied last. The rest of a view or feature: route, versions, services that read it, reads;
    feature: the one that was asked for; features: all of the view. used_by: of a source or entity, views; of a service,
    nobody."""

    definition: Definition
    route: Route | None = None
    versions: tuple[ViewVersion, ...] = ()
    services: tuple[str, ...] = ()
    reads: Reads | None = None
    feature: FeatureSheet | None = None
    features: tuple[FeatureSheet, ...] = ()
    used_by: tuple[str, ...] = ()


def read_sheet(registry: Registry, name: str) -> Sheet:
    """The sheet of a name: "view:feature", or a view, feature service, source or entity, in this order.

    Raises RegistryError, UnknownFeatureError, with the nearest names.
    """
    definitions = read_definitions(registry.database)
    wanted, colon, feature = name.partition(":")
    definition = _find(definitions, wanted, views_only=bool(colon))
    spec = definition.spec
    if not isinstance(spec, ViewSpec | BatchViewSpec):
        return Sheet(definition, used_by=_users(definitions, definition))
    if colon and feature not in {one.name for one in spec.features}:
        raise UnknownFeatureError(
            f"view '{spec.name}' has no feature '{feature}'", hint=nearest(feature, [one.name for one in spec.features])
        )
    services = [one.spec for one in definitions if isinstance(one.spec, FeatureServiceSpec)]
    sources = {one.name: one.spec for one in definitions if isinstance(one.spec, SourceSpec)}
    usage = FeatureReads(registry.database)
    since, uses = usage.recorded_since(), usage.uses(spec.name)
    sheets = _features(spec, sources, services, since, uses)
    return Sheet(
        definition,
        registry.routes()[spec.name],
        tuple(registry.versions.of(spec.name)),
        tuple(services_reading(services, spec.name)),
        _reads(since, uses),
        next((one for one in sheets if one.name == feature), None) if colon else None,
        sheets,
    )


def _find(definitions: Sequence[Definition], name: str, *, views_only: bool) -> Definition:
    kinds = _ORDER[:2] if views_only else _ORDER
    for kind in kinds:
        for one in definitions:
            if (one.kind, one.name) == (kind, name):
                return one
    known = [one.name for one in definitions if one.kind in kinds]
    raise RegistryError(f"nothing deployed is called '{name}'", hint=nearest(name, known) if known else None)


def _users(definitions: Sequence[Definition], wanted: Definition) -> tuple[str, ...]:
    """Views that read a source, or are keyed by an entity."""
    views = [one.spec for one in definitions if isinstance(one.spec, ViewSpec | BatchViewSpec)]
    if wanted.kind == "source":
        return tuple(view.name for view in views if isinstance(view, ViewSpec) and view.source == wanted.name)
    return tuple(view.name for view in views if wanted.name in {entity.name for entity in view.entities})


def _features(
    view: Union[ViewSpec, BatchViewSpec],
    sources: Mapping[str, SourceSpec],
    services: Sequence[FeatureServiceSpec],
    since: date | None,
    uses: Sequence[FeatureUse],
) -> tuple[FeatureSheet, ...]:
    if isinstance(view, ViewSpec):
        lineage = build_lineage({view.source: sources[view.source]}, [view])
    else:
        lineage = build_lineage({}, (), [view])
    sheets = []
    for one in view.features:
        edges = lineage.inputs[Node("feature", f"{view.name}:{one.name}")]
        window = getattr(one, "window", None)
        sheets.append(
            FeatureSheet(
                one.name,
                one.output_dtype,
                getattr(one, "function", None),
                getattr(one, "column", one.name),
                None if window is None else window_text(window),
                one.default,
                one.metadata,
                tuple(ColumnRead(edge.source.name, edge.role, edge.expression) for edge in edges),
                tuple(services_reading(services, view.name, one.name)),
                _reads(since, [use for use in uses if use.feature == one.name]),
            )
        )
    return tuple(sheets)


def _reads(since: date | None, uses: Sequence[FeatureUse]) -> Reads:
    consumers = []
    for name in sorted({use.consumer for use in uses}):
        own = [use for use in uses if use.consumer == name]
        consumers.append(Consumer(name, sum(use.reads for use in own), max(use.last_read_at for use in own)))
    return Reads(since, max((one.last_read_at for one in consumers), default=None), tuple(consumers))
