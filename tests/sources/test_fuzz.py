"""Valid messages, damaged: nothing makes a decoder fall, and a batch is decoded as each of its messages alone is."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.definitions.specs import ColumnSpec
from featurestore.sources.decode import Decoder
from featurestore.sources.judge import Judge
from featurestore.sources.messages import collect
from featurestore.sources.verdicts import VerdictJournal
from tests import oracle
from tests.oracle.wire import Column
from tests.sources.support import T0_MS, message, source
from tests.sources.test_decode_avro import COLUMNS, PARSED, SCHEMA, encode, spec
from tests.sources.test_decode_avro import ROW as AVRO_ROW

FUZZ_S = 120 if os.environ.get("FEATURESTORE_TEST_FAULTS") == "long" else 5
EXAMPLES = int(os.environ.get("FEATURESTORE_TEST_HISTORIES", "200")) // 2
JSON_COLUMNS = (
    ColumnSpec(name="card_id", dtype="String"),
    ColumnSpec(name="merchant_id", dtype="String", nullable=True),
    ColumnSpec(name="amount", dtype="Float64"),
    ColumnSpec(name="quantity", dtype="Int64", nullable=True),
    ColumnSpec(name="online", dtype="Boolean", nullable=True),
    ColumnSpec(name="ts", dtype="Datetime", unit="ms"),
)
ORACLE_COLUMNS: Mapping[str, Column] = {
    c.name: Column(c.dtype, c.nullable, unit="ms" if c.dtype == "Datetime" else "us") for c in JSON_COLUMNS
}
JSON_ROW = {"card_id": "ü1", "merchant_id": "m\\1", "amount": 12.5, "quantity": 3, "online": True, "ts": T0_MS}

# What is put in place of a value, or anywhere.
TOKENS = [
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"null",
        b"true",
        b"1e999",
        b"-1e999",
        b"1e-999",
        b"-0",
        b"-0.0",
        b"01",
        b"1.",
    ),
    *(b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"1" * 400, b"0", b"-1", b"1e5"),
    *(b"253402300799999", b"253402300800000", b"-62135596800000", b"-62135596800001", b"99999999999999999"),
    *(b'"\\ud800"', b'"\\u0000"', b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b"\n", b'"', b"\\"),
    *(b"{}", b"[]", b"[" * 1_500, b'{"a":' * 1_500, b"{", b"}", b",", b":", b'"ts":0,', b"1" * 500),
]


@st.composite
def json_values(draw: st.DrawFn) -> bytes | None:
    row: dict[str, Any] = dict(JSON_ROW)
    value = json.dumps(row, ensure_ascii=draw(st.booleans())).encode()
    kind = draw(st.sampled_from(["whole", "whole", "token", "bytes", "none", "more", "again"]))
    if kind == "none":
        return draw(st.sampled_from([None, b""]))
    if kind == "token":
        name = draw(st.sampled_from(list(row)))
        old = json.dumps(row[name]).encode()
        return json.dumps(row).encode().replace(old, draw(st.sampled_from(TOKENS)), 1)
    if kind == "more":
        return value[:-1] + b', "more": ' + draw(st.sampled_from(TOKENS)) + b"}"
    if kind == "again":
        name = draw(st.sampled_from(list(row)))
        return value[:-1] + b', "' + name.encode() + b'": ' + draw(st.sampled_from(TOKENS)) + b"}"
    return value if kind == "whole" else draw(damaged(value))


@st.composite
def damaged(draw: st.DrawFn, value: bytes) -> bytes:
    """Bytes taken out, put in, changed."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(value)))
        length = draw(st.integers(0, 6))
        put = draw(st.binary(max_size=6) | st.sampled_from(TOKENS[:40]))
        value = value[:at] + put + value[at + length :]
    return value


