"""The row format: what is written is read back, and its bytes do not change by accident."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.batches import NO_TIME
from featurestore.compute.tiles import TileTable
from featurestore.errors import StoreFormatError
from featurestore.online.rows import RowDecoder, encode_rows
from featurestore.shard.protocol import RowSet
from tests.factories import LIFETIME, compiled, feature, sliding, tumbling

VIEW = compiled(
    [
        feature("sum", sliding(10)),
        feature("stddev", tumbling(1)),
        feature("last", LIFETIME, "merchant", "String"),
        feature("first", LIFETIME, "city", "String"),
        feature("max", sliding(60), "items", "Int64"),
    ]
)
ints = st.integers(-(2**63), 2**63 - 1)
texts = st.none() | st.text(max_size=5)
VALUES = {"i8": ints, "i4": st.integers(-(2**31), 2**31 - 1), "f8": st.floats(), "str": texts}


@st.composite
def row_sets(draw) -> RowSet:
    counts = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    entity = np.repeat(np.arange(len(counts)), counts)
    n = len(entity)

    def column(kind: str):
        values = draw(st.lists(VALUES[kind], min_size=n, max_size=n))
        return pl.Series(values, dtype=pl.String) if kind == "str" else np.array(values, dtype=kind)

    fields = {name: column(kind) for slot in VIEW.slots for name, kind in slot.fields}
    newest = draw(st.lists(st.integers(0, 2**60), min_size=len(counts), max_size=len(counts)))
    return RowSet(TileTable(entity, column("i8"), column("i8"), fields), np.array(newest))


@given(row_sets(), st.data())
def test_rows_are_read_back_as_they_were_written_with_absent_ones_between(rows, data):
    values: list[bytes | None] = list(encode_rows(VIEW, rows))
    gap = data.draw(st.integers(0, len(values)))
    back = RowDecoder(VIEW).decode([*values[:gap], None, *values[gap:]])
    assert back.newest_us[gap] == NO_TIME
    assert np.delete(back.newest_us, gap).tolist() == rows.newest_us.tolist()
    moved = np.where(rows.tiles.entity >= gap, rows.tiles.entity + 1, rows.tiles.entity)
    assert back.tiles.entity.tolist() == moved.tolist()
    assert back.tiles.start.tolist() == rows.tiles.start.tolist()
    assert back.tiles.late.tolist() == rows.tiles.late.tolist()
    for name, column in rows.tiles.fields.items():
        got = back.tiles.fields[name]
        if isinstance(column, pl.Series):
            assert got.to_list() == column.to_list()
        else:
            np.testing.assert_array_equal(got, column)


def test_the_bytes_of_a_row_are_those_of_format_version_1():
    view = compiled([feature("sum", tumbling(1)), feature("last", tumbling(1), "merchant", "String")])
    one = np.array([7], dtype=np.int64)
    fields = {
        "count": np.array([2]),
        "amount:sum": np.array([1.5]),
        "merchant:n": np.array([1]),
        "merchant:last": pl.Series(["é"]),
        "merchant:last.time": np.array([8]),
        "merchant:last.partition": np.array([3], dtype=np.int32),
        "merchant:last.offset": np.array([9]),
    }
    row = RowSet(TileTable(np.zeros(1, dtype=np.int64), one, np.array([NO_TIME]), fields), np.array([8]))
    golden = bytes.fromhex(
        "0100000001000000 0800000000000000"  # version 1, one tile; newest event time 8
        "0700000000000000 0200000000000000 000000000000f83f"  # start 7; count 2; sum 1.5
        "0100000000000000 02000000 0800000000000000 03000000 0900000000000000"  # n 1; 2 bytes of text; time 8; 3; 9
        "c3a9"
    )
    assert encode_rows(view, row) == [golden]


def test_a_row_of_another_format_version_is_refused_by_name():
    with pytest.raises(StoreFormatError, match="format 9"):
        RowDecoder(VIEW).decode([b"\x09" + bytes(15)])
