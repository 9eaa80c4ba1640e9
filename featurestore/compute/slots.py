"""Slots: the mergeable parts of a partial aggregate, and how each is lifted from events and merged.

An aggregate (`compute/aggregates.py`) names the slots it needs; aggregates of one column share them (mean reads the
`sum` and `n` that sum and count keep). Merging is associative, and the empty slot is neutral.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Union

import numpy as np
import polars as pl

from featurestore.batches import EVENT_TIME, NO_TIME, OFFSET, PARTITION


@dataclass(frozen=True)
class StoredText:
    """Text of many tiles as it is stored: a read decodes the few that it chooses, and makes no series of the rest.

    data: UTF-8 of all tiles, one after another. starts, lengths: of each tile's text in bytes, int64, shape (n,); a
    length of -1 stands for null.
    """

    data: bytes
    starts: np.ndarray
    lengths: np.ndarray

    def take(self, index: np.ndarray) -> list[str | None]:
        """The texts at `index`."""
        data = self.data
        return [
            None if length < 0 else data[start : start + length].decode()
            for start, length in zip(self.starts[index].tolist(), self.lengths[index].tolist(), strict=True)
        ]


Column = Union[np.ndarray, pl.Series, StoredText]
"""A slot field of many tiles: numpy for numbers, a polars String series for text; shape (n,).

