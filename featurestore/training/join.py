"""The point-in-time join of one view: for each (entity, instant) what a read as of that instant gives.

By event time, the events of a window are one range of the entity's events. By arrival, an event must have arrived, too:
events are told apart by how long they were under way (`build_tables`), so that in each class all that happened long
enough ago had arrived, nothing of the last moments had, and only what lies between is looked at one by one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl

from featurestore.compile.view import POLARS_DTYPES, CompiledFeature, CompiledView, WindowGroup
from featurestore.compute.blocks import as_numbers, merge_pieces, merge_ranges
from featurestore.compute.slots import Column, Ranges, Slot
from featurestore.compute.tiles import BASE_START
from featurestore.training.events import NEWEST, EventTable

ROWS_AT_ONCE = 100_000
LOOKED_AT_MAX = 4_000_000
"""Events that are looked at one by one at a time, by each thread: what bounds the memory of a join by arrival."""
THREADS_MAX = 4


@dataclass(frozen=True)
class _Wanted:
    """Features of one window that were asked for, and the slots that they are finalized from."""

    group: WindowGroup
    features: tuple[CompiledFeature, ...]
    slots: tuple[Slot, ...]


def join_view(
    view: CompiledView,
    features: Sequence[str],
    tables: Sequence[EventTable],
    entity: np.ndarray,
    as_of_us: np.ndarray,
    *,
    by_arrival: bool = False,
) -> pl.DataFrame:
    """Values of the features, one row for each (entity[i], as_of_us[i]).

    tables: of the view's events, classes of delay when `by_arrival`. entity: int64, shape (m,), -1 for one without any
    event or with a null key. as_of_us: int64 µs, shape (m,); an event at exactly that instant does not count, one that
    arrived then does. Columns are named as the features are. Unknown entities have the features' defaults, those whose
    newest event is older than the ttl have null.
    """
    wanted = _wanted(view, features)
    order = np.lexsort((as_of_us, entity))
    order = order[entity[order] >= 0]

    def part(begin: int) -> pl.DataFrame:
        rows = order[begin : begin + ROWS_AT_ONCE]
        return _Reads(view, tables, entity[rows], as_of_us[rows], by_arrival).values(wanted).select(features)

    # numpy lets go of the interpreter where the time goes. Parts are the same, and in order, however many threads.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, THREADS_MAX)) as pool:
        parts = list(pool.map(part, range(0, len(order), ROWS_AT_ONCE)))
    schema = {name: POLARS_DTYPES[view.features[name].output_dtype] for name in features}
    known = pl.concat(parts) if parts else pl.DataFrame(schema=schema)
    place = np.full(len(entity), -1, dtype=np.int64)
    place[order] = np.arange(len(order))
    index = pl.Series(place).replace(-1, None)
    nowhere = pl.Series(place < 0)
    return pl.DataFrame([_with_default(view.features[name], known[name].gather(index), nowhere) for name in features])


class _Reads:
    """Reads of known entities, sorted by entity and instant."""

    def __init__(
        self,
        view: CompiledView,
        tables: Sequence[EventTable],
        entity: np.ndarray,
        as_of_us: np.ndarray,
        by_arrival: bool,
    ) -> None:
        self._view = view
        self._tables = tables
        self._entity = entity
        self._as_of_us = as_of_us
        self._by_arrival = by_arrival

    def values(self, wanted: Sequence[_Wanted]) -> pl.DataFrame:
        ever = np.full(len(self._entity), BASE_START)
        newest = np.asarray(self._merged((NEWEST,), ever, self._as_of_us)[NEWEST.name])
        unknown = newest == NEWEST.identity(NEWEST.name)
        ttl_us = self._view.spec.ttl_us
        outside = ~unknown & (newest < self._as_of_us - ttl_us) if ttl_us else np.zeros(len(newest), dtype=bool)
        columns = []
        for window in wanted:
            start = np.asarray(window.group.start_us(self._as_of_us))
            end = np.asarray(window.group.end_us(self._as_of_us))
            fields = self._merged(window.slots, start, end)
            for feature in window.features:
                values = feature.values(self._with_texts(fields))
                if outside.any() or unknown.any():
                    values = values.zip_with(pl.Series(~(outside | unknown)), pl.Series([None], dtype=values.dtype))
                columns.append(_with_default(feature, values, pl.Series(unknown)))
        return pl.DataFrame(columns)

    def _merged(self, slots: Sequence[Slot], start_us: np.ndarray, end_us: np.ndarray) -> dict[str, Column]:
        rows = np.arange(len(self._entity), dtype=np.int64)
        pieces: list[dict[str, Column]] = []
        owners: list[np.ndarray] = []
        for table in self._tables:
            if not self._by_arrival:
                ranges = table.index.ranges(self._entity, start_us, end_us)
                pieces.append(table.tree.merge(slots, ranges.lo, ranges.hi))
                owners.append(rows)
                continue
            # All that happened up to here had arrived, and nothing of what happened from `too_new` on.
            surely = self._as_of_us - table.most_us + 1
            too_new = self._as_of_us - table.above_us
            certain = table.index.ranges(self._entity, start_us, np.minimum(end_us, np.maximum(surely, start_us)))
            pieces.append(table.tree.merge(slots, certain.lo, certain.hi))
            owners.append(rows)
            doubtful = table.index.ranges(self._entity, np.maximum(start_us, surely), np.minimum(end_us, too_new))
            for own, fields in self._arrived(table, slots, doubtful):
                pieces.append(fields)
                owners.append(own)
        return merge_pieces(slots, pieces, owners, len(rows))

    def _arrived(
        self, table: EventTable, slots: Sequence[Slot], ranges: Ranges
    ) -> Iterator[tuple[np.ndarray, dict[str, Column]]]:
        """Of each range, the merged events that had arrived; by parts of the rows."""
        for rows in _cut(ranges):
            tile, owner = Ranges(ranges.lo[rows], ranges.hi[rows]).expand()
            there = table.arrival_us[tile] <= self._as_of_us[rows][owner]
            tile, owner = tile[there], owner[there]
            bounds = np.searchsorted(owner, np.arange(len(rows) + 1))
            names = [name for slot in slots for name, _ in slot.fields]
            fields = {name: np.asarray(table.tree.fields[name])[tile] for name in names}
            yield rows, merge_ranges(slots, fields, Ranges(bounds[:-1], bounds[1:]))

    def _with_texts(self, fields: Mapping[str, Column]) -> dict[str, Column]:
        """Text slots' numbers as their texts; null where there was no value."""
        out = dict(fields)
        for name, texts in self._tables[0].texts.items():
            if name in fields:
                column = name.rpartition(":")[0]
                number = np.where(np.asarray(fields[f"{column}:n"]) > 0, np.asarray(fields[name]), -1)
                out[name] = texts.gather(pl.Series(number).replace(-1, None))
        return out


def _cut(ranges: Ranges) -> Iterator[np.ndarray]:
    """Rows whose ranges are not empty, in parts of at most LOOKED_AT_MAX events (or one row)."""
    rows = np.flatnonzero(ranges.filled)
    before = np.cumsum(ranges.hi[rows] - ranges.lo[rows])
    begin = 0
    while begin < len(rows):
        done = int(before[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(before, done + LOOKED_AT_MAX, side="right")))
        yield rows[begin:end]
        begin = end


def _wanted(view: CompiledView, features: Sequence[str]) -> list[_Wanted]:
    inputs = {spec.name: spec.input_dtype or "" for spec in view.spec.features}
    out = []
    for group in view.groups:
        members = tuple(feature for feature in group.features if feature.name in features)
        if members:
            slots = {slot.name: slot for f in members for slot in f.aggregate.slots(f.column, inputs[f.name])}
            out.append(_Wanted(group, members, as_numbers(tuple(slots.values()))))
    return out


def _with_default(feature: CompiledFeature, values: pl.Series, unknown: pl.Series) -> pl.Series:
    if feature.default is None or not unknown.any():
        return values
    return values.zip_with(~unknown, pl.Series([feature.default], dtype=values.dtype))
