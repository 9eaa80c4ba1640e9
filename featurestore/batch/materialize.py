"""Bring both stores of a batch view up to an instant: from where the last run ended, each row once.

A row becomes known when its event time has come and it was created. A run covers the rows that become known in its
interval, and what came late for the ones before. The interval is noted before its first row is written and the end
after its last one is durable; whatever is killed in between, the next run does the interval again, to the same files
and rows, before it goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import polars as pl
import structlog

from featurestore.batch.conform import CREATED_US, EVENT_US
from featurestore.batch.rows import SourceRun
from featurestore.compile.batch import CompiledBatchView
from featurestore.durations import format_instant
from featurestore.errors import ConfigError
from featurestore.offline.atomic import CrashPoint, no_crash
from featurestore.offline.batch_rows import (
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    PART_ROWS,
    BatchRowsWriter,
)
from featurestore.online.batch_store import BatchState, BatchStore, Interval
from featurestore.online.source_store import lock_source

log = structlog.get_logger(__name__)

Progress = Callable[[int], None]
"""Told how many rows of the source were read so far."""


class Materialized(msgspec.Struct, frozen=True):
    """What one interval brought. Times are ISO 8601, UTC; from_time None: from the beginning.

    read: rows that the source gave, of which null_keys and null_times were left out. rows: written to the offline
    store. changed: entities whose newest row is another one now (counted again where one changed twice). resumed: an
    earlier run had begun it.
    """

    view: str
    version: int
    from_time: str | None
    to_time: str
    read: int
    null_keys: int
    null_times: int
    rows: int
    files: int
    changed: int
    entities: int
    seconds: float
    resumed: bool = False


@dataclass(frozen=True)
class Materializer:
    """What runs need to know besides the view. base_dir: what relative paths of sources are relative to.

    now_us: the wall clock, µs. part_rows: rows of a Parquet file.
    """

    data_dir: Path
    base_dir: Path
    fsync: bool = False
    now_us: Callable[[], int] = field(default=lambda: time.time_ns() // 1_000)
    progress: Progress = field(default=lambda rows: None)
    crash_point: CrashPoint = no_crash
    part_rows: int = PART_ROWS

    def run(
        self, view: CompiledBatchView, *, from_us: int | None = None, to_us: int | None = None
    ) -> list[Materialized]:
        """Materialize a view and tell what each interval brought: first one that a killed run left, then what is asked.

        from_us: do [from_us, to_us) again or for the first time, instead of going on from the last end. to_us: now by
        default. Raises ConfigError for an interval that is none, StoreLockedError with the pid of a run under way,
        SchemaError, SourceError, SourceUnavailableError, StoreFullError; then the next run begins where this one did.
        """
        started_us = self.now_us()
        to_us = started_us if to_us is None else to_us
        if to_us > started_us:
            raise ConfigError(
                f"--to {format_instant(to_us)} lies in the future", hint="rows that come until then would be missed"
            )
        if from_us is not None and from_us >= to_us:
            raise ConfigError(f"--from {format_instant(from_us)} is not before --to {format_instant(to_us)}")
        lock = lock_source(self.data_dir, view.store)
        try:
            store = BatchStore(self.data_dir, view, fsync=self.fsync)
            try:
                done = []
                interrupted = store.state.running
                if interrupted is not None:
                    done.append(self._run(view, store, interrupted, resumed=True))
                if from_us is None:
                    done.append(self._run(view, store, _next(store.state, to_us, started_us)))
                elif interrupted is None or (interrupted.from_us, interrupted.to_us) != (from_us, to_us):
                    done.append(self._run(view, store, Interval(from_us, to_us, started_us, False)))
                return done
            finally:
                store.close()
        finally:
            lock.release()

    def _run(
        self, view: CompiledBatchView, store: BatchStore, interval: Interval, *, resumed: bool = False
    ) -> Materialized:
        began_s = time.monotonic()
        store.begin(interval)
        self.crash_point("begun")
        writer = BatchRowsWriter(
            self.data_dir / "offline",
            view,
            from_us=interval.from_us,
            to_us=interval.to_us,
            started_us=interval.started_us,
            part_rows=self.part_rows,
            crash_point=self.crash_point,
        )
        seen = store.seen_files()
        source = SourceRun(view, self.base_dir, interval, store.state, seen)
        read = null_keys = null_times = changed = 0
        for batch in source.batches():
            read += batch.read
            null_keys += batch.null_keys
            null_times += batch.null_times
            # What is stored already must not come again under a later time of creation, in neither store.
            rows = writer.new_rows(_with_instants(batch.rows), batch.maybe_stored)
            if len(rows):
                writer.write(rows)
                changed += store.merge(rows)
                self.crash_point("merged")
            self.progress(read)
        writer.finish()
        self.crash_point("offline_finished")
        state = _after(store.state, interval, self.now_us())
        # A backfill saw only part of what a new file holds.
        all_read = interval.incremental or store.state.until_us is None
        store.finish(state, source.files if all_read else seen)
        self.crash_point("finished")
        done = Materialized(
            view=view.name,
            version=view.version,
            from_time=None if interval.from_us is None else format_instant(interval.from_us),
            to_time=format_instant(interval.to_us),
            read=read,
            null_keys=null_keys,
            null_times=null_times,
            rows=writer.rows,
            files=len(writer.parts),
            changed=changed,
            entities=store.state.entities,
            seconds=round(time.monotonic() - began_s, 3),
            resumed=resumed,
        )
        log.info("materialized", **{name: getattr(done, name) for name in done.__struct_fields__})
        return done


def _next(state: BatchState, to_us: int, started_us: int) -> Interval:
    """The interval from where the last run ended. Raises ConfigError for an end before that."""
    if state.until_us is not None and to_us < state.until_us:
        raise ConfigError(
            f"--to {format_instant(to_us)}: everything until {format_instant(state.until_us)} is materialized",
            hint="say --from as well, to do an earlier interval again",
        )
    return Interval(state.until_us, to_us, started_us, True)


def _after(state: BatchState, interval: Interval, now_us: int) -> BatchState:
    """The state once an interval is done. An interval that does not begin where the last one ended leaves a gap, and
    so does not move the end."""
    since_us, until_us, ahead_us = state.since_us, state.until_us, state.ahead_us
    if until_us is None:
        since_us, until_us = interval.from_us, interval.to_us
    elif interval.from_us is None or interval.from_us <= until_us:
        until_us = max(until_us, interval.to_us)
    else:
        ahead_us = max(ahead_us or interval.to_us, interval.to_us)
    return msgspec.structs.replace(
        state, running=None, since_us=since_us, until_us=until_us, ahead_us=ahead_us, finished_us=now_us
    )


def _with_instants(rows: pl.DataFrame) -> pl.DataFrame:
    instant = pl.Datetime("us", "UTC")
    return rows.with_columns(
        pl.col(EVENT_US).cast(instant).alias(EVENT_TIMESTAMP), pl.col(CREATED_US).cast(instant).alias(CREATED_TIMESTAMP)
    )
