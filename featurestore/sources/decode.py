"""Decode message values, each on its own: a bad one costs itself and nothing else.

The good path is one C-level `map` over the values. An exception leaves what was decoded before it in the
list, and the map goes on behind the bad value: row i is message i by construction, whatever the values
hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featurestore.definitions.specs import ColumnSpec, SourceSpec
from featurestore.errors import ConfigError, SchemaRegistryUnavailableError
from featurestore.sources.avro_codec import avro_codec
from featurestore.sources.columns import column_series, empty_frame
from featurestore.sources.json_codec import json_codec
from featurestore.sources.schema_registry import SchemaRegistry

FORMATS = ("json", "avro", "avro-confluent")


@dataclass(frozen=True)
class BadValue:
    """Why a value could not be decoded. index: position in the batch."""

    index: int
    reason: str
    error: str


@dataclass(frozen=True)
class Decoded:
    """Decoded values, in order. frame: the good rows; good: their positions, int64; bad: the others."""

    frame: pl.DataFrame
    good: np.ndarray
    bad: list[BadValue]


@dataclass(frozen=True)
class Codec:
    """How one format is decoded.

    decode: one value to a row object, raising for a bad one (and for None). pickers: row object to each
    column's value, at C speed. classify: a raised error and its value to (reason, text). is_text: a value that is no
    UTF-8 is bad, also where `decode` does not look: in what the schema does not name.
    """

    decode: Callable[[bytes], Any]
    pickers: Sequence[Callable[[Any], object]]
    classify: Callable[[Exception, bytes], tuple[str, str]]
    is_text: bool = False


class Decoder:
    """Decodes values of one source, by the schema it was resolved with.

    base_dir: what a relative schema path of an Avro source is relative to. registry: of the schemas that Avro
    values were written with. Raises ConfigError for an unknown format, SchemaError for a schema that can't
    be used.
    """

    def __init__(self, spec: SourceSpec, base_dir: Path, registry: SchemaRegistry | None = None) -> None:
        self._columns = spec.columns
        self._event_time = spec.event_time
        if spec.format == "json":
            self._codec = Codec(*json_codec(spec.columns), is_text=True)
        elif spec.format in FORMATS:
            self._codec = Codec(*avro_codec(spec, base_dir, registry))
        else:
            raise ConfigError(
                f"source '{spec.name}': unknown format '{spec.format}'", hint=f"one of {', '.join(FORMATS)}"
            )

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode a batch; each value is in exactly one of `good` and `bad`.

        Raises SchemaRegistryUnavailableError when a value needs a schema that can't be had now.
        """
        rows, bad = self._decode_rows(values)
        good = np.arange(len(values), dtype=np.int64)
        if bad:
            good = np.delete(good, [value.index for value in bad])
        if not rows:
            return Decoded(empty_frame(self._columns), good, bad)
        series: list[pl.Series] = []
        wrong: dict[int, tuple[str, str]] = {}
        for column, pick in zip(self._columns, self._codec.pickers, strict=True):
            cells = list(map(pick, rows))
            one, outside = column_series(column, cells)
            series.append(one)
            if outside is not None:
                for row in np.flatnonzero(outside).tolist():
                    wrong.setdefault(row, self._outside(column, cells[row]))
        frame = pl.DataFrame(series)
        if wrong:
            late_found = [BadValue(int(good[row]), *why) for row, why in wrong.items()]
            bad = sorted([*bad, *late_found], key=lambda value: value.index)
            keep = np.ones(len(rows), dtype=bool)
            keep[list(wrong)] = False
            frame, good = frame.filter(keep), good[keep]
        assert len(frame) == len(good) == len(values) - len(bad), "each value is good or bad"
        return Decoded(frame, good, bad)

    def _decode_rows(self, values: Sequence[bytes | None]) -> tuple[list[Any], list[BadValue]]:
        rows: list[Any] = []
        bad: list[BadValue] = []
        decode = self._codec.decode
        if self._codec.is_text and not _is_utf8(values):
            decode = _of_text(decode)
        pending: Iterator[Any] = map(decode, values)  # type: ignore[arg-type]
        while True:
            try:
                rows.extend(pending)
                return rows, bad
            except (MemoryError, SchemaRegistryUnavailableError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever a decoder raises, the value is at fault
                index = len(rows) + len(bad)
                value = values[index]
                if value is None:
                    bad.append(BadValue(index, "tombstone", "the value is null"))
                else:
                    bad.append(BadValue(index, *self._codec.classify(error, value)))

    def _outside(self, column: ColumnSpec, value: object) -> tuple[str, str]:
        reason = "event_time_out_of_range" if column.name == self._event_time else "out_of_range"
        return reason, f"field '{column.name}': {value} is no time between the years 1 and 9999 in UTC"


def _is_utf8(values: Sequence[bytes | None]) -> bool:
    """Whether all values are UTF-8, looked at together: 0.02 CPU-s per million where they are ASCII."""
    # What is cut off within a character is not mended by a line feed.
    together = b"\n".join(filter(None, values))
    if together.isascii():
        return True
    try:
        together.decode()
    except UnicodeDecodeError:
        return False
    return True


def _of_text(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def checked(value: bytes) -> Any:
        value.decode()
        return decode(value)

    return checked
