"""The stream views of a manifest, ready to be asked for more than their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl

from featurestore.batches import ARRIVAL_TIME, EVENT_TIME
from featurestore.compile.bind import BoundView, bind_view
from featurestore.compile.keys import encoded_key
from featurestore.compile.view import compile_view
from featurestore.definitions.specs import SourceSpec, ViewSpec
from featurestore.durations import parse_instant_us
from featurestore.offline.listing import with_fresh_files
from featurestore.registry import Registry, registry_file
from featurestore.training.archive import KEY, files_between, read_events
from featurestore.training.events import ENTITY
from featurestore.training.history import JoinOptions, WantedView, point_in_time_join
from featurestore.training.manifest import Manifest, view_of
from featurestore.training.spine import Spine

SUMMED = ("sum", "mean", "var", "stddev")
"""Functions whose floats depend on the order in which events are added."""
_EVER_US = 2**62


@dataclass(frozen=True)
class ManifestView:
    """A view of a manifest. columns: by feature of the view that the set has, the name of its column."""

    bound: BoundView
    source: SourceSpec
    columns: dict[str, str]


def manifest_views(data_dir: Path, manifest: Manifest, registry_place: Path | str | None = None) -> list[ManifestView]:
    """The manifest's stream views. Raises UnknownViewError when one's source is not registered any more."""
    registry = Registry.open(registry_place or registry_file(data_dir), create=False)
    try:
        sources = {view.name: registry.source(view.definition.source) for view in manifest.views}
    finally:
        registry.close()
    found = []
    for view in manifest.views:
        own = {f.partition(":")[2]: name for f, name in manifest.columns.items() if view_of(f) == view.name}
        compiled = compile_view(view.definition, sources[view.name], view_id=0, version=view.version)
        found.append(ManifestView(bind_view(compiled), sources[view.name], own))
    return found


def window_sizes(data_dir: Path, views: Sequence[ManifestView], manifest: Manifest, spine: Spine) -> pl.DataFrame:
    """Σ|x| over the window of each row, a column for each one of the set that is summed from floats, shape (n, …).

    Two sums of the same numbers in another order may differ by rounding in proportion to it, not to the sum: a payment
    and its refund leave almost nothing.
    """
    wanted = [WantedView(*_sizes_of(view)) for view in views]
    wanted = [view for view in wanted if view.features]
    known_by_us = None if manifest.knowledge_time is None else parse_instant_us(manifest.knowledge_time)
    options = JoinOptions(manifest.knowledge, known_by_us, dict(manifest.archive), None)
    sizes = point_in_time_join(data_dir / "offline", spine, wanted, options).features
    return sizes.with_columns(pl.all().cast(pl.Float64).fill_null(0.0))


def _sizes_of(view: ManifestView) -> tuple[BoundView, SourceSpec, tuple[tuple[str, str], ...]]:
    spec: ViewSpec = view.bound.compiled.spec
    summed = [
        msgspec.structs.replace(feature, function="sum", output_dtype=feature.input_dtype or "Float64", default=None)
        for feature in spec.features
        if feature.name in view.columns and feature.function in SUMMED and feature.output_dtype == "Float64"
    ]
    if not summed:
        return view.bound, view.source, ()
    twin = msgspec.structs.replace(spec, features=tuple(summed))
    derive = dict(view.bound.derive)
    for column in {feature.column for feature in summed if feature.column is not None}:
        size = derive.get(column, pl.col(column)).abs()
        # What is not finite is not rounded either, and would allow everything.
        derive[column] = pl.when(size.cast(pl.Float64).is_finite()).then(size)
    bound = BoundView(compile_view(twin, view.source, view_id=0, version=0), view.bound.where, derive)
    return bound, view.source, tuple((feature.name, view.columns[feature.name]) for feature in summed)


def after_next_event(root: Path, view: ManifestView, manifest: Manifest, spine: Spine) -> pl.Series:
    """For each row the first instant at which one more event of its entity is known; Int64 µs, null where none is.

    By event time that is just after the event; by arrival once it has also arrived.
    """
    join_keys = view.bound.compiled.spec.join_keys
    key = spine.keys.select(encoded_key(join_keys).alias(KEY))
    entities = key.drop_nulls().unique().sort(KEY).with_row_index(ENTITY).cast({ENTITY: pl.Int64})
    by_arrival = manifest.knowledge == "arrival"
    from_us = None if by_arrival or not spine.as_of.len() else int(spine.as_of.min())  # type: ignore[arg-type]
    known_by_us = None if manifest.knowledge_time is None else parse_instant_us(manifest.knowledge_time)

    def read() -> pl.DataFrame:
        files = files_between(root, view.source.name, manifest.archive[view.source.name], from_us, _EVER_US)
        events = read_events(
            files, view.bound, view.source, entities, from_us=from_us, to_us=_EVER_US, arrived_by_us=known_by_us
        )
        times = [frame.select(ENTITY, EVENT_TIME, ARRIVAL_TIME) for frame in events]
        empty = pl.DataFrame(schema={ENTITY: pl.Int64, EVENT_TIME: pl.Int64, ARRIVAL_TIME: pl.Int64})
        return pl.concat([empty, *times])

    happened = pl.col(EVENT_TIME) + 1
    known = pl.max_horizontal(happened, ARRIVAL_TIME) if by_arrival else happened
    events = with_fresh_files(read).select(ENTITY, known.alias("known"), known.alias("at")).sort("at")
    asked = key.join(entities, on=KEY, how="left", maintain_order="left").select(ENTITY).with_row_index("row")
    asked = asked.with_columns(spine.as_of.alias("at")).sort("at")
    found = asked.join_asof(
        events,
        on="at",
        by=ENTITY,
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,  # it can't be seen with `by`, and both were sorted just now
    )
    return found.sort("row")["known"]
