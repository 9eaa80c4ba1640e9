"""Import history: files of events from before a source's topic become the oldest generation of its archive.

They are read twice: first every row is checked and counted, and nothing is written; then they are sorted into segments.
So a dry run says what an import would do, and one that can't be done has done nothing. Killed at any moment it is
simply begun again; once done, doing it again finds nothing older than what is there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import msgspec
import polars as pl

from featurestore.batch.history_files import BadRows, HistoryFiles
from featurestore.batches import EVENT_TIME
from featurestore.definitions.specs import SourceSpec
from featurestore.durations import format_instant
from featurestore.errors import BackfillError, SourceError
from featurestore.offline.atomic import CrashPoint, no_crash
from featurestore.offline.history import (
    GRACE_S,
    SEGMENT_BYTES,
    SEGMENT_ROWS,
    Border,
    HistoryWriter,
    history_border,
    remove_leftovers,
)
from featurestore.offline.layout import EVENTS, HISTORY, source_dataset
from featurestore.offline.manifest import maintenance_lock, read_manifest
from featurestore.offline.swaps import finish_swaps

MOST_TOLD = 5
"""Reasons of bad rows in an error."""

_MINUTE_US = 60_000_000


class HistoryImport(msgspec.Struct, frozen=True):
    """What was imported, or would be. generation: None when there is nothing to import.

    rows_read = rows + rows_left_out: those that are not older than `before`. archive_begins: the earliest event that
    the topic's archive has; history_begins: that earlier imports have. earliest, latest: of the rows. files,
    size_bytes: given.
    """

    source: str
    generation: str | None
    files: int
    size_bytes: int
    rows_read: int
    rows: int
    rows_left_out: int
    before: str
    archive_begins: str
    history_begins: str | None
    earliest: str | None
    latest: str | None
    partitions: int = 0
    segments: int = 0


@dataclass(frozen=True)
class ImportProgress:
    """How far it is. rows: of `total`, None while it is not known."""

    step: Literal["checking", "sorting", "writing"]
    rows: int
    total: int | None


@dataclass
class _Checked:
    """What the first reading found. by_minute: rows by minute since the epoch."""

    read: int
    left_out: int
    by_minute: Counter[int]
    earliest_us: int | None
    latest_us: int | None
    digest: str
    memory_bytes: int = 0

    @property
    def rows(self) -> int:
        return self.by_minute.total()

    @property
    def segment_rows(self) -> int:
        return max(1, min(SEGMENT_ROWS, SEGMENT_BYTES * self.rows // max(self.memory_bytes, 1)))


def plan_import(
    root: Path,
    source: SourceSpec,
    files: HistoryFiles,
    before_us: int | None = None,
    progress: Callable[[ImportProgress], None] = lambda progress: None,
) -> HistoryImport:
    """What `import_history` would do; it reads all, and writes nothing. Errors as there."""
    border = history_border(root, source)
    end_us = _end_us(source, border, before_us)
    return _report(source, files, border, end_us, _check(root, files, source, end_us, progress))


def import_history(
    root: Path,
    source: SourceSpec,
    files: HistoryFiles,
    before_us: int | None = None,
    progress: Callable[[ImportProgress], None] = lambda progress: None,
    *,
    segment_rows: int | None = None,
    crash_point: CrashPoint = no_crash,
) -> HistoryImport:
    """Put the events of some files under a source's archive, those older than all that it has. root: offline store.

    before_us: only older ones than this; None: as late as may be (`Border`). segment_rows: of a file; None: by size.
    Raises BackfillError when nothing of the topic is archived yet or `before_us` is later than may be; SourceError when
    a row can't be an event, naming file, column and row; SchemaError for a file without the source's columns;
    StoreLockedError beside a compaction; StoreFullError without room. Nothing has been imported then.
    """
    with maintenance_lock(root):
        finish_swaps(root, grace_s=GRACE_S, crash_point=crash_point)
        remove_leftovers(root)
        border = history_border(root, source)
        end_us = _end_us(source, border, before_us)
        checked = _check(root, files, source, end_us, progress)
        report = _report(source, files, border, end_us, checked)
        if report.generation is None:
            return report
        writer = HistoryWriter(
            root,
            source.name,
            report.generation,
            checked.by_minute,
            segment_rows=segment_rows or checked.segment_rows,
            crash_point=crash_point,
        )
        try:
            sorted_rows = 0
            for part in files.read(end_us):
                writer.add(part.events)
                sorted_rows += part.events.height
                progress(ImportProgress("sorting", sorted_rows, checked.rows))
            if sorted_rows != checked.rows:
                raise SourceError(
                    f"the files have changed while they were read: {checked.rows:,} rows were to be imported, then "
                    f"{sorted_rows:,}",
                    hint="import them when nobody writes them any more",
                )
            _stage(writer, checked.rows, progress)
            writer.publish()
        except Exception:
            writer.discard()
            raise
        return msgspec.structs.replace(report, partitions=writer.partitions, segments=writer.segments)


def _stage(writer: HistoryWriter, total: int, progress: Callable[[ImportProgress], None]) -> None:
    written = 0

    def done(rows: int) -> None:
        nonlocal written
        written += rows
        progress(ImportProgress("writing", written, total))

    writer.stage(done)


def _end_us(source: SourceSpec, border: Border, before_us: int | None) -> int:
    """Events before this are imported."""
    if before_us is not None and before_us > border.latest_us:
        begins = f"the archive of '{source.name}' begins at {format_instant(border.archive_us)}"
        if border.open_us < border.archive_us:
            begins += f", and the topic may still bring events of {format_instant(border.open_us)} or later"
        raise BackfillError(
            f"history before {format_instant(before_us)} would count events twice: {begins}",
            hint=f"say --before {format_instant(border.latest_us)} or earlier, or nothing",
        )
    ends = [before_us if before_us is not None else border.latest_us, border.history_us]
    return min(end for end in ends if end is not None)


def _check(
    root: Path,
    files: HistoryFiles,
    source: SourceSpec,
    end_us: int,
    progress: Callable[[ImportProgress], None],
) -> _Checked:
    removed = read_manifest(root).retention.get(source_dataset(EVENTS, source.name))
    # What retention has removed may be imported again, as another generation: the counts of the first stay what they
    # are.
    digest = hashlib.sha256(f"{end_us} {removed.files if removed else 0}".encode())
    found = _Checked(0, 0, Counter(), None, None, "")
    bad: list[BadRows] = []
    for part in files.read(end_us):
        found.read += part.read
        found.left_out += part.left_out
        bad += part.bad
        if part.events.height:
            times = part.events[EVENT_TIME].dt.epoch("us")
            if not times.null_count():
                minutes = (times // _MINUTE_US).value_counts()
                found.by_minute.update(dict(minutes.iter_rows()))
                found.earliest_us = min(int(times.min()), found.earliest_us or int(times.min()))  # type: ignore[arg-type]
                found.latest_us = max(int(times.max()), found.latest_us or int(times.max()))  # type: ignore[arg-type]
                _feed(digest, part.events)
                found.memory_bytes += int(part.events.estimated_size())
        progress(ImportProgress("checking", found.read, None))
    if bad:
        raise _refusal(source, bad)
    found.digest = digest.hexdigest()[:16]
    return found


def _feed(digest: hashlib._Hash, rows: pl.DataFrame) -> None:
    stream = BytesIO()
    rows.write_ipc_stream(stream, compat_level=pl.CompatLevel.oldest())
    digest.update(stream.getbuffer())


def _refusal(source: SourceSpec, bad: Sequence[BadRows]) -> SourceError:
    together: dict[tuple[str, str, str], BadRows] = {}
    for one in bad:
        key = (one.file, one.column, one.reason)
        known = together.get(key)
        together[key] = one if known is None else BadRows(*key, known.first, known.value, known.rows + one.rows)
    told = [
        f"{one.file} row {one.first:,}: column '{one.column}' is {one.value}"
        + ("" if one.reason == "null" else f", {one.reason}")
        + (f"; so are {one.rows - 1:,} more rows" if one.rows > 1 else "")
        for one in list(together.values())[:MOST_TOLD]
    ]
    if len(together) > MOST_TOLD:
        told.append(f"and {len(together) - MOST_TOLD:,} more kinds of such rows")
    return SourceError(
        f"{sum(one.rows for one in together.values()):,} values can't be of source '{source.name}'; nothing was "
        "imported:\n  " + "\n  ".join(told),
        hint="mend the files, or leave these rows out of them",
    )


def _report(source: SourceSpec, files: HistoryFiles, border: Border, end_us: int, checked: _Checked) -> HistoryImport:
    def told(us: int | None) -> str | None:
        return None if us is None else format_instant(us)

    return HistoryImport(
        source=source.name,
        generation=f"{HISTORY}{checked.digest}" if checked.rows else None,
        files=len(files),
        size_bytes=files.size_bytes,
        rows_read=checked.read,
        rows=checked.rows,
        rows_left_out=checked.left_out,
        before=format_instant(end_us),
        archive_begins=format_instant(border.archive_us),
        history_begins=told(border.history_us),
        earliest=told(checked.earliest_us),
        latest=told(checked.latest_us),
    )
