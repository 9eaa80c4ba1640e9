"""Decode message values, each on its own: a bad one costs itself and nothing else.

The good path is one C-level `map` over the values. An exception leaves what was decoded before it in the list, and
the map goes on behind the bad value: row i is message i by construction, whatever the values hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featurestore.definitions.specs import ColumnSpec, SourceSpec
from featurestore.errors import ConfigError
from featurestore.sources.avro_codec import avro_codec
from featurestore.sources.columns import column_series, empty_frame
from featurestore.sources.json_codec import json_codec


@dataclass(frozen=True)
class BadValue:
    """Why a value could not be decoded. index: position in the batch."""

    index: int
    reason: str
    error: str


@dataclass(frozen=True)
class Decoded:
    """Decoded values. frame: the good rows, in order; good: their positions, int64; bad: the others."""

    frame: pl.DataFrame
    good: np.ndarray
    bad: list[BadValue]


@dataclass(frozen=True)
class Codec:
    """How one format is decoded.

    decode: one value to a row object, raising for a bad one. pickers: row object to each column's value, at C speed.
    classify: a raised error to (reason, text).
    """

    decode: Callable[[bytes], Any]
    pickers: Sequence[Callable[[Any], object]]
    classify: Callable[[Exception], tuple[str, str]]


class Decoder:
    """Decodes values of one source, by the schema it was resolved with.

    base_dir: what a relative schema path of an Avro source is relative to.
    """

    def __init__(self, spec: SourceSpec, base_dir: Path) -> None:
        self._columns = spec.columns
        self._event_time = spec.event_time
        if spec.format == "json":
            decode, pickers, classify = json_codec(spec.columns)
        elif spec.format in ("avro", "avro-confluent"):
            decode, pickers, classify = avro_codec(spec, base_dir)
        else:
            raise ConfigError(f"source '{spec.name}': unknown format '{spec.format}'", hint="json, avro or avro-confluent")
        self._codec = Codec(decode, pickers, classify)

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode a batch; each value is in exactly one of `good` and `bad`."""
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
            kept = np.setdiff1d(np.arange(len(rows)), list(wrong))
            bad = sorted(
                [*bad, *(BadValue(int(good[row]), *why) for row, why in wrong.items())], key=lambda value: value.index
            )
            frame, good = frame[kept.tolist()], good[kept]
        return Decoded(frame, good, bad)

    def _decode_rows(self, values: Sequence[bytes | None]) -> tuple[list[Any], list[BadValue]]:
        rows: list[Any] = []
        bad: list[BadValue] = []
        pending: Iterator[Any] = map(self._codec.decode, values)  # type: ignore[arg-type]
        while True:
            try:
                rows.extend(pending)
                return rows, bad
            except Exception as error:
                index = len(rows) + len(bad)
                if values[index] is None:
                    bad.append(BadValue(index, "tombstone", "the value is null"))
                else:
                    bad.append(BadValue(index, *self._codec.classify(error)))

    def _outside(self, column: ColumnSpec, value: object) -> tuple[str, str]:
        reason = "event_time_out_of_range" if column.name == self._event_time else "out_of_range"
        return reason, f"field '{column.name}': {value!r} is no instant between the years 1 and 9999"
