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

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import polars as pl
import pyarrow as pa

from featurestore.batches import NO_TIME
from featurestore.compile.view import CompiledView
from featurestore.compute.slots import Column, Slot
from featurestore.compute.tiles import TileTable, empty_tiles
from featurestore.errors import StoreFormatError
from featurestore.shard.protocol import RowSet

ROW_VERSION = 1
HEAD = np.dtype([("version", "u1"), ("reserved", "V3"), ("tiles", "<u4"), ("newest", "<i8")])


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


def decode_rows(view: CompiledView, values: Sequence[bytes | None]) -> RowSet:
    """Rows of the entities whose stored values are given in order; None: no row.

    Raises StoreFormatError when a row was written by another format version.
    """
    width = HEAD.itemsize
    newest = np.full(len(values), NO_TIME, dtype=np.int64)
    present = [i for i, value in enumerate(values) if value is not None]
    found = [value for value in values if value is not None]
    if not found:
        return RowSet(empty_tiles(view.slots), newest)
    heads = np.frombuffer(b"".join([value[:width] for value in found]), dtype=HEAD)
    if bool((heads["version"] != ROW_VERSION).any()):
        strange = int(heads["version"][heads["version"] != ROW_VERSION][0])
        raise StoreFormatError(
            f"view '{view.name}': a stored row has format {strange}, this version reads {ROW_VERSION}",
            hint="use the featurestore version that wrote the store, or begin with an empty data_dir",
        )
    rows = np.asarray(present, dtype=np.int64)
    newest[rows] = heads["newest"]
    counts = heads["tiles"].astype(np.int64)
    dtype = _tile_dtype(view.slots, view.keeps_late)
    text_names = _text_fields(view.slots)
    if text_names:
        ends = (width + counts * dtype.itemsize).tolist()
        body = b"".join([value[width:end] for value, end in zip(found, ends, strict=True)])
    else:
        body = b"".join([value[width:] for value in found])
    records = np.frombuffer(body, dtype=dtype)
    fields: dict[str, Column] = {}
    for slot in view.slots:
        for name, kind in slot.fields:
            if kind != "str":
                fields[name] = np.ascontiguousarray(records[name])
    bounds = np.append(0, np.cumsum(counts))
    starts = ends if text_names else []
    for name in text_names:
        lengths = records[name].astype(np.int64)
        sizes = np.append(0, np.cumsum(np.maximum(lengths, 0)))
        row_sizes = np.diff(sizes[bounds]).tolist()
        text = b"".join([value[s : s + n] for value, s, n in zip(found, starts, row_sizes, strict=True)])
        starts = [s + n for s, n in zip(starts, row_sizes, strict=True)]
        fields[name] = _text_series(text, sizes, lengths >= 0)
    entity = np.repeat(rows, counts)
    start = np.ascontiguousarray(records["start"])
    late = np.ascontiguousarray(records["late"]) if view.keeps_late else np.full(len(start), NO_TIME, dtype=np.int64)
    ordered = {name: fields[name] for slot in view.slots for name, _ in slot.fields}
    return RowSet(TileTable(entity, start, late, ordered), newest)


def _text_series(text: bytes, offsets: np.ndarray, valid: np.ndarray) -> pl.Series:
    validity = pa.array(valid).buffers()[1]
    buffers = [validity, pa.py_buffer(np.ascontiguousarray(offsets, dtype=np.int64)), pa.py_buffer(text)]
    series = pl.from_arrow(pa.Array.from_buffers(pa.large_utf8(), len(valid), buffers))
    assert isinstance(series, pl.Series)
    return series
