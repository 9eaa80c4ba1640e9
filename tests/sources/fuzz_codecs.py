"""`python -m tests.sources.fuzz_codecs json --seconds 60`: bytes that reach ever more of the codecs (libFuzzer).

An input is some messages. What must hold for any: nothing is raised, each message is good or bad and not both, a batch
is decoded as each of its messages alone, and good JSON is what the oracle takes for good. An input for which it does
not is printed and kept in the working directory. Needs atheris, which there is for Python 3.11 and later.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["featurestore.sources", "fastavro", "tests.oracle"]):
    from featurestore.sources.decode import Decoder
    from tests import oracle

from tests.sources.support import source
from tests.sources.test_decode_avro import ROW as AVRO_ROW
from tests.sources.test_decode_avro import SCHEMA, encode, spec
from tests.sources.test_fuzz import (
    JSON_COLUMNS,
    JSON_ROW,
    ORACLE_COLUMNS,
    TOKENS,
    assert_decoded_as_each_alone,
    by_library,
)

BETWEEN = b"\xf5\xf5"
"""Between the messages of an input; no text holds it."""

MESSAGES_MAX = 6


def messages_of(data: bytes) -> list[bytes | None]:
    """The messages of an input; an empty one has no value."""
    return [value or None for value in data.split(BETWEEN)[:MESSAGES_MAX]]


def check_json(decoder: Decoder, data: bytes) -> None:
    """Raises AssertionError for an input that breaks a promise."""
    values = messages_of(data)
    bad = assert_decoded_as_each_alone(decoder, values)
    for index, value in enumerate(values):
        event, _ = oracle.read_json(value, ORACLE_COLUMNS, "ts")
        assert (event is None) == (index in bad), value


def check_avro(decoder: Decoder, data: bytes) -> None:
    """Raises AssertionError for an input that breaks a promise."""
    values = messages_of(data)
    bad = assert_decoded_as_each_alone(decoder, values)
    for index, value in enumerate(values):
        if by_library(value):
            assert index not in bad or "range" in bad[index], value


def seeds(format: str) -> list[bytes]:
    """Good messages and such that decoders fell over elsewhere."""
    if format == "avro":
        whole = encode(AVRO_ROW)
        return [whole, whole + BETWEEN + whole[:-3], b"", *(whole[:at] + b"\xff" * 9 + whole[at:] for at in (0, 5, 9))]
    whole = json.dumps(JSON_ROW).encode()
    spoiled = [whole[:-1] + b', "more": ' + token + b"}" for token in TOKENS]
    return [whole, b"", whole + BETWEEN + whole[:9] + BETWEEN + whole, *spoiled]


def main() -> None:
    """Fuzz for some seconds; libFuzzer ends the process, with 0 when nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format", choices=["json", "avro"])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        (folder / "payment.avsc").write_text(json.dumps(SCHEMA))
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds(asked.format)):
            (corpus / f"{number}").write_bytes(seed)
        check = check_json if asked.format == "json" else check_avro
        decoder = Decoder(source(columns=JSON_COLUMNS) if asked.format == "json" else spec("avro"), folder)
        limits = [f"-max_total_time={asked.seconds}", f"-seed={asked.seed}", "-max_len=4096", "-timeout=20"]
        atheris.Setup([sys.argv[0], *limits, str(corpus)], lambda data: check(decoder, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
