"""Definitions for tests of the registry, and applying them."""

from __future__ import annotations

from typing import Any

import msgspec

from featurestore.definitions.resolve import ResolvedDefinitions, fingerprint
from featurestore.definitions.specs import (
    ColumnSpec,
    EntitySpec,
    FeatureServiceSpec,
    FeatureSpec,
    JoinKeySpec,
    ServiceViewSpec,
    SourceSpec,
    ViewSpec,
    WindowSpec,
)
from featurestore.registry import Plan, Registry

HOUR = 3_600_000_000
CARD = EntitySpec(name="card", join_keys=(JoinKeySpec(name="card_id", dtype="String"),))
SOURCE = SourceSpec(
    name="payments",
    topic="payments",
    schema="payments.avsc",
    format="json",
    event_time="ts",
    max_out_of_orderness_us=0,
    allowed_lateness_us=0,
    idle_timeout_us=1,
    max_future_us=1,
    columns=(ColumnSpec(name="card_id", dtype="String"), ColumnSpec(name="ts", dtype="Datetime", unit="ms")),
)


def count(hours: int = 1) -> FeatureSpec:
    window = WindowSpec(kind="sliding", size_us=hours * HOUR)
    return FeatureSpec(name="count", function="count", window=window, output_dtype="Int64")


def view(name: str = "activity", hours: int = 1, **changes: Any) -> ViewSpec:
    fields: dict[str, Any] = {"source": "payments", "entities": (CARD,), "features": (count(hours),)}
    return ViewSpec(name=name, **{**fields, **changes})


def service(*views: ViewSpec, name: str = "fraud") -> FeatureServiceSpec:
    parts = (ServiceViewSpec(name=one.name, features=("count",), fingerprint=fingerprint(one)) for one in views)
    return FeatureServiceSpec(name=name, views=tuple(parts))


def resolved(
    *views: ViewSpec, services: tuple[FeatureServiceSpec, ...] = (), source: SourceSpec = SOURCE
) -> ResolvedDefinitions:
    by_name = {view.name: view for view in views}
    return ResolvedDefinitions({source.name: source}, by_name, {}, {one.name: one for one in services})


def apply(registry: Registry, *views: ViewSpec, services: tuple[FeatureServiceSpec, ...] = (), **options: Any) -> Plan:
    plan = registry.plan(resolved(*views, services=services))
    registry.apply(plan, **options)
    return plan


def with_owner(spec: ViewSpec, owner: str) -> ViewSpec:
    return msgspec.structs.replace(spec, owner=owner)
