"""Compile a view's spec: which slots a tile keeps, how tiles coarsen with age, what is emitted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import polars as pl

from featurestore.compute.aggregates import AGGREGATES, Aggregate
from featurestore.compute.slots import Column, Slot
from featurestore.compute.tiles import BASE_START
from featurestore.compute.windows import TileIndex, default_tile_us, merge_windows
from featurestore.definitions.specs import Scalar, SourceSpec, ViewSpec, WindowSpec
from featurestore.durations import format_duration

POLARS_DTYPES: dict[str, pl.DataType] = {
    "Int64": pl.Int64(),
    "Float64": pl.Float64(),
    "String": pl.String(),
    "Boolean": pl.Boolean(),
}

Instants = TypeVar("Instants", int, np.ndarray)
"""One instant, or an int64 array of them; µs since the epoch."""


@dataclass(frozen=True)
class CompiledFeature:
    """One feature, ready to be finalized."""

    name: str
    aggregate: Aggregate
    column: str
    window: WindowSpec
    output_dtype: str
    default: Scalar

    def values(self, fields: Mapping[str, Column]) -> pl.Series:
        """Values of the merged fields of this feature's window, in its output dtype, shape (m,)."""
        series = self.aggregate.finalize(fields, self.column).series()
        return series.cast(POLARS_DTYPES[self.output_dtype]).alias(self.name)


@dataclass(frozen=True)
class WindowGroup:
    """Features that share one window, and the slots they read."""

    window: WindowSpec
    features: tuple[CompiledFeature, ...]
    slots: tuple[Slot, ...]

    def start_us(self, as_of_us: Instants) -> Instants:
        """First tile start that a read as of each instant covers; its end is `end_us`."""
        window = self.window
        if window.kind == "lifetime":
            # Shaped like the instants, without a branch on what they are.
            return as_of_us * 0 + BASE_START
        if window.kind == "sliding":
            return (as_of_us - window.size_us) // window.tile_us * window.tile_us
        return self.end_us(as_of_us) - window.size_us

    def end_us(self, as_of_us: Instants) -> Instants:
        """End of the window that a read as of each instant sees: the instant, or the end of the newest one ended."""
        window = self.window
        if window.kind in ("lifetime", "sliding"):
            return as_of_us
        every = window.every_us or window.size_us
        return (as_of_us - window.offset_us) // every * every + window.offset_us

    def read(
        self, index: TileIndex, entity: np.ndarray, as_of_us: np.ndarray, snapshot_every_us: int = 0
    ) -> list[pl.Series]:
        """One series a feature: the values of entity[i] as of as_of_us[i]; see `merge_windows` for snapshots."""
        ends = self.end_us(as_of_us)
        fields = merge_windows(
            index, self.slots, entity, self.start_us(as_of_us), ends, snapshot_every_us=snapshot_every_us
        )
        return [feature.values(fields) for feature in self.features]


@dataclass(frozen=True)
class EmittedDataset:
    """What is emitted to the offline store at boundaries: one tumbling or hopping window, or the sliding snapshot.

    index: stable within the view version. size_us: how far a row looks for "has events"; every_us: distance of
    boundaries. For the sliding snapshot size == every == snapshot_every.
    """

    index: int
    name: str
    size_us: int
    every_us: int
    offset_us: int
    groups: tuple[WindowGroup, ...]
    is_snapshot: bool

    def pane_of(self, time_us: np.ndarray) -> np.ndarray:
        """Start of the pane [start, start + every) of each instant."""
        return (time_us - self.offset_us) // self.every_us * self.every_us + self.offset_us

    @property
    def ends_per_pane(self) -> int:
        return self.size_us // self.every_us

    @cached_property
    def reach_us(self) -> int:
        """How long after its start a tile counts in some row: the longest window, 0 for ever."""
        windows = [group.window for group in self.groups]
        if any(window.kind == "lifetime" for window in windows):
            return 0
        return max(window.size_us + (window.tile_us or window.every_us) for window in windows)

    def last_end_of(self, pane_us: np.ndarray) -> np.ndarray:
        """End of the last window that holds each pane."""
        return pane_us + self.size_us


@dataclass(frozen=True)
class TileLevel:
    """Tiles may have `granularity_us` when they end at least `horizon_us` before the correction line."""

    granularity_us: int
    horizon_us: int


@dataclass(frozen=True)
class CompiledView:
    """A view version, ready to run: the plan that the stream, the server and the offline store follow."""

    view_id: int
    version: int
    spec: ViewSpec
    allowed_lateness_us: int
    max_out_of_orderness_us: int
    slots: tuple[Slot, ...]
    groups: tuple[WindowGroup, ...]
    datasets: tuple[EmittedDataset, ...]
    levels: tuple[TileLevel, ...]
    retention_us: int
    has_lifetime: bool
    keeps_late: bool

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def reference(self) -> str:
        """ "view@version": tells versions of a view apart that are computed side by side."""
        return f"{self.spec.name}@{self.version}"

    @property
    def store(self) -> str:
        """The online store that holds its rows: its source's."""
        return self.spec.source

    @property
    def head_us(self) -> int:
        return self.levels[0].granularity_us

    @cached_property
    def features(self) -> dict[str, CompiledFeature]:
        """By name, in the order of the definition."""
        by_name = {feature.name: feature for group in self.groups for feature in group.features}
        return {spec.name: by_name[spec.name] for spec in self.spec.features}

    @cached_property
    def input_columns(self) -> tuple[str, ...]:
        """Columns that the slots read, after `derive`."""
        return tuple(dict.fromkeys(slot.column for slot in self.slots if slot.column))

    def tile_start(self, start_us: np.ndarray, line_us: np.ndarray) -> np.ndarray:
        """Coarsen tile starts by age: the start each has when corrections and reads reach back to its `line_us`."""
        out = start_us
        for level in self.levels[1:]:
            coarse = start_us // level.granularity_us * level.granularity_us
            old = (coarse + level.granularity_us <= line_us - level.horizon_us) & (start_us != BASE_START)
            if not old.any():
                break
            out = np.where(old, coarse, out)
        return out


