"""Merging many ranges of single events fast: a tree of merged blocks over events in a fixed order.

A window of a busy entity holds thousands of events, and windows of neighbouring instants share nearly all of them.
Blocks of `BLOCK`, `BLOCK`² … consecutive events are merged once, so that any range is the merge of at most
2 (`BLOCK` - 1) of them a level. A block may hold events of several entities: a range lies within one, and takes whole
blocks within it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from featurestore.batches import EVENT_TIME, OFFSET, PARTITION
from featurestore.compute.slots import Column, Ranges, Slot, merge_slot

BLOCK = 32

Fields = Mapping[str, Column]


def as_numbers(slots: Sequence[Slot]) -> tuple[Slot, ...]:
    """The slots with numbers in place of text: `lift_events` puts the events' numbers there."""
    return tuple(Slot(slot.kind, slot.column, "Int64") if slot.dtype == "String" else slot for slot in slots)


def lift_events(frame: pl.DataFrame, slots: Sequence[Slot], numbers: np.ndarray) -> dict[str, Column]:
    """Fields of `as_numbers(slots)` of each event, shape (n,): what `Slot.lift` gives for a group of that event alone.

    frame: the slots' columns, `event_time` (Int64 µs), `_partition`, `_offset`; shape (n, …). numbers: what a slot of
    text holds of each event, int64, shape (n,).
    """
    fields: dict[str, Column] = {}
    for slot, number in zip(slots, as_numbers(slots), strict=True):
        if slot.kind in ("first", "last"):
            is_text = slot.dtype == "String"
            values = numbers if is_text else frame[slot.column].cast(pl.Int64 if slot.dtype == "Int64" else pl.Float64)
            fields.update(_lift_pick(frame, number, values))
        else:
            fields.update(_lift(frame, slot))
    return fields


def _lift(frame: pl.DataFrame, slot: Slot) -> dict[str, Column]:
    if slot.kind == "count":
        return {slot.name: np.ones(frame.height, dtype=np.int64)}
    column = frame[slot.column]
    if slot.kind == "n":
        return {slot.name: column.is_not_null().cast(pl.Int64).to_numpy()}
    if slot.kind == "m2":
        return {slot.name: np.zeros(frame.height)}
    values = column.cast(pl.Int64 if slot.dtype == "Int64" else pl.Float64)
    return {slot.name: values.fill_null(slot.identity(slot.name)).to_numpy()}


def _lift_pick(frame: pl.DataFrame, slot: Slot, values: np.ndarray | pl.Series) -> dict[str, Column]:
    present = frame[slot.column].is_not_null().to_numpy()
    values = values.fill_null(0) if isinstance(values, pl.Series) else values
    columns = (values, frame[EVENT_TIME], frame[PARTITION], frame[OFFSET])
    return {
        name: np.where(present, np.asarray(column), slot.identity(name)).astype(dtype)  # type: ignore[arg-type]
        for (name, dtype), column in zip(slot.fields, columns, strict=True)
    }


class BlockTree:
    """Events and their blocks; see `lift_events`. slots, fields: of all of them, shape (n,)."""

    def __init__(self, slots: Sequence[Slot], fields: Fields, events: int) -> None:
        self._slots = tuple(slots)
        self._levels: list[Fields] = [fields]
        while events > BLOCK:
            starts = np.arange(0, events, BLOCK, dtype=np.int64)
            self._levels.append(
                merge_ranges(self._slots, self._levels[-1], Ranges(starts, np.minimum(starts + BLOCK, events)))
            )
            events = len(starts)

    @property
    def fields(self) -> Fields:
        """Of the events themselves."""
        return self._levels[0]

    def merge(self, slots: Sequence[Slot], lo: np.ndarray, hi: np.ndarray) -> dict[str, Column]:
        """Merged fields of the events [lo[i], hi[i]); int64, shape (m,), lo <= hi. Fast when they are in order.

        slots: those wanted, with what they are merged from (m2: n and sum, too).
        """
        rows = np.arange(len(lo), dtype=np.int64)
        pieces: list[dict[str, Column]] = []
        owners: list[np.ndarray] = []
        for level, fields in enumerate(self._levels):
            whole_lo, whole_hi = -(-lo // BLOCK), hi // BLOCK
            deeper = whole_hi > whole_lo
            if level + 1 == len(self._levels):
                deeper[:] = False
            pieces.append(merge_ranges(slots, fields, Ranges(lo, np.where(deeper, whole_lo * BLOCK, hi))))
            owners.append(rows)
            kept = np.flatnonzero(deeper)
            if not len(kept):
                break
            tail = Ranges(whole_hi[kept] * BLOCK, hi[kept])
            lo, hi, rows = whole_lo[kept], whole_hi[kept], rows[kept]
            pieces.append(merge_ranges(slots, fields, tail))
            owners.append(rows)
        return merge_pieces(slots, pieces, owners, len(owners[0]))


def merge_pieces(
    slots: Sequence[Slot], pieces: Sequence[Mapping[str, Column]], owners: Sequence[np.ndarray], rows: int
) -> dict[str, Column]:
    """Merge partial results: pieces[k] holds fields for the rows owners[k] (ascending); shape (rows,)."""
    if len(pieces) == 1 and len(owners[0]) == rows:
        return dict(pieces[0])
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(rows + 1))
    fields = {name: np.concatenate([np.asarray(piece[name]) for piece in pieces])[order] for name in pieces[0]}
    return merge_ranges(slots, fields, Ranges(bounds[:-1], bounds[1:]))


def merge_ranges(slots: Sequence[Slot], fields: Fields, ranges: Ranges) -> dict[str, Column]:
    """Merged fields of all slots over each range."""
    merged: dict[str, Column] = {}
    for slot in slots:
        merged.update(merge_slot(slot, fields, ranges))
    return merged