def one_by_one(decoder: Decoder, values: list[bytes | None]) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Each value decoded by itself: good rows, and the reasons of the others."""
    rows: list[dict[str, Any]] = []
    bad: dict[int, str] = {}
    for index, value in enumerate(values):
        alone = decoder.decode([value])
        rows += alone.frame.to_dicts()
        bad.update((index, one.reason) for one in alone.bad)
        assert len(alone.good) + len(alone.bad) == 1
    return rows, bad


def assert_decoded_as_each_alone(decoder: Decoder, values: list[bytes | None]) -> dict[int, str]:
    decoded = decoder.decode(values)
    rows, bad = one_by_one(decoder, values)
    assert repr(decoded.frame.to_dicts()) == repr(rows)
    assert {one.index: one.reason for one in decoded.bad} == bad
    assert sorted([*decoded.good.tolist(), *bad]) == list(range(len(values)))
    return bad


@settings(max_examples=EXAMPLES)
@given(st.lists(json_values(), max_size=12))
def test_a_batch_of_damaged_json_is_decoded_as_each_message_alone_and_as_the_oracle_reads_it(values):
    decoder = Decoder(source(columns=JSON_COLUMNS), Path())
    bad = assert_decoded_as_each_alone(decoder, values)
    for index, value in enumerate(values):
        event, _ = oracle.read_json(value, ORACLE_COLUMNS, "ts")
        assert (event is None) == (index in bad), value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schemas")
    (path / "payment.avsc").write_text(json.dumps(SCHEMA))
    return path


@st.composite
def avro_values(draw: st.DrawFn) -> bytes | None:
    row = {**AVRO_ROW, "amount": draw(st.floats()), "quantity": draw(st.integers(-(2**31), 2**31 - 1))}
    value = encode({**row, "card_id": draw(st.text(max_size=5)), "blob": draw(st.binary(max_size=5))})
    kind = draw(st.sampled_from(["whole", "whole", "cut", "bytes", "varint", "none"]))
    if kind == "none":
        return draw(st.sampled_from([None, b""]))
    if kind == "cut":
        return value[: draw(st.integers(0, len(value)))]
    if kind == "varint":
        # A length or a number of up to twelve bytes, where any number could stand.
        at = draw(st.integers(0, len(value) - 1))
        endless = draw(
            st.sampled_from([b"\xff" * 9 + b"\x01", b"\xfe" * 11 + b"\x7f", b"\x80" * 12, b"\x01", b"\xfd\x03"])
        )
        return value[:at] + endless + value[at + 1 :]
    return value if kind == "whole" else draw(damaged(value))


def by_library(value: bytes | None) -> bool:
    """Whether fastavro reads one whole record of the schema, with text and times that there are."""
    try:
        stream = io.BytesIO(value or b"")
        fastavro.schemaless_reader(stream, PARSED, None)
    except Exception:  # noqa: BLE001 - whatever it raises, it is no record
        return False
    return stream.tell() == len(value or b"")


FRAMES: dict[str, Callable[[bytes], bytes]] = {"avro": bytes, "avro-confluent": lambda v: struct.pack(">bI", 0, 7) + v}


@pytest.mark.parametrize("format", FRAMES)
@settings(max_examples=EXAMPLES)
@given(values=st.lists(avro_values(), max_size=12))
def test_a_batch_of_damaged_avro_is_decoded_as_each_message_alone(folder: Path, format: str, values):
    decoder = Decoder(spec(format), folder)
    framed = [None if value is None else FRAMES[format](value) for value in values]
    bad = assert_decoded_as_each_alone(decoder, framed)
    for index, value in enumerate(values):
        if by_library(value):
            assert index not in bad or "range" in bad[index]
        elif index not in bad:
            # The library refuses times that it can't hold; the project takes them as numbers.
            row = decoder.decode([framed[index]]).frame.row(0, named=True)
            assert row.keys() == {column.name for column in COLUMNS}


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
@settings(max_examples=8)
@given(data=st.data())
def test_every_message_ends_in_exactly_one_place_whatever_the_share_of_bad_ones(
    tmp_path_factory: pytest.TempPathFactory, share: float, data
):
    chance = data.draw(st.randoms(use_true_random=False))
    bad = data.draw(st.lists(json_values(), min_size=1, max_size=20))
    whole = [json.dumps({**JSON_ROW, "ts": T0_MS + n}).encode() for n in range(300)]
    values = [chance.choice(bad) if chance.random() < share else value for value in whole]
    definition = source(columns=JSON_COLUMNS)
    journal = VerdictJournal(tmp_path_factory.mktemp("verdicts"), "g", 0, 0, fsync=False)
    raw = collect([message(0, n, value) for n, value in enumerate(values)], {0: (0, None)})
    decoded = Decoder(definition, Path()).decode(raw.values)
    (judged,) = Judge(definition, {0: -(2**63)}, {0: journal}).judge(raw, decoded, T0_MS * 1_000)
    journal.close()
    places = [frame["_offset"].to_list() for frame in (judged.accepted, judged.late, judged.dead)]
    assert sorted(offset for place in places for offset in place) == list(range(len(values)))
    accepted = {offset for place in places[:2] for offset in place}
    for offset, value in enumerate(values):
        event, _ = oracle.read_json(value, ORACLE_COLUMNS, "ts")
        if event is None:
            assert offset not in accepted


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="there is no atheris for this Python")
@pytest.mark.parametrize("format", ["json", "avro"])
def test_a_fuzzer_that_sees_what_it_reaches_finds_nothing_in_some_seconds(format: str, tmp_path: Path):
    command = [sys.executable, "-m", "tests.sources.fuzz_codecs", format, "--seconds", str(FUZZ_S)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=FUZZ_S + 60)
    assert done.returncode == 0, done.stderr[-5000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None, done.stderr[-2000:]
    assert int(runs[1]) > 100, "it has tried some"