def compile_view(spec: ViewSpec, source: SourceSpec, *, view_id: int, version: int) -> CompiledView:
    """Compile a checked view. Pure; the same spec gives the same plan.

    view_id, version: as the registry gave them; part of store keys and paths.
    """
    groups: dict[WindowSpec, list[CompiledFeature]] = {}
    group_slots: dict[WindowSpec, dict[str, Slot]] = {}
    for feature in spec.features:
        aggregate = AGGREGATES[feature.function]
        window = feature.window
        if window.kind == "sliding" and not window.tile_us:
            window = WindowSpec(kind="sliding", size_us=window.size_us, tile_us=default_tile_us(window.size_us))
        column = feature.column or ""
        compiled = CompiledFeature(feature.name, aggregate, column, window, feature.output_dtype, feature.default)
        groups.setdefault(window, []).append(compiled)
        for slot in aggregate.slots(column, feature.input_dtype or ""):
            group_slots.setdefault(window, {})[slot.name] = slot
    slots = {"count": Slot("count")}
    for by_name in group_slots.values():
        slots.update(by_name)
    plans = tuple(
        WindowGroup(window, tuple(features), tuple(group_slots[window].values())) for window, features in groups.items()
    )
    datasets = _datasets(plans, spec.snapshot_every_us)
    keeps_late = any(dataset.is_snapshot for dataset in datasets)
    windows = [plan.window for plan in plans]
    lateness_us = source.allowed_lateness_us
    reach = [w.size_us + (w.tile_us or w.every_us or w.size_us) for w in windows if w.kind != "lifetime"]
    retention_us = max([*reach, spec.snapshot_every_us if keeps_late else 0]) + lateness_us
    return CompiledView(
        view_id=view_id,
        version=version,
        spec=spec,
        allowed_lateness_us=lateness_us,
        max_out_of_orderness_us=source.max_out_of_orderness_us,
        slots=tuple(slots.values()),
        groups=plans,
        datasets=datasets,
        levels=_levels(windows, spec.snapshot_every_us if keeps_late else 0),
        retention_us=retention_us,
        has_lifetime=any(w.kind == "lifetime" for w in windows),
        keeps_late=keeps_late,
    )


def window_name(window: WindowSpec) -> str:
    """Name of a window's dataset folder: `tumbling_1m`, `hopping_10m_1m`, `tumbling_1h_offset_5m`, `sliding`."""
    if window.kind in ("sliding", "lifetime"):
        return "sliding"
    name = f"{window.kind}_{format_duration(window.size_us)}"
    if window.kind == "hopping":
        name += f"_{format_duration(window.every_us)}"
    return name + (f"_offset_{format_duration(window.offset_us)}" if window.offset_us else "")


def _datasets(plans: Sequence[WindowGroup], snapshot_every_us: int) -> tuple[EmittedDataset, ...]:
    datasets: list[EmittedDataset] = []
    as_of = tuple(plan for plan in plans if plan.window.kind in ("sliding", "lifetime"))
    for plan in plans:
        window = plan.window
        if window.kind in ("tumbling", "hopping"):
            every = window.every_us or window.size_us
            datasets.append(
                EmittedDataset(
                    len(datasets), window_name(window), window.size_us, every, window.offset_us % every, (plan,), False
                )
            )
    if as_of:
        datasets.append(EmittedDataset(len(datasets), "sliding", snapshot_every_us, snapshot_every_us, 0, as_of, True))
    return tuple(datasets)


def _levels(windows: Sequence[WindowSpec], snapshot_every_us: int) -> tuple[TileLevel, ...]:
    head = snapshot_every_us
    needs: list[tuple[int, int]] = []  # granularity wanted, how far back it is needed
    for window in windows:
        if window.kind == "sliding":
            head = math.gcd(head, window.tile_us)
            needs.append((window.tile_us, window.size_us + window.tile_us))
        elif window.kind != "lifetime":
            unit = math.gcd(window.size_us, window.every_us, window.offset_us)
            head = math.gcd(head, unit)
            tile = default_tile_us(window.size_us)
            needs.append((tile if unit % tile == 0 else unit, window.size_us + (window.every_us or window.size_us)))
    levels = [TileLevel(head, 0)]
    for granularity in sorted({granularity for granularity, _ in needs}):
        finer = [back for wanted, back in needs if wanted < granularity or wanted % granularity]
        if granularity > levels[-1].granularity_us and granularity % levels[-1].granularity_us == 0:
            levels.append(TileLevel(granularity, max([*finer, snapshot_every_us])))
    return tuple(levels)
