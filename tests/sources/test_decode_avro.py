"""Avro values are read by the source's schema file and must be used up by it, each on its own."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.definitions.specs import ColumnSpec, SourceSpec
from featurestore.errors import SchemaError
from featurestore.sources.decode import Decoder
from tests.sources.support import source

UTC = timezone.utc
SCHEMA = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "card_id", "type": "string"},
        {"name": "merchant_id", "type": ["null", "string"], "default": None},
        {"name": "amount", "type": "double"},
        {"name": "quantity", "type": "int"},
        {"name": "online", "type": "boolean"},
        {"name": "status", "type": {"type": "enum", "name": "Status", "symbols": ["ok", "no"]}},
        {"name": "blob", "type": "bytes"},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
COLUMNS = (
    ColumnSpec(name="card_id", dtype="String"),
    ColumnSpec(name="merchant_id", dtype="String", nullable=True, has_default=True),
    ColumnSpec(name="amount", dtype="Float64"),
    ColumnSpec(name="quantity", dtype="Int64"),
    ColumnSpec(name="online", dtype="Boolean"),
    ColumnSpec(name="status", dtype="String"),
    ColumnSpec(name="blob", dtype="Binary"),
    ColumnSpec(name="day", dtype="Date"),
    ColumnSpec(name="ts", dtype="Datetime", unit="ms"),
)
ROW: dict[str, Any] = {
    "card_id": "c1", "merchant_id": None, "amount": float("nan"), "quantity": -3, "online": True,
    "status": "no", "blob": b"\x00\xff", "day": date(2020, 2, 29),
    "ts": datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC),
}  # fmt: skip
PARSED = fastavro.parse_schema(SCHEMA)


def encode(row: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, PARSED, row)
    return stream.getvalue()


def raw(value: bytes) -> bytes:
    return value


def confluent(value: bytes) -> bytes:
    return b"\x00\x00\x00\x00\x07" + value


WIRES: dict[str, Callable[[bytes], bytes]] = {"avro": raw, "avro-confluent": confluent}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schemas")
    (path / "payment.avsc").write_text(json.dumps(SCHEMA))
    return path


def spec(format: str) -> SourceSpec:
    return source(format=format, schema="payment.avsc", columns=COLUMNS)


@pytest.mark.parametrize("format", WIRES)
def test_every_type_comes_back(folder: Path, format: str) -> None:
    row = {**ROW, "amount": 2.5, "merchant_id": "m"}
    decoded = Decoder(spec(format), folder).decode([WIRES[format](encode(row))])
    assert decoded.bad == []
    assert decoded.frame.to_dicts() == [row]
    assert decoded.frame.columns == [column.name for column in COLUMNS]


@pytest.mark.parametrize("format", WIRES)
def test_what_is_cut_off_or_goes_on_is_malformed(folder: Path, format: str) -> None:
    value = WIRES[format](encode({**ROW, "amount": 2.5}))
    values = [value[:length] for length in range(len(value))]
    values += [value + b"\x00", value + value, None, value]  # type: ignore[list-item]
    decoded = Decoder(spec(format), folder).decode(values)
    assert decoded.good.tolist() == [len(values) - 1]
    reasons = {bad.reason for bad in decoded.bad if values[bad.index] is not None}
    assert reasons == {"malformed"}
    assert decoded.bad[-1].reason == "tombstone"


def test_any_schema_id_is_taken_and_another_magic_byte_is_malformed(folder: Path) -> None:
    value = encode(ROW)
    decoded = Decoder(spec("avro-confluent"), folder).decode(
        [b"\x00\xff\xff\xff\xff" + value, b"\x01\x00\x00\x00\x07" + value, value]
    )
    assert decoded.good.tolist() == [0]
    assert [bad.reason for bad in decoded.bad] == ["malformed", "malformed"]
    assert "Confluent header" in decoded.bad[0].error


@given(st.lists(st.one_of(st.integers(-5, 5), st.binary(max_size=12)), max_size=30))
def test_each_bad_value_costs_itself_and_nothing_else(folder: Path, items: list[int | bytes]) -> None:
    values = [encode({**ROW, "quantity": item}) if isinstance(item, int) else item for item in items]
    decoded = Decoder(spec("avro"), folder).decode(values)
    # 12 bytes are too few for a row of this schema: none of them can be one by chance.
    assert decoded.good.tolist() == [index for index, item in enumerate(items) if isinstance(item, int)]
    assert decoded.frame["quantity"].to_list() == [item for item in items if isinstance(item, int)]
    assert [bad.index for bad in decoded.bad] == [i for i, item in enumerate(items) if isinstance(item, bytes)]
    assert all(bad.reason == "malformed" and bad.error for bad in decoded.bad)


def test_an_absurd_event_time_is_told_apart(folder: Path) -> None:
    with_number = fastavro.parse_schema(
        {**SCHEMA, "fields": [*SCHEMA["fields"][:-1], {"name": "ts", "type": "long"}]}  # type: ignore[index]
    )
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, with_number, {**ROW, "ts": 2**62})
    decoded = Decoder(spec("avro"), folder).decode([stream.getvalue()])
    assert [bad.reason for bad in decoded.bad] == ["event_time_out_of_range"]


@pytest.mark.parametrize("text", [None, "{", '{"type": "record"}', '{"type": "object", "properties": {}}'])
def test_a_schema_file_that_is_no_avro_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "payment.avsc").write_text(text)
    with pytest.raises(SchemaError, match=r"payment\.avsc"):
        Decoder(spec("avro"), tmp_path)
