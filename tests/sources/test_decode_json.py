"""JSON values are decoded strictly, each on its own."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.definitions.specs import ColumnSpec
from featurestore.errors import ConfigError, SchemaError
from featurestore.sources.decode import Decoded, Decoder
from tests.sources.support import T0_MS, payment, source

UTC = timezone.utc
TS = ColumnSpec(name="ts", dtype="Datetime", unit="ms")


def decode(column: ColumnSpec, *values: bytes | None) -> Decoded:
    return Decoder(source(columns=(column, TS)), Path()).decode(values)


def cell(column: ColumnSpec, raw: str) -> Any:
    """What `{"x": raw}` gives: the value, or (reason, error)."""
    value = f'{{"x": {raw}, "ts": 0}}' if raw else '{"ts": 0}'
    decoded = decode(column, value.encode())
    if decoded.bad:
        assert decoded.good.tolist() == []
        return decoded.bad[0].reason
    return decoded.frame["x"][0]


def x(dtype: str, **more: Any) -> ColumnSpec:
    return ColumnSpec(name="x", dtype=dtype, **more)


@pytest.mark.parametrize(
    ("column", "raw", "expected"),
    [
        (x("Int64"), "3", 3),
        (x("Int64"), "3.5", "wrong_type"),
        (x("Int64"), "3.0", "wrong_type"),
        (x("Int64"), '"3"', "wrong_type"),
        (x("Int64"), "true", "wrong_type"),
        (x("Int64"), "null", "null_field"),
        (x("Int64"), "", "missing_field"),
        (x("Int64"), str(2**63 - 1), 2**63 - 1),
        (x("Int64"), str(-(2**63)), -(2**63)),
        (x("Int64"), str(2**63), "out_of_range"),
        (x("Int64"), str(-(2**63) - 1), "out_of_range"),
        (x("Int64"), str(10**30), "out_of_range"),
        (x("Int64", nullable=True), "null", None),
        (x("Int64", nullable=True), "", None),
        (x("Int64", nullable=True), str(2**64), "out_of_range"),
        (x("Int64", nullable=True), '"3"', "wrong_type"),
        (x("Int64", has_default=True, default=7), "", 7),
        (x("Int64", has_default=True, default=7), "null", "null_field"),
        (x("Int64", nullable=True, has_default=True, default=7), "", 7),
        (x("Int64", nullable=True, has_default=True, default=7), "null", None),
        (x("Float64"), "3", 3.0),
        (x("Float64"), "3.25", 3.25),
        (x("Float64"), "1e400", "out_of_range"),
        (x("Float64"), '"3"', "wrong_type"),
        (x("Float64"), "NaN", "malformed"),
        (x("Float64", has_default=True, default=1), "", 1.0),
        (x("String"), '"ü\\u0000\\n"', "ü\x00\n"),
        (x("String"), '"\\ud83d\\ude00"', "😀"),
        (x("String"), '"\\ud800"', "malformed"),
        (x("String"), "5", "wrong_type"),
        (x("Boolean"), "true", True),
        (x("Boolean"), "1", "wrong_type"),
        (x("Binary"), '"YWI="', b"ab"),
        (x("Binary"), '"?"', "wrong_type"),
        (x("Binary", has_default=True, default="ÿ"), "", b"\xff"),
        (x("Datetime", unit="s"), "1", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        (x("Datetime", unit="us"), "-1", datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        (x("Datetime", unit="ns"), "-1", datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        (x("Datetime", unit="ns"), "1999", datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        (x("Datetime", unit="s"), "253402300799", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (x("Datetime", unit="s"), "253402300800", "out_of_range"),
        (x("Datetime", unit="s"), "-62135596800", datetime(1, 1, 1, tzinfo=UTC)),
        (x("Datetime", unit="s"), "-62135596801", "out_of_range"),
        (x("Datetime", unit="us"), str(2**63 - 1), "out_of_range"),
        (x("Datetime", unit="ms"), str(-(2**63)), "out_of_range"),
        (x("Datetime", unit="ms"), "1.5", "wrong_type"),
        (x("Datetime", unit="ms", nullable=True), "null", None),
        (x("Datetime", unit="iso"), '"2020-01-01T02:00:00+02:00"', datetime(2020, 1, 1, tzinfo=UTC)),
        (x("Datetime", unit="iso"), '"2020-01-01T00:00:00"', "wrong_type"),
        (x("Datetime", unit="iso"), '"yesterday"', "wrong_type"),
        (x("Datetime", unit="iso"), "5", "wrong_type"),
        (x("Datetime", unit="iso"), '"0001-01-01T00:00:00+02:00"', "out_of_range"),
        (x("Datetime", unit="iso"), '"9999-12-31T23:00:00-02:00"', "out_of_range"),
        (
            x("Datetime", unit="iso", has_default=True, default="2020-01-01T00:00:00.000001Z"),
            "",
            datetime(2020, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        ),
        (x("Date"), "-1", date(1969, 12, 31)),
        (x("Date"), "2932896", date(9999, 12, 31)),
        (x("Date"), "2932897", "out_of_range"),
        (x("Date", nullable=True), "null", None),
        (x("Date", unit="iso"), '"2020-02-29"', date(2020, 2, 29)),
        (x("Date", unit="iso"), '"2021-02-29"', "wrong_type"),
        (x("Date", unit="iso", has_default=True, default="2020-02-29"), "", date(2020, 2, 29)),
    ],
)
def test_a_field_is_taken_as_the_schema_says_or_refused(column: ColumnSpec, raw: str, expected: object) -> None:
    got = cell(column, raw)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    "value",
    [
        b"", b" ", b"{", b"[]", b"3", b"null", b'"x"', b"\xff\xfe", b'{"x": "\xff", "ts": 0}', b"{}{}",
        b'{"x": "a"}\n{"x": "b"}', b'{"x": "a\nb", "ts": 0}', b"[" * 10_000, b'{"y":' * 10_000,
        b'{"x": 5, "ts": 0', b'{"x": null, "ts": 0}}', b'{"x": 5, "ts": "\xff"}',
    ],
)  # fmt: skip
def test_what_is_no_object_is_malformed(value: bytes) -> None:
    decoded = decode(x("String"), value)
    assert [(bad.index, bad.reason) for bad in decoded.bad] == [(0, "malformed")]
    assert decoded.bad[0].error


def test_an_error_names_the_field() -> None:
    assert "$.x" in decode(x("Int64"), b'{"x": "a", "ts": 0}').bad[0].error
    assert "`x`" in decode(x("Int64"), b'{"ts": 0}').bad[0].error


@pytest.mark.parametrize("name", ["got `null`", "missing required field", "a.b", "$ü", "Number out of range"])
def test_a_field_whose_name_reads_like_an_error_is_judged_by_its_value(name: str) -> None:
    column = ColumnSpec(name=name, dtype="Int64")
    values = [json.dumps({name: cell, "ts": 0}).encode() for cell in ("text", None, 2**64, 5)]
    decoded = decode(column, *values, b'{"ts": 0}')
    reasons = [bad.reason for bad in decoded.bad]
    assert reasons == ["wrong_type", "null_field", "out_of_range", "missing_field"]
    assert decoded.frame[name].to_list() == [5]


def test_fields_that_the_schema_does_not_name_are_ignored() -> None:
    assert decode(x("Int64"), b'{"y": {"z": [1]}, "ts": 0, "x": 1, "x": 2}').frame["x"].to_list() == [2]


def test_an_event_time_that_is_no_time_has_its_own_reason() -> None:
    decoded = decode(x("Int64"), b'{"x": 1, "ts": 99999999999999999}', b'{"x": 1, "ts": 0}')
    assert [(bad.index, bad.reason) for bad in decoded.bad] == [(0, "event_time_out_of_range")]
    assert "99999999999999999" in decoded.bad[0].error
    assert decoded.good.tolist() == [1]


def test_a_row_with_two_absurd_times_is_one_dead_letter() -> None:
    column = x("Datetime", unit="s")
    value = b'{"x": 99999999999999999, "ts": 99999999999999999}'
    decoded = decode(column, value, b'{"x": 0, "ts": 0}', None, value)
    assert [(bad.index, bad.reason) for bad in decoded.bad] == [
        (0, "out_of_range"),
        (2, "tombstone"),
        (3, "out_of_range"),
    ]
    assert decoded.good.tolist() == [1]


def test_no_value_and_only_bad_values_give_empty_frames_with_the_schemas_dtypes() -> None:
    whole = Decoder(source(), Path()).decode([payment()])
    for values in ([], [b"x"], [None, b""]):
        decoded = Decoder(source(), Path()).decode(values)
        assert decoded.frame.schema == whole.frame.schema
        assert len(decoded.frame) == len(decoded.good) == 0
        assert [bad.index for bad in decoded.bad] == list(range(len(values)))


GOOD = {"card_id": "c1", "merchant_id": None, "amount": 1.5, "ts": T0_MS}
BAD: list[tuple[bytes | None, str]] = [
    (None, "tombstone"),
    (b"", "malformed"),
    (b"\n", "malformed"),
    (json.dumps({**GOOD, "amount": "5"}).encode(), "wrong_type"),
    (json.dumps({**GOOD, "card_id": None}).encode(), "null_field"),
    (json.dumps({"card_id": "c"}).encode(), "missing_field"),
    (json.dumps({**GOOD, "ts": 2**63}).encode(), "out_of_range"),
    (json.dumps({**GOOD, "ts": 2**62}).encode(), "event_time_out_of_range"),
]
good_values = st.builds(
    lambda card, amount, ts: {"card_id": card, "merchant_id": None, "amount": amount, "ts": ts},
    st.text(max_size=5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-62_135_596_800_000, 253_402_300_799_999),
)


@given(st.lists(st.one_of(good_values, st.sampled_from(BAD)), max_size=60))
def test_each_bad_value_costs_itself_and_nothing_else(
    items: list[dict[str, Any] | tuple[bytes | None, str]],
) -> None:
    values = [json.dumps(item).encode() if isinstance(item, dict) else item[0] for item in items]
    decoded = Decoder(source(), Path()).decode(values)
    good = [(index, item) for index, item in enumerate(items) if isinstance(item, dict)]
    assert decoded.good.tolist() == [index for index, _ in good]
    assert [(bad.index, bad.reason) for bad in decoded.bad] == [
        (index, item[1]) for index, item in enumerate(items) if isinstance(item, tuple)
    ]
    rows = decoded.frame.with_columns(pl.col("ts").dt.epoch("ms")).to_dicts()
    assert rows == [item for _, item in good]


def test_a_default_that_does_not_fit_its_column_is_refused() -> None:
    for column in (x("Int64", has_default=True, default="a"), x("Int64", has_default=True, default=None)):
        with pytest.raises(SchemaError, match="column 'x'"):
            Decoder(source(columns=(column, TS)), Path())


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="xml"):
        Decoder(source(format="xml"), Path())


@pytest.mark.parametrize(
    "where", [b'"\x80x": 1, ', b'"\xc3\x28": {"a": "b"}, ', b'"more": ["\xff"], ', b'"more": {"\xed\xa0\x80": 1}, ']
)
def test_a_field_that_the_schema_does_not_name_must_be_utf8_too(where: bytes) -> None:
    # A decoder that skips what it does not need takes a damaged name for a missing field, which may be null.
    good, bad = b'{"ts": 0}', b"{" + where + b'"ts": 0}'
    decoded = decode(x("Int64", nullable=True), good, bad, None, good)
    assert decoded.good.tolist() == [0, 3]
    assert [(one.index, one.reason) for one in decoded.bad] == [(1, "malformed"), (2, "tombstone")]
