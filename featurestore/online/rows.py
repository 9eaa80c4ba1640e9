"""The row format: a head of 16 bytes, fixed-width tiles, then the text of each text field in tile order.

byte 0      format version (1)
byte 1-3    reserved, zero
byte 4-7    number of tiles, uint32 little-endian
byte 8-15   newest event time, int64 µs
then        tiles: int64 start, int64 late (views with snapshots of sliding windows), the slots' fields in the compiled
            order; a text field stores its byte length as int32, -1 for null
then        for each text field its bytes, tile after tile
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np
import polars as pl
import pyarrow as pa

from featurestore.batches import NO_TIME
from featurestore.compile.view import CompiledView
from featurestore.compute.slots import Column, Slot, StoredText
from featurestore.compute.tiles import TileTable
from featurestore.errors import StoreFormatError
from featurestore.shard.protocol import RowSet

ROW_VERSION = 1
HEAD = np.dtype([("version", "u1"), ("reserved", "V3"), ("tiles", "<u4"), ("newest", "<i8")])
_HEAD_STRUCT = struct.Struct("<B3xIq")
_NO_ROW = (ROW_VERSION, 0, NO_TIME)


@lru_cache(maxsize=256)
def _tile_dtype(slots: tuple[Slot, ...], keeps_late: bool) -> np.dtype:
    fields = [("start", "<i8")]
    if keeps_late:
        fields.append(("late", "<i8"))
    for slot in slots:
        fields.extend((name, "<i4" if dtype == "str" else f"<{dtype}") for name, dtype in slot.fields)
    return np.dtype(fields)


@lru_cache(maxsize=256)
def _text_fields(slots: tuple[Slot, ...]) -> tuple[str, ...]:
    return tuple(name for slot in slots for name, dtype in slot.fields if dtype == "str")


def tile_bytes(view: CompiledView) -> int:
    """Width of one tile of the view, without texts."""
    return _tile_dtype(view.slots, view.keeps_late).itemsize


def slot_bytes(view: CompiledView) -> dict[str, int]:
    """Width of each slot in a tile, by its name; of a text the four bytes of its length."""
    none = _tile_dtype((), False).itemsize
    return {slot.name: _tile_dtype((slot,), False).itemsize - none for slot in view.slots}


def encode_rows(view: CompiledView, rows: RowSet) -> list[bytes]:
    """One value for each entity that rows.tiles numbers."""
    tiles, entities = rows.tiles, len(rows.newest_us)
    dtype = _tile_dtype(view.slots, view.keeps_late)
    bounds = np.searchsorted(tiles.entity, np.arange(entities + 1))
    heads = np.zeros(entities, dtype=HEAD)
    heads["version"] = ROW_VERSION
    heads["tiles"] = np.diff(bounds)
    heads["newest"] = rows.newest_us
    records = np.empty(len(tiles), dtype=dtype)
    records["start"] = tiles.start
    if view.keeps_late:
        records["late"] = tiles.late
    texts: list[tuple[bytes, np.ndarray]] = []
    for name, values in tiles.fields.items():
        if isinstance(values, pl.Series):
            lengths = values.str.len_bytes().cast(pl.Int32).fill_null(-1).to_numpy()
            records[name] = lengths
            ends = np.append(0, np.cumsum(np.maximum(lengths, 0), dtype=np.int64))
            texts.append((values.fill_null("").str.join("").item().encode(), ends[bounds]))
        else:
            records[name] = values
    head, body = heads.tobytes(), records.tobytes()
    at = (bounds * dtype.itemsize).tolist()
    width = HEAD.itemsize
    encoded = [head[i * width : (i + 1) * width] + body[at[i] : at[i + 1]] for i in range(entities)]
    for text, cuts in texts:
        edges = cuts.tolist()
        encoded = [row + text[edges[i] : edges[i + 1]] for i, row in enumerate(encoded)]
    return encoded


class RowDecoder:
    """Reads stored rows of a view; made once, for the arrangement of a tile's bytes is worked out here.

    slots: which of the view's slots to decode, all by default. lazy_text: text becomes StoredText, for reads.
    """

    def __init__(self, view: CompiledView, *, slots: Sequence[Slot] | None = None, lazy_text: bool = False) -> None:
        self._view_name = view.name
        self._slots = tuple(view.slots if slots is None else slots)
        self._dtype = _tile_dtype(view.slots, view.keeps_late)
        self._keeps_late = view.keeps_late
        self._fields = tuple(field for slot in self._slots for field in slot.fields)
        wanted = {name for name, _ in self._fields}
        # Texts lie one field after another: those before a wanted one must be measured, too.
        self._texts = _text_fields(view.slots)
        while self._texts and self._texts[-1] not in wanted:
            self._texts = self._texts[:-1]
        self._wanted = wanted
        self._make_text = _stored_text if lazy_text else _text_series

    def decode(self, values: Sequence[bytes | None]) -> RowSet:
        """Rows of the entities whose stored values are given in order; None: no row.

        Raises StoreFormatError when a row was written by another format version.
        """
        width = HEAD.itemsize
        heads = [_NO_ROW if value is None else _HEAD_STRUCT.unpack_from(value) for value in values]
        for version, _, _ in heads:
            if version != ROW_VERSION:
                raise self._strange(version)
        newest = np.array([head[2] for head in heads], dtype=np.int64)
        found = [value for value in values if value is not None]
        size = self._dtype.itemsize
        counts = [head[1] for head in heads]
        ends = [width + head[1] * size for head in heads if head is not _NO_ROW]
        body = b"".join([value[width:end] for value, end in zip(found, ends, strict=True)])
        records = np.frombuffer(body, dtype=self._dtype)
        fields: dict[str, Column] = {
            # Copies, for the kernels are slow on strided arrays.
            name: records[name].copy()
            for name, kind in self._fields
            if kind != "str"
        }
        if self._texts:
            present = [head[1] for head in heads if head is not _NO_ROW]
            fields.update(self._decode_texts(records, found, ends, present))
        entity = np.arange(len(values), dtype=np.int64).repeat(counts)
        late = records["late"].copy() if self._keeps_late else np.full(len(records), NO_TIME, dtype=np.int64)
        ordered = {name: fields[name] for name, _ in self._fields}
        return RowSet(TileTable(entity, records["start"].copy(), late, ordered), newest)

    def _decode_texts(
        self, records: np.ndarray, found: list[bytes], starts: list[int], counts: list[int]
    ) -> dict[str, Column]:
        """Text fields. starts: where each row's text begins; counts: tiles of each row."""
        out: dict[str, Column] = {}
        bounds = [0, *accumulate(counts)]
        for name in self._texts:
            lengths = records[name].astype(np.int64)
            ends = np.zeros(len(lengths) + 1, dtype=np.int64)
            np.maximum(lengths, 0).cumsum(out=ends[1:])
            edges = ends[bounds].tolist()
            row_bytes = [end - start for start, end in pairwise(edges)]
            if name in self._wanted:
                text = b"".join([value[s : s + n] for value, s, n in zip(found, starts, row_bytes, strict=True)])
                out[name] = self._make_text(text, ends, lengths)
            starts = [s + n for s, n in zip(starts, row_bytes, strict=True)]
        return out

    def _strange(self, version: int) -> StoreFormatError:
        return StoreFormatError(
            f"view '{self._view_name}': a stored row has format {version}, this version reads {ROW_VERSION}",
            hint="use the featurestore version that wrote the store, or begin with an empty data_dir",
        )


def _stored_text(text: bytes, offsets: np.ndarray, lengths: np.ndarray) -> Column:
    return StoredText(text, offsets[:-1], lengths)


def _text_series(text: bytes, offsets: np.ndarray, lengths: np.ndarray) -> Column:
    validity = pa.array(lengths >= 0).buffers()[1]
    buffers = [validity, pa.py_buffer(np.ascontiguousarray(offsets, dtype=np.int64)), pa.py_buffer(text)]
    series = pl.from_arrow(pa.Array.from_buffers(pa.large_utf8(), len(lengths), buffers))
    assert isinstance(series, pl.Series)
    return series
