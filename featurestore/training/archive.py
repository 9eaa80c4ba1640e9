"""Reads what the archive holds of a view's events: of some entities, up to recorded ends, between two instants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import polars as pl

from featurestore.batches import ARRIVAL_TIME, EVENT_TIME, OFFSET, PARTITION
from featurestore.compile.bind import BoundView
from featurestore.compile.columns import conform
from featurestore.compile.expressions import derived, filtered
from featurestore.compile.keys import encoded_key
from featurestore.definitions.specs import SourceSpec
from featurestore.offline.archive_reader import archived_generations
from featurestore.offline.layout import EVENTS, partition_dir
from featurestore.offline.listing import segment_files, with_fresh_files
from featurestore.offline.tables import read_columns, read_figures
from featurestore.training.events import ENTITY, GENERATION

KEY = "_key"


class ArchiveMark(msgspec.Struct, frozen=True, order=True):
    """How far one partition is read: offsets below `end`."""

    generation: str
    partition: int
    end: int


@dataclass(frozen=True)
class EventFile:
    """A file to read. generation: its number, the oldest first. end: offsets from here on are left out; rows: in it."""

    path: Path
    generation: int
    end: int
    rows: int


def high_water_marks(root: Path, source: str) -> tuple[ArchiveMark, ...]:
    """How far the archive of a source reaches now, sorted."""
    return tuple(
        sorted(
            ArchiveMark(generation.generation, partition, end.next_offset)
            for generation in archived_generations(root, source)
            for partition, end in generation.ends.items()
        )
    )


def files_between(
    root: Path, source: str, marks: tuple[ArchiveMark, ...], from_us: int | None, to_us: int
) -> list[EventFile]:
    """Files that hold events of [from_us, to_us) by their statistics; from_us None: from the beginning.

    to_us: in event time. Raises StoreFormatError when a file is damaged.
    """
    return with_fresh_files(lambda: _files_between(root, source, marks, from_us, to_us))


def _files_between(
    root: Path, source: str, marks: tuple[ArchiveMark, ...], from_us: int | None, to_us: int
) -> list[EventFile]:
    ends = {(mark.generation, mark.partition): mark.end for mark in marks}
    files = []
    for number, generation in enumerate(archived_generations(root, source)):
        for partition in generation.first:
            end = ends.get((generation.generation, partition), 0)
            for start, path in segment_files(partition_dir(root, EVENTS, source, generation.generation, partition)):
                figures = read_figures(path, EVENT_TIME) if start < end else None
                if figures is None or figures.earliest is None or figures.latest is None:
                    continue
                if _us(figures.earliest) < to_us and (from_us is None or _us(figures.latest) >= from_us):
                    files.append(EventFile(path, number, end, figures.rows))
    return files


def read_events(
    files: list[EventFile],
    bound: BoundView,
    source: SourceSpec,
    entities: pl.DataFrame,
    *,
    from_us: int | None,
    to_us: int,
    arrived_by_us: int | None = None,
    done: Callable[[int], None] = lambda rows: None,
) -> Iterator[pl.DataFrame]:
    """The view's events of the files, a frame each: what `build_tables` wants, `where` and `derive` applied.

    entities: `_key` (String) and `_entity` (Int64): events of others are left out. from_us, to_us: half-open, in event
    time. arrived_by_us: only events that had arrived then. done: told of the rows of each file read.
    """
    compiled = bound.compiled
    join_keys = compiled.spec.join_keys
    needed = {*bound.needed_columns(), *(key.name for key in join_keys)}
    place = [EVENT_TIME, ARRIVAL_TIME, PARTITION, OFFSET]
    for file in files:
        rows = conform(read_columns(file.path, [*sorted(needed - set(place)), *place]), source.columns, needed)
        keep = (pl.col(OFFSET) < file.end) & (pl.col(EVENT_TIME) < to_us)
        if from_us is not None:
            keep &= pl.col(EVENT_TIME) >= from_us
        if arrived_by_us is not None:
            keep &= pl.col(ARRIVAL_TIME) <= arrived_by_us
        rows = rows.with_columns(pl.col(EVENT_TIME, ARRIVAL_TIME).dt.epoch("us")).filter(keep)
        rows = rows.with_columns(encoded_key(join_keys).alias(KEY)).join(entities, on=KEY, how="inner")
        if bound.where is not None:
            rows = filtered(rows, bound.where)
        if bound.derive:
            rows = derived(rows, bound.derive)
        generation = pl.lit(file.generation, dtype=pl.Int32).alias(GENERATION)
        yield rows.select(ENTITY, *place, generation, *compiled.input_columns)
        done(file.rows)


def _us(instant: datetime) -> int:
    return (instant.astimezone(timezone.utc) - _EPOCH) // timedelta(microseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
