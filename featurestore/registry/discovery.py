"""What is deployed, for people who look for it: every definition with who made it, and its features one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from sqlalchemy import select

from featurestore.definitions.specs import (
    BatchViewSpec,
    EntitySpec,
    FeatureServiceSpec,
    FeatureSpec,
    FieldSpec,
    FileSourceSpec,
    PIIClass,
    SourceSpec,
    ViewSpec,
    WindowSpec,
)
from featurestore.durations import format_duration
from featurestore.namespaces import namespace_of
from featurestore.registry.database import Database
from featurestore.registry.plan import Kind, Spec
from featurestore.registry.records import SPEC_TYPES, decoded
from featurestore.registry.tables import DEFINITIONS

PII_CLASSES: tuple[str, ...] = get_args(PIIClass)


@dataclass(frozen=True)
class Definition:
    """A definition as it was applied last. created_at: when it was applied first; times are UTC."""

    kind: Kind
    name: str
    version: int
    spec: Spec
    created_at: datetime
    created_by: str
    applied_at: datetime
    applied_by: str
    git_revision: str | None

    @property
    def features(self) -> tuple[Feature, ...]:
        """Of a view, its features in their order; of others none."""
        if not isinstance(self.spec, ViewSpec | BatchViewSpec):
            return ()
        return tuple(Feature(self.spec, one) for one in self.spec.features)


@dataclass(frozen=True)
class Feature:
    """One feature of a deployed view."""

    view: ViewSpec | BatchViewSpec
    spec: FeatureSpec | FieldSpec

    @property
    def reference(self) -> str:
        """ "view:feature"."""
        return f"{self.view.name}:{self.spec.name}"

    @property
    def computed(self) -> str:
        """What it is, in words: "sum of amount, sliding 1h"; of a batch view's, the column."""
        if isinstance(self.spec, FieldSpec):
            return f"column {self.spec.name}"
        column = f" of {self.spec.column}" if self.spec.column else ""
        return f"{self.spec.function}{column}, {window_text(self.spec.window)}"


@dataclass(frozen=True)
class Filter:
    """What is looked for; None: all. tag: "name" or "name=value". pii: a class. deprecated: only such.

    namespace: "default" for names without one.
    """

    owner: str | None = None
    tag: str | None = None
    pii: str | None = None
    deprecated: bool = False
    namespace: str | None = None

    def accepts(self, spec: Spec) -> bool:
        """Whether namespace, owner and tags are as asked; of a view also whether any of its features is."""
        if self.namespace is not None and namespace_of(spec.name) != self.namespace:
            return False
        if self.owner is not None and spec.owner != self.owner:
            return False
        if self.tag is not None:
            name, equals, value = self.tag.partition("=")
            if name not in spec.tags or (equals and spec.tags[name] != value):
                return False
        if not isinstance(spec, ViewSpec | BatchViewSpec):
            return self.pii is None and not self.deprecated
        return any(self._accepts_feature(one) for one in spec.features)

    def features(self, definitions: Iterable[Definition]) -> list[Feature]:
        """Features that are as asked; owner and tags are those of their view."""
        return [
            feature
            for definition in definitions
            if self.accepts(definition.spec)
            for feature in definition.features
            if self._accepts_feature(feature.spec)
        ]

    def _accepts_feature(self, feature: FeatureSpec | FieldSpec) -> bool:
        if self.pii is not None and feature.metadata.pii != self.pii:
            return False
        return not self.deprecated or feature.metadata.deprecated is not None


def read_definitions(database: Database, kinds: Sequence[Kind] = ()) -> list[Definition]:
    """Everything that is deployed, by kind and name; of these kinds, or of all."""
    query = select(DEFINITIONS).order_by(DEFINITIONS.c.kind, DEFINITIONS.c.name)
    if kinds:
        query = query.where(DEFINITIONS.c.kind.in_(kinds))
    with database.transaction() as connection:
        return [
            Definition(
                row.kind,
                row.name,
                row.version,
                decoded(row.spec, SPEC_TYPES[row.kind], database.place),
                row.created_at,
                row.created_by,
                row.applied_at,
                row.applied_by,
                row.git_revision,
            )
            for row in connection.execute(query)
        ]


def source_name(view: ViewSpec | BatchViewSpec) -> str:
    """Where a view's rows come from: its source, the path of its files, or "query" (whose URL may hold a password)."""
    if isinstance(view, ViewSpec):
        return view.source
    return view.source.path if isinstance(view.source, FileSourceSpec) else "query"


def services_reading(services: Iterable[FeatureServiceSpec], view: str, feature: str | None = None) -> list[str]:
    """Names of the feature services that read a view, or one feature of it; sorted."""
    return sorted(
        service.name
        for service in services
        for part in service.views
        if part.name == view and (feature is None or feature in part.features)
    )


def window_text(window: WindowSpec) -> str:
    """A window in words: "sliding 10m", "hopping 10m every 1m", "tumbling 1h offset 5m", "lifetime"."""
    if window.kind == "lifetime":
        return window.kind
    text = f"{window.kind} {format_duration(window.size_us)}"
    if window.every_us:
        text += f" every {format_duration(window.every_us)}"
    return text + (f" offset {format_duration(window.offset_us)}" if window.offset_us else "")


def kind_text(kind: str) -> str:
    """A kind as people say it: "batch view"."""
    return kind.replace("_", " ")


def keys_text(spec: EntitySpec | ViewSpec | BatchViewSpec) -> str:
    """Join keys with their types: "card_id String"."""
    return ", ".join(f"{key.name} {key.dtype}" for key in spec.join_keys)


def columns_read(spec: Spec) -> set[str]:
    """Names of columns that belong to a definition: those it reads, or, of a source, has."""
    from featurestore.registry.lineage import columns_of

    if isinstance(spec, SourceSpec):
        return {column.name for column in spec.columns}
    if isinstance(spec, EntitySpec):
        return {key.name for key in spec.join_keys}
    if isinstance(spec, FeatureServiceSpec):
        return set()
    found = {key.name for key in spec.join_keys}
    if isinstance(spec, BatchViewSpec):
        return found | {feature.name for feature in spec.features}
    found.update(columns_of(spec.where or ""), *(columns_of(text) for _, text in spec.derive))
    return found | {feature.column for feature in spec.features if feature.column}
