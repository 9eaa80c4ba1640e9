"""Avro values that were written with another schema than ours: Avro's resolution, and what can't be resolved."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import pytest

from featurestore.definitions.schema import load_schema
from featurestore.errors import ConfigError, SchemaRegistryUnavailableError
from featurestore.sources import schema_registry
from featurestore.sources.decode import Decoder
from featurestore.sources.schema_registry import SchemaRegistry, UnknownSchemaError
from tests.sources.registry_server import RegistryServer
from tests.sources.support import source

MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
OURS = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "card_id", "type": "string"},
        {"name": "amount", "type": "double"},
        {"name": "quantity", "type": "long", "default": 1},
        {"name": "merchant_id", "type": ["null", "string"], "default": None, "aliases": ["shop"]},
        {"name": "ts", "type": MILLIS},
    ],
}
ROW = {"card_id": "c1", "amount": 2.0, "quantity": 3, "merchant_id": "m", "ts": 1_700_000_000_123}


def written(schema: Any, row: dict[str, Any], number: int) -> bytes:
    plain = json.loads(json.dumps(schema).replace(', "logicalType": "timestamp-millis"', ""))
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(plain), row)
    return struct.pack(">bI", 0, number) + stream.getvalue()


def changed(*fields: dict[str, Any], without: tuple[str, ...] = (), **record: Any) -> Any:
    names = {field["name"] for field in fields} | set(without)
    return {**OURS, **record, "fields": [f for f in OURS["fields"] if f["name"] not in names] + list(fields)}  # type: ignore[attr-defined]


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer({7: OURS}) as server:
        yield server


@pytest.fixture
def decoder(server: RegistryServer, tmp_path: Path) -> Decoder:
    (tmp_path / "payment.avsc").write_text(json.dumps(OURS))
    columns = load_schema(tmp_path / "payment.avsc", "payment.avsc")
    spec = source(schema="payment.avsc", format="avro-confluent", columns=columns)
    return Decoder(spec, tmp_path, SchemaRegistry(server.url))


@pytest.mark.parametrize(
    ("theirs", "row", "expected"),
    [
        (OURS, ROW, ROW),
        (changed(name="Other", namespace="shop.events"), ROW, ROW),
        (changed({"name": "note", "type": "string"}), {**ROW, "note": "new"}, ROW),
        (changed(without=("quantity", "merchant_id")), ROW, {**ROW, "quantity": 1, "merchant_id": None}),
        (changed({"name": "amount", "type": "int"}), {**ROW, "amount": 2}, ROW),
        (changed({"name": "amount", "type": "float"}), ROW, ROW),
        (changed({"name": "card_id", "type": "bytes"}), {**ROW, "card_id": b"c1"}, ROW),
        (changed({"name": "merchant_id", "type": "string"}), ROW, ROW),
        (changed({"name": "shop", "type": "string"}, without=("merchant_id",)), {**ROW, "shop": "m"}, ROW),
    ],
    ids=["same", "name", "gained", "lost", "int", "float", "bytes", "not null", "alias"],
)
def test_what_avro_resolves_is_read_as_ours(server, decoder, theirs, row, expected):
    server.schemas[8] = theirs
    decoded = decoder.decode([written(theirs, row, 8), written(OURS, ROW, 7), written(theirs, row, 8)])
    assert not decoded.bad
    got = [{**found, "ts": round(found["ts"].timestamp() * 1_000)} for found in decoded.frame.to_dicts()]
    assert got == [expected, ROW, expected]
    assert len(server.asked) == 2, "a schema is asked for once"


@pytest.mark.parametrize(
    ("theirs", "row", "says"),
    [
        (changed(without=("card_id",)), ROW, "card_id"),
        (changed({"name": "amount", "type": "string"}), {**ROW, "amount": "2"}, "string is not double"),
        (changed({"name": "ts", "type": MICROS}), ROW, "field 'ts' is timestamp-micros in the writer's schema 8"),
        ({"type": "string"}, "text", "the writer's schema 8 is no record"),
    ],
    ids=["lost without a default", "type", "unit of time", "no record"],
)
def test_what_does_not_resolve_costs_these_messages_alone(server, decoder, theirs, row, says):
    server.schemas[8] = theirs
    decoded = decoder.decode([written(OURS, ROW, 7), written(theirs, row, 8), written(OURS, ROW, 7)])
    assert [(bad.index, bad.reason) for bad in decoded.bad] == [(1, "schema_mismatch")]
    assert says in decoded.bad[0].error
    assert len(decoded.frame) == 2


def test_an_id_that_the_registry_does_not_know_is_a_dead_letter_and_asked_for_again_later(server, decoder, monkeypatch):
    value = written(OURS, ROW, 9)
    decoded = decoder.decode([value, value])
    assert [(bad.reason, bad.error) for bad in decoded.bad] == [
        ("unknown_schema", "schema 9 is not in the registry")
    ] * 2
    assert len(server.asked) == 1
    server.schemas[9] = OURS
    assert decoder.decode([value]).bad
    monkeypatch.setattr(schema_registry, "ASK_AGAIN_S", 0.0)
    assert not decoder.decode([value]).bad


@pytest.mark.parametrize("value", [b"", b"\x00\x00\x00", b"\x01\x00\x00\x00\x07rest"])
def test_a_value_without_the_header_is_malformed(decoder, value):
    assert [bad.reason for bad in decoder.decode([value]).bad] == ["malformed"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((503, b""), "answers 503"),
        ((401, b""), "answers 401"),
        ((200, b"<html>"), "gives no schema"),
        ((200, b"[]"), "no schema"),
    ],
)
def test_a_registry_that_does_not_answer_as_it_should_is_no_verdict(server, decoder, answer, says):
    server.answer = answer
    with pytest.raises(SchemaRegistryUnavailableError, match=says):
        decoder.decode([written(OURS, ROW, 7)])
    server.answer = None
    assert not decoder.decode([written(OURS, ROW, 7)]).bad


def test_protobuf_and_references_are_unknown(server):
    registry = SchemaRegistry(server.url)
    server.answer = (200, json.dumps({"schema": "syntax", "schemaType": "PROTOBUF"}).encode())
    with pytest.raises(UnknownSchemaError, match="PROTOBUF"):
        registry.writer_schema(1)
    server.answer = (200, json.dumps({"schema": "{}", "references": [{"name": "x"}]}).encode())
    with pytest.raises(UnknownSchemaError, match="refers to others"):
        registry.writer_schema(2)


def test_nobody_there_and_no_url():
    with pytest.raises(
        SchemaRegistryUnavailableError, match=r"schema registry at 127\.0\.0\.1 does not answer"
    ) as caught:
        SchemaRegistry("http://user:secret@127.0.0.1:9").writer_schema(1)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="no URL"):
        SchemaRegistry("localhost:8081")
