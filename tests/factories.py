"""Small specs and events for tests, built without a schema file or Kafka."""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.compile.view import CompiledView, compile_view
from featurestore.definitions.specs import (
    EntitySpec,
    FeatureSpec,
    JoinKeySpec,
    SourceSpec,
    ViewSpec,
    WindowSpec,
)

MINUTE = 60_000_000
OUTPUT = {"count": "Int64", "mean": "Float64", "var": "Float64", "stddev": "Float64"}


def sliding(minutes: float, tile_us: int = 0) -> WindowSpec:
    return WindowSpec(kind="sliding", size_us=int(minutes * MINUTE), tile_us=tile_us)


def tumbling(minutes: float, offset_us: int = 0) -> WindowSpec:
    return WindowSpec(kind="tumbling", size_us=int(minutes * MINUTE), offset_us=offset_us)


def hopping(minutes: float, every: float) -> WindowSpec:
    return WindowSpec(kind="hopping", size_us=int(minutes * MINUTE), every_us=int(every * MINUTE))


LIFETIME = WindowSpec(kind="lifetime")


def feature(function: str, window: WindowSpec, column: str | None = "amount", dtype: str = "Float64") -> FeatureSpec:
    if column is None:
        dtype_or_none, output = None, "Int64"
    else:
        dtype_or_none, output = dtype, OUTPUT.get(function, dtype)
    name = f"{column or 'rows'}_{function}_{window.kind}_{window.size_us}_{window.every_us}_{window.offset_us}"
    return FeatureSpec(
        name=name, function=function, window=window, output_dtype=output, column=column, input_dtype=dtype_or_none
    )


def source_spec(*, out_of_orderness_us: int = 0, lateness_us: int = 0) -> SourceSpec:
    return SourceSpec(
        name="events",
        topic="events",
        schema="events.avsc",
        format="json",
        event_time="ts",
        max_out_of_orderness_us=out_of_orderness_us,
        allowed_lateness_us=lateness_us,
        idle_timeout_us=30_000_000,
        max_future_us=MINUTE,
        columns=(),
    )


def view_spec(features: Sequence[FeatureSpec], *, ttl_us: int = 0, snapshot_every_us: int = MINUTE) -> ViewSpec:
    return ViewSpec(
        name="activity",
        source="events",
        entities=(EntitySpec(name="card", join_keys=(JoinKeySpec(name="card_id", dtype="String"),)),),
        features=tuple(features),
        ttl_us=ttl_us,
        snapshot_every_us=snapshot_every_us,
    )


def compiled(
    features: Sequence[FeatureSpec],
    *,
    out_of_orderness_us: int = 0,
    lateness_us: int = 0,
    ttl_us: int = 0,
    snapshot_every_us: int = MINUTE,
) -> CompiledView:
    source = source_spec(out_of_orderness_us=out_of_orderness_us, lateness_us=lateness_us)
    spec = view_spec(features, ttl_us=ttl_us, snapshot_every_us=snapshot_every_us)
    return compile_view(spec, source, view_id=1, version=1)
