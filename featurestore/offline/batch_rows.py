"""A batch view's rows in the offline store: what was materialized of each interval, in files of a fixed size.

Names follow from interval and part, so a repeated run writes the same files. A row that lies in another file already
is not written again: a file of the source that grew is read whole each time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from featurestore.compile.batch import CompiledBatchView
from featurestore.offline import layout
from featurestore.offline.atomic import CrashPoint, no_crash, remove_durably, remove_temporaries, write_atomically
from featurestore.offline.tables import read_frame, write_frame

EVENT_TIMESTAMP = "event_timestamp"
CREATED_TIMESTAMP = "created_timestamp"
PART_ROWS = 250_000
"""Rows of a file, and how many are held in memory until it is written."""

_INSTANT = pl.Datetime("us", "UTC")


def batch_schema(view: CompiledBatchView) -> pl.Schema:
    """Columns of the dataset: join keys, features, event_timestamp, created_timestamp."""
    columns: dict[str, pl.DataType] = {key.name: getattr(pl, key.dtype)() for key in view.spec.join_keys}
    columns |= {field.name: getattr(pl, field.output_dtype)() for field in view.spec.features}
    return pl.Schema({**columns, EVENT_TIMESTAMP: _INSTANT, CREATED_TIMESTAMP: _INSTANT})


def scan_batch_rows(root: Path, view: CompiledBatchView, files: Sequence[str] | None = None) -> pl.LazyFrame:
    """All rows of a batch view's version, not yet read, intervals in order and rows as the source had them.

    files: names of those to read, of `batch_files`; all by default. Files that appear later are not seen. The same row
    may be there twice where intervals overlap.
    """
    folder = layout.batch_dir(root, view.name, view.version)
    return _scan(view, _files(root, view) if files is None else [folder / name for name in files])


def batch_files(root: Path, view: CompiledBatchView) -> list[str]:
    """Names of the files that hold a batch view's rows now, sorted; a file never changes once it is there."""
    return [path.name for path in _files(root, view)]


def count_batch_rows(root: Path, view: CompiledBatchView) -> int:
    """How many rows the files of a batch view's version have, from their footers."""
    return int(scan_batch_rows(root, view).select(pl.len()).collect().item())


class BatchRowsWriter:
    """Writes the rows of one interval. `write` any number of times, then `finish`; nobody else writes to the dataset.

    from_us, to_us: the interval. started_us: the created time that stands for none in this run.
    """

    def __init__(
        self,
        root: Path,
        view: CompiledBatchView,
        *,
        from_us: int | None,
        to_us: int,
        started_us: int,
        part_rows: int = PART_ROWS,
        crash_point: CrashPoint = no_crash,
    ) -> None:
        self._view = view
        self._folder = layout.batch_dir(root, view.name, view.version)
        self._span = (from_us, to_us)
        self._started_us = started_us
        self._part_rows = part_rows
        self._crash_point = crash_point
        self._stem = layout.batch_stem(from_us, to_us)
        remove_temporaries(self._folder)
        self._others = [path for path in _files(root, view) if not path.name.startswith(self._stem)]
        self._waiting: list[pl.DataFrame] = []
        self._waiting_rows = 0
        self.parts: list[Path] = []
        self.rows = 0

    def new_rows(self, rows: pl.DataFrame, maybe_stored: pl.Series) -> pl.DataFrame:
        """The rows that no file of another interval holds, in their order; what is to be written, to either store.

        rows: columns of `batch_schema` and others. maybe_stored: Boolean, rows to look for; the others are new. Reads
        the files of their span of time. A row whose creation the source does not tell is found by its values alone.
        """
        if not self._others or not maybe_stored.any():
            return rows
        same = [*self._view.key_names, *self._view.features, EVENT_TIMESTAMP]
        asked = rows.with_row_index("_row").filter(maybe_stored)
        times = asked[EVENT_TIMESTAMP]
        span = pl.col(EVENT_TIMESTAMP).is_between(pl.lit(times.min()), pl.lit(times.max()))
        found = (
            _scan(self._view, self._others)
            .filter(span)
            .join(asked.lazy().select(same).unique(), on=same, how="semi", nulls_equal=True)
            .select(*same, CREATED_TIMESTAMP)
            .unique()
            .collect(engine="streaming")
        )
        told = pl.col(CREATED_TIMESTAMP).dt.epoch("us") != self._started_us
        written = [
            asked.filter(told).join(found, on=[*same, CREATED_TIMESTAMP], how="semi", nulls_equal=True),
            asked.filter(~told).join(found, on=same, how="semi", nulls_equal=True),
        ]
        stored = pl.concat(part.select("_row") for part in written)
        return rows.with_row_index("_row").join(stored, on="_row", how="anti", maintain_order="left").drop("_row")

    def write(self, rows: pl.DataFrame) -> None:
        """Take rows with the columns of `batch_schema`, and others."""
        rows = rows.select(list(batch_schema(self._view)))
        while len(rows):
            room = self._part_rows - self._waiting_rows
            self._waiting.append(rows.head(room))
            self._waiting_rows += len(self._waiting[-1])
            rows = rows.slice(room)
            if self._waiting_rows == self._part_rows:
                self._flush()

    def finish(self) -> None:
        """Write what is left, and remove parts that an earlier run of the interval had beyond these."""
        if self._waiting_rows:
            self._flush()
        written = set(self.parts)
        remove_durably(path for path in sorted(self._folder.glob(f"{self._stem}*")) if path not in written)

    def _flush(self) -> None:
        rows = pl.concat(self._waiting)
        self._waiting, self._waiting_rows = [], 0
        path = self._folder / layout.batch_name(*self._span, len(self.parts))
        if not (path.exists() and self._holds(path, rows)):
            footer = {"view": self._view.name, "version": self._view.version, "started_us": self._started_us}
            write_atomically(
                path,
                lambda file: write_frame(
                    file,
                    rows,
                    footer=json.dumps(footer).encode(),
                    statistics=[*self._view.key_names, EVENT_TIMESTAMP, CREATED_TIMESTAMP],
                ),
                self._crash_point,
            )
        self.parts.append(path)
        self.rows += len(rows)
        self._crash_point("part_written")

    def _holds(self, path: Path, rows: pl.DataFrame) -> bool:
        """Whether a file holds these rows already; a created time that only stands for this run's start may differ."""
        stored = read_frame(path)
        if stored.schema != rows.schema or len(stored) != len(rows):
            return False
        told = rows[CREATED_TIMESTAMP].dt.epoch("us") != self._started_us
        created = CREATED_TIMESTAMP
        return stored.drop(created).equals(rows.drop(created)) and bool(
            (~told | (stored[created] == rows[created])).all()
        )


def _files(root: Path, view: CompiledBatchView) -> list[Path]:
    return sorted(layout.batch_dir(root, view.name, view.version).glob(f"*{layout.SUFFIX}"))


def _scan(view: CompiledBatchView, files: Sequence[Path]) -> pl.LazyFrame:
    if not files:
        return pl.LazyFrame(schema=batch_schema(view))
    return pl.scan_parquet(list(files), hive_partitioning=False)