Text that is only read is StoredText, and once merged an object array of str and None.
"""

SlotKind = Literal["count", "n", "sum", "m2", "min", "max", "first", "last"]

MAX_TIME = 2**63 - 1
_INT_MAX = 2**63 - 1
_INT_MIN = -(2**63)


@dataclass(frozen=True)
class Slot:
    """One mergeable part. column: the input column, "" for the row count. dtype: "Int64" | "Float64" | "String"."""

    kind: SlotKind
    column: str = ""
    dtype: str = "Int64"

    @cached_property
    def name(self) -> str:
        return self.kind if not self.column else f"{self.column}:{self.kind}"

    @cached_property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """(field name, dtype) of what a tile stores; dtype "i8" | "i4" | "f8" | "str"."""
        if self.kind in ("count", "n"):
            return ((self.name, "i8"),)
        if self.kind == "m2":
            return ((self.name, "f8"),)
        value = {"Int64": "i8", "Float64": "f8", "String": "str"}[self.dtype]
        if self.kind in ("sum", "min", "max"):
            return ((self.name, value),)
        return (
            (self.name, value),
            (f"{self.name}.time", "i8"),
            (f"{self.name}.partition", "i4"),
            (f"{self.name}.offset", "i8"),
        )

    def lift(self) -> list[pl.Expr]:
        """Aggregation expressions over a group of events, one for each field, never null except text.

        Expects the event columns plus `event_time` as int64 µs, `_partition` and `_offset`; for `first` and `last` the
        events are in that order of the three (struct.arg_max would do without, but is null inside a group_by).
        """
        if self.kind == "count":
            return [pl.len().cast(pl.Int64).alias(self.name)]
        value = pl.col(self.column)
        if self.kind == "n":
            return [value.count().cast(pl.Int64).alias(self.name)]
        if self.kind == "sum":
            return [value.sum().alias(self.name)]
        if self.kind == "m2":
            spread = value.cast(pl.Float64).var(ddof=0) * value.count()
            return [spread.fill_null(0.0).alias(self.name)]
        if self.kind in ("min", "max"):
            # polars' min and max skip NaN; nan_min and nan_max let it through, as the definition says.
            if self.dtype == "Float64":
                extreme = value.nan_min() if self.kind == "min" else value.nan_max()
            else:
                extreme = value.min() if self.kind == "min" else value.max()
            return [extreme.fill_null(pl.lit(self.identity(self.name))).alias(self.name)]
        present = value.is_not_null()
        empty_time = MAX_TIME if self.kind == "first" else NO_TIME

        def pick(column: str) -> pl.Expr:
            values = pl.col(column).filter(present)
            return values.first() if self.kind == "first" else values.last()

        chosen = pick(self.column)
        return [
            (chosen if self.dtype == "String" else chosen.fill_null(0)).alias(self.name),
            pick(EVENT_TIME).fill_null(empty_time).alias(f"{self.name}.time"),
            pick(PARTITION).fill_null(0).cast(pl.Int32).alias(f"{self.name}.partition"),
            pick(OFFSET).fill_null(0).cast(pl.Int64).alias(f"{self.name}.offset"),
        ]

    def identity(self, field: str) -> int | float | None:
        """The neutral value of a field of this slot."""
        if self.kind == "min":
            return _INT_MAX if self.dtype == "Int64" else float("inf")
        if self.kind == "max":
            return _INT_MIN if self.dtype == "Int64" else float("-inf")
        if self.kind in ("first", "last"):
            if field.endswith(".time"):
                return MAX_TIME if self.kind == "first" else NO_TIME
            if field == self.name and self.dtype == "String":
                return None
        return 0.0 if dict(self.fields)[field] == "f8" else 0


class Ranges:
    """Index ranges [lo, hi) into tiles sorted by entity and start; they may overlap and may be empty.

    lo, hi: int64, shape (m,), 0 <= lo <= hi <= n. filled: which are not empty; rows: their numbers.
    """

    def __init__(self, lo: np.ndarray, hi: np.ndarray) -> None:
        self.lo = lo
        self.hi = hi
        self.filled = hi > lo
        # The method of the array: numpy's functions around it cost more than a point read's few numbers.
        self.rows = self.filled.nonzero()[0]
        self._none, self._all = not len(self.rows), len(self.rows) == len(lo)
        # Not cached_property: in Python below 3.12 it takes a lock, 2 µs of every read.
        self._borders: tuple[int, np.ndarray] | None = None
        self._expanded: tuple[np.ndarray, np.ndarray] | None = None

    def reduce(self, ufunc: np.ufunc, values: np.ndarray, identity: int | float) -> np.ndarray:
        """`ufunc` over each range, `identity` for an empty one; shape (m,), dtype of `values`."""
        if self._none:
            return np.full(len(self.lo), identity, dtype=values.dtype)
        if self._borders is None:
            self._borders = self._find_borders()
        end, borders = self._borders
        if end >= 0:
            reduced = ufunc.reduceat(values[:end], borders)
        else:
            padded = np.empty(len(values) + 1, dtype=values.dtype)
            padded[:-1] = values
            padded[-1] = identity
            reduced = ufunc.reduceat(padded, borders)[0::2]
        if self._all:
            return reduced
        out = np.full(len(self.lo), identity, dtype=values.dtype)
        out[self.filled] = reduced
        return out

    def _find_borders(self) -> tuple[int, np.ndarray]:
        """What `reduceat` gets: ranges that touch as their starts and the last one's end, others as pairs, and -1."""
        lo, hi = (self.lo, self.hi) if self._all else (self.lo[self.filled], self.hi[self.filled])
        if len(lo) == 1 or bool((hi[:-1] == lo[1:]).all()):
            return int(hi[-1]), lo
        # reduceat takes pairs of borders, forward or not; every second result is one of our ranges. The one
        # padding element lets a range end at the very end of the array.
        borders = np.empty(2 * len(lo), dtype=np.int64)
        borders[0::2] = lo
        borders[1::2] = hi
        return -1, borders

    def expand(self) -> tuple[np.ndarray, np.ndarray]:
        """(tile index, range index) of every tile of every range, in order; both int64, shape (sum of lengths,)."""
        if self._expanded is None:
            self._expanded = self._expand()
        return self._expanded

    def _expand(self) -> tuple[np.ndarray, np.ndarray]:
        if len(self.lo) == 1:
            tile = np.arange(self.lo[0], self.hi[0], dtype=np.int64)
            return tile, np.zeros(len(tile), dtype=np.int64)
        lengths = self.hi - self.lo
        owner = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
        before = np.cumsum(lengths) - lengths
        return np.arange(int(lengths.sum()), dtype=np.int64) - before[owner] + self.lo[owner], owner


