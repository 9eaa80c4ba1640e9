"""A read of some features of a view, compiled: every slot is merged once for all windows that need it.

The kernels are those of `WindowGroup.read`, so the values are the same; there a slot is merged for each window apart,
for many instants. A read has one instant and often one entity, and the calls cost more than the tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featurestore.compile.view import CompiledFeature, CompiledView, WindowGroup
from featurestore.compute.slots import Column, Ranges, Slot, merge_slot
from featurestore.compute.windows import TileIndex
from featurestore.definitions.specs import Scalar


@dataclass(frozen=True)
class _Finalize:
    """One aggregate of one column over all windows of its part. targets: (feature name, position among them)."""

    feature: CompiledFeature
    targets: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _Part:
    """Slots that are read together, and the windows (positions among the read's groups) that need any of them."""

    slots: tuple[Slot, ...]
    windows: np.ndarray
    finalizes: tuple[_Finalize, ...]


@dataclass(frozen=True)
class JointRead:
    """How to read some features of a view; made by `plan_read`. slots: all that it looks at."""

    slots: tuple[Slot, ...]
    groups: tuple[WindowGroup, ...]
    parts: tuple[_Part, ...]

    def values(self, index: TileIndex, entities: int, as_of_us: int) -> dict[str, list[Scalar]]:
        """By feature, the values of the entities numbered 0 to `entities` - 1 as of one instant."""
        starts = np.array([group.start_us(as_of_us) for group in self.groups], dtype=np.int64)
        ends = np.array([group.end_us(as_of_us) for group in self.groups], dtype=np.int64)
        entity = np.zeros(len(starts), dtype=np.int64)
        if entities != 1:
            starts, ends = np.repeat(starts, entities), np.repeat(ends, entities)
            entity = np.tile(np.arange(entities, dtype=np.int64), len(self.groups))
        ranges = index.ranges(entity, starts, ends)
        columns = index.tiles.fields
        out: dict[str, list[Scalar]] = {}
        for part in self.parts:
            own = ranges if len(part.windows) == len(self.groups) else _select(ranges, part.windows, entities)
            fields: dict[str, Column] = {}
            for slot in part.slots:
                fields.update(merge_slot(slot, columns, own, final=True))
            for finalize in part.finalizes:
                feature = finalize.feature
                values = feature.aggregate.finalize(fields, feature.column).scalars(feature.output_dtype)
                for name, window in finalize.targets:
                    out[name] = values[window * entities : (window + 1) * entities]
        return out


def plan_read(view: CompiledView, features: Sequence[str]) -> JointRead:
    """Plan a read of these features of the view."""
    wanted = set(features)
    groups = tuple(group for group in view.groups if any(f.name in wanted for f in group.features))
    alike: dict[tuple[str, str, str], tuple[CompiledFeature, list[tuple[str, int]]]] = {}
    for position, group in enumerate(groups):
        for feature in group.features:
            if feature.name in wanted:
                key = (feature.aggregate.name, feature.column, feature.output_dtype)
                alike.setdefault(key, (feature, []))[1].append((feature.name, position))
    parts: list[tuple[set[str], list[tuple[CompiledFeature, list[tuple[str, int]]]]]] = []
    for feature, targets in alike.values():
        names, members = _slot_names(view, feature), [(feature, targets)]
        for joined in [part for part in parts if part[0] & names]:
            parts.remove(joined)
            names, members = names | joined[0], joined[1] + members
        parts.append((names, members))
    planned = tuple(_plan_part(view, names, members) for names, members in parts)
    slots = tuple(slot for slot in view.slots if any(slot in part.slots for part in planned))
    return JointRead(slots, groups, planned)


def _plan_part(
    view: CompiledView, slot_names: set[str], members: list[tuple[CompiledFeature, list[tuple[str, int]]]]
) -> _Part:
    windows = sorted({position for _, targets in members for _, position in targets})
    finalizes = tuple(
        _Finalize(feature, tuple((name, windows.index(position)) for name, position in targets))
        for feature, targets in members
    )
    return _Part(tuple(slot for slot in view.slots if slot.name in slot_names), np.array(windows), finalizes)


def _slot_names(view: CompiledView, feature: CompiledFeature) -> set[str]:
    spec = next(spec for spec in view.spec.features if spec.name == feature.name)
    return {slot.name for slot in feature.aggregate.slots(feature.column, spec.input_dtype or "")}


def _select(ranges: Ranges, windows: np.ndarray, entities: int) -> Ranges:
    """The ranges of some windows; they lie window after window, each with one range an entity."""
    if entities == 1:
        return Ranges(ranges.lo[windows], ranges.hi[windows])
    shape = (-1, entities)
    return Ranges(ranges.lo.reshape(shape)[windows].ravel(), ranges.hi.reshape(shape)[windows].ravel())
