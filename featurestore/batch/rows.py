"""What a run reads of a source: typed rows whose time has come, and what was found about each file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Union, cast

import polars as pl

from featurestore.batch.conform import CREATED_US, EVENT_US, check_schema, conform, needed_columns
from featurestore.batch.files import SourceFiles
from featurestore.batch.sql import read_query
from featurestore.batches import NO_TIME
from featurestore.compile.batch import CompiledBatchView
from featurestore.definitions.specs import FileSourceSpec
from featurestore.online.batch_store import BatchState, Interval, SeenFile


@dataclass(frozen=True)
class SourceBatch:
    """Some rows of a source, in its order. rows: as `conform` gives them, with `_created_us` filled in.

    maybe_stored: of each row whether an earlier interval may have written it.
    read: rows that the source gave for them; the rest has a null key or time, or is not of the interval.
    """

    rows: pl.DataFrame
    maybe_stored: pl.Series
    read: int
    null_keys: int
    null_times: int


def known_us() -> pl.Expr:
    """When a row is known: when it becomes valid, or is created if that is later."""
    return pl.max_horizontal(EVENT_US, CREATED_US)  # nulls are skipped: without a created time it is the event time


def check_source(view: CompiledBatchView, base_dir: Path) -> None:
    """Check the columns of a view's files. A database is asked only when something is read.

    Raises SchemaError, SourceError; SourceUnavailableError when there is nothing to look at yet.
    """
    spec = view.spec.source
    if isinstance(spec, FileSourceSpec):
        files = SourceFiles(spec, base_dir)
        newest = files.files[-1]
        check_schema(view, files.schema(newest), files.place(newest), spec.format)


class SourceRun:
    """Reads a view's source for one interval. files: after the end of `batches`, every file as it was then.

    state: of the view before the run. seen: files as they were when they were last read whole. An incremental run
    reads those that are new or changed whole, and of the others the rows whose time has come meanwhile.
    """

    def __init__(
        self,
        view: CompiledBatchView,
        base_dir: Path,
        interval: Interval,
        state: BatchState,
        seen: Mapping[str, SeenFile],
    ) -> None:
        self._view = view
        self._base_dir = base_dir
        self._interval = interval
        self._state = state
        self._seen = seen
        self.files: dict[str, SeenFile] = {}

    def batches(self) -> Iterator[SourceBatch]:
        """Rows of the interval, in the source's order. Raises SchemaError, SourceError, SourceUnavailableError."""
        spec = self._view.spec.source
        if isinstance(spec, FileSourceSpec):
            yield from self._from_files(SourceFiles(spec, self._base_dir), spec.format)
        else:
            frames = read_query(spec, self._base_dir, self._interval.from_us, self._interval.to_us)
            for raw in frames:
                # A column has no dtype while it has no value: names are checked by the first frame, types by each.
                check_schema(self._view, raw.schema, "the query", "sql")
                yield self._selected(raw, "the query", whole=self._interval.incremental)[0]

    def _from_files(self, files: SourceFiles, kind: str) -> Iterator[SourceBatch]:
        interval, columns = self._interval, needed_columns(self._view)
        for file in files.files:
            seen = self._seen.get(file.name)
            unchanged = seen is not None and (seen.size, seen.mtime_ns) == (file.size, file.mtime_ns)
            whole = interval.incremental and not unchanged
            if unchanged and seen is not None:
                self.files[file.name] = seen
                if interval.from_us is not None and seen.newest_us < interval.from_us:
                    continue  # no row of it can become known any more
            check_schema(self._view, files.schema(file), files.place(file), kind)
            newest = None
            for raw in files.read(file, columns):
                batch, batch_newest = self._selected(raw, files.place(file), whole=whole)
                newest = max((us for us in (newest, batch_newest) if us is not None), default=None)
                yield batch
            if not unchanged:
                self.files[file.name] = SeenFile(file.size, file.mtime_ns, NO_TIME if newest is None else newest)

    def _selected(self, raw: pl.DataFrame, place: str, *, whole: bool) -> tuple[SourceBatch, int | None]:
        """The rows of the interval (whole: and those that came late for an earlier one), and when the last is known."""
        converted = conform(self._view, raw, place)
        known = converted.rows.select(known_us().alias("known")).to_series()
        interval = self._interval
        wanted = known < interval.to_us
        first_us = self._state.since_us if whole else interval.from_us
        if first_us is not None:
            wanted &= known >= first_us
        # What was known before the interval came late, or was materialized before; in a backfill any row may have been.
        written = [us for us in (interval.from_us, self._state.ahead_us) if us is not None]
        late = known < max(written, default=NO_TIME)
        if not interval.incremental:
            late = known == known
        rows = converted.rows.filter(wanted).with_columns(pl.col(CREATED_US).fill_null(interval.started_us))
        batch = SourceBatch(rows, late.filter(wanted), len(raw), converted.null_keys, converted.null_times)
        return batch, cast(Union[int, None], known.max())
