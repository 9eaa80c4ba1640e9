"""Events in a file, read as a worker would read them from the topic: strict decoding, lateness in the file's order.

JSON lines and Parquet rows (as JSON objects, see `featurestore produce`) are decoded by the rules of JSON whatever the
source's format is: they are readable stand-ins for its messages. An Avro file is read by Avro's rules, its own schema
resolved to the source's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import polars as pl

from featurestore.batches import ARRIVAL_TIME, EVENT_TIME, NO_TIME, OFFSET, PARTITION
from featurestore.definitions.specs import SourceSpec
from featurestore.errors import ConfigError
from featurestore.sources.decode import Decoder
from featurestore.sources.lateness import max_before, too_late, watermark_before
from featurestore.sources.produce import read_messages
from featurestore.sources.schema_registry import SchemaRegistry

_HEADER = bytes(5)
"""Confluent's: a zero byte and the schema's id."""


@dataclass(frozen=True)
class EventFile:
    """A file's events as one partition. accepted: columns of the schema, `event_time` and `arrival_time` (Int64 µs, the
    same), `_partition` 0, `_offset` (the message's place, from 0).

    dead: dead letters by reason; first_dead: of each reason the first one's place and error. late: events that are too
    late; out_of_order: accepted ones that are behind the newest before them.
    """

    messages: int
    accepted: pl.DataFrame
    dead: dict[str, int] = field(default_factory=dict)
    first_dead: dict[str, tuple[int, str]] = field(default_factory=dict)
    late: int = 0
    out_of_order: int = 0


def read_event_file(spec: SourceSpec, base_dir: Path, path: Path) -> EventFile:
    """Decode and judge a file. The clock plays no part: an event can't be in the future.

    Raises ConfigError for a file that is not there or of another kind, SchemaError for a schema that can't be used.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", hint="JSON lines, Parquet or Avro with events of the topic")
    dead: Counter[str] = Counter()
    first_dead: dict[str, tuple[int, str]] = {}

    def bury(place: int, reason: str, error: str) -> None:
        dead[reason] += 1
        first_dead.setdefault(reason, (place, error))

    values: list[bytes]
    if path.suffix == ".avro":
        if not spec.schema.endswith(".avsc"):
            raise ConfigError(
                f"{path} is Avro, but source '{spec.name}' has the schema {spec.schema}",
                hint="give JSON lines or Parquet",
            )
        registry, values = _avro_values(path)
        decoder = Decoder(msgspec.structs.replace(spec, format="avro-confluent"), base_dir, registry)
    else:
        values = [value for _, value in read_messages(path)]
        decoder = Decoder(msgspec.structs.replace(spec, format="json"), base_dir)
    decoded = decoder.decode(values)
    for bad in decoded.bad:
        bury(bad.index, bad.reason, bad.error)
    times = decoded.frame[spec.event_time]
    frame = decoded.frame.with_columns(times.dt.epoch("us").alias(EVENT_TIME), pl.Series(OFFSET, decoded.good))
    for place in frame.filter(pl.col(EVENT_TIME).is_null())[OFFSET].to_list():
        bury(place, "event_time_missing", f"event time field '{spec.event_time}' is null")
    frame = frame.filter(pl.col(EVENT_TIME).is_not_null())
    event_us = frame[EVENT_TIME].to_numpy()
    before = max_before(event_us, NO_TIME)
    late = too_late(event_us, watermark_before(before, spec.max_out_of_orderness_us), spec.allowed_lateness_us)
    frame = frame.filter(~late).with_columns(
        pl.col(EVENT_TIME).alias(ARRIVAL_TIME), pl.lit(0, dtype=pl.Int32).alias(PARTITION)
    )
    behind = int(((before != NO_TIME) & (event_us < before) & ~late).sum())
    return EventFile(len(values), frame, dict(sorted(dead.items())), first_dead, int(late.sum()), behind)


class _WrittenBy(SchemaRegistry):
    """Knows the one schema of an Avro file."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema

    def writer_schema(self, schema_id: int) -> Any:
        return self._schema


def _avro_values(path: Path) -> tuple[SchemaRegistry, list[bytes]]:
    """The file's schema, and its records as messages that name it: so they are resolved as the topic's are."""
    values: list[bytes] = []
    try:
        with path.open("rb") as file:
            records = fastavro.reader(file)
            written_by = records.writer_schema
            schema = fastavro.parse_schema(written_by)
            for record in records:
                out = BytesIO(_HEADER)
                out.seek(len(_HEADER))
                fastavro.schemaless_writer(out, schema, record)
                values.append(out.getvalue())
    except (ValueError, OverflowError, EOFError, OSError) as error:
        raise ConfigError(f"{path} can't be read as Avro: {error}", hint="an object container file (.avro)") from error
    return _WrittenBy(written_by), values