def merge_slot(slot: Slot, columns: Mapping[str, Column], ranges: Ranges, *, final: bool = False) -> dict[str, Column]:
    """Merge the slot's fields over each range.

    columns: fields of tiles, shape (n,); for m2 also the column's `n` and `sum`. Returns fields of shape (m,).
    final: leave out what only a further merge would need (a read finalizes at once).
    Source of m2: Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances"
    (1979), eq. 2.1, in its form for many parts.
    """
    if slot.kind in ("count", "n", "sum"):
        values = columns[slot.name]
        assert isinstance(values, np.ndarray)
        return {slot.name: ranges.reduce(np.add, values, 0)}
    if slot.kind in ("min", "max"):
        values = columns[slot.name]
        assert isinstance(values, np.ndarray)
        identity = slot.identity(slot.name)
        assert identity is not None
        return {slot.name: ranges.reduce(np.minimum if slot.kind == "min" else np.maximum, values, identity)}
    if slot.kind == "m2":
        return {slot.name: _merge_m2(slot, columns, ranges)}
    return _merge_pick(slot, columns, ranges, slot.fields[:1] if final else slot.fields)


def _merge_m2(slot: Slot, columns: Mapping[str, Column], ranges: Ranges) -> np.ndarray:
    counts, sums, spreads = (
        np.asarray(columns[f"{slot.column}:{part}"], dtype=np.float64) for part in ("n", "sum", "m2")
    )
    count_all = ranges.reduce(np.add, counts, 0.0)
    sum_all = ranges.reduce(np.add, sums, 0.0)
    tile, owner = ranges.expand()
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = sums[tile] / counts[tile] - (sum_all / count_all)[owner]
        between = np.where(counts[tile] > 0, counts[tile] * shift * shift, 0.0)
    return ranges.reduce(np.add, spreads, 0.0) + np.bincount(owner, weights=between, minlength=len(ranges.lo))


def _merge_pick(
    slot: Slot, columns: Mapping[str, Column], ranges: Ranges, fields: tuple[tuple[str, str], ...]
) -> dict[str, Column]:
    chosen = _chosen_tiles(slot, columns, ranges)
    filled, rows = ranges.rows, len(ranges.lo)
    out: dict[str, Column] = {}
    for field, dtype in fields:
        values = columns[field]
        if dtype == "str":
            assert not isinstance(values, np.ndarray)
            out[field] = _pick_text(values, chosen, filled, rows)
        else:
            numbers = np.asarray(values)
            if len(filled) == rows:
                out[field] = numbers[chosen]
                continue
            full = np.full(rows, slot.identity(field), dtype=numbers.dtype)
            full[filled] = numbers[chosen]
            out[field] = full
    return out


def _chosen_tiles(slot: Slot, columns: Mapping[str, Column], ranges: Ranges) -> np.ndarray:
    """Of each range that is not empty, the tile that holds the first or last event by (time, partition, offset)."""
    is_first = slot.kind == "first"
    time = np.asarray(columns[f"{slot.name}.time"])
    outermost = ranges.reduce(np.minimum if is_first else np.maximum, time, 0)
    tile, owner = ranges.expand()
    at = (time[tile] == outermost[owner]).nonzero()[0]
    tile = np.asarray(tile[at])
    filled = ranges.rows
    if len(tile) == len(filled):
        return tile
    # Several tiles have events of that very time (late ones are tiles of their own): only these are sorted.
    partition, offset = (np.asarray(columns[f"{slot.name}.{part}"])[tile] for part in ("partition", "offset"))
    owner = owner[at]
    order = np.lexsort((offset, partition, owner))
    ends = np.searchsorted(owner[order], filled, side="left" if is_first else "right")
    chosen: np.ndarray = tile[order[ends if is_first else ends - 1]]
    return chosen


def _pick_text(values: pl.Series | StoredText, chosen: np.ndarray, filled: np.ndarray, rows: int) -> Column:
    """values[chosen] at the rows `filled`, null elsewhere."""
    if isinstance(values, StoredText):
        texts = np.full(rows, None, dtype=object)
        texts[filled] = values.take(chosen)
        return texts
    if len(filled) == rows:
        return values[chosen]
    index = np.full(rows, -1, dtype=np.int64)
    index[filled] = chosen
    return values.gather(pl.Series(index).replace(-1, None))
