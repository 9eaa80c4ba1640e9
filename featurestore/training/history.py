"""Features of many views for a spine: the point-in-time join as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import polars as pl

from featurestore.compile.bind import BoundView
from featurestore.compile.keys import encoded_key
from featurestore.compute.slots import Slot
from featurestore.definitions.specs import SourceSpec
from featurestore.errors import MalformedRequestError
from featurestore.offline.listing import with_fresh_files
from featurestore.training.archive import KEY, ArchiveMark, EventFile, files_between, high_water_marks, read_events
from featurestore.training.events import ENTITY, build_tables
from featurestore.training.join import join_view
from featurestore.training.spine import Spine

Knowledge = Literal["event", "arrival"]

MEMORY_BYTES = 1_700_000_000
"""Of events in memory at once; where there are more, entities are joined in several groups."""


@dataclass(frozen=True)
class WantedView:
    """A view, and the features of it that are wanted, under the names that they get."""

    bound: BoundView
    source: SourceSpec
    features: tuple[tuple[str, str], ...]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """What the wanted features are merged from."""
        view = self.bound.compiled
        inputs = {spec.name: spec.input_dtype or "" for spec in view.spec.features}
        found: dict[str, Slot] = {}
        for name, _ in self.features:
            feature = view.features[name]
            found |= {slot.name: slot for slot in feature.aggregate.slots(feature.column, inputs[name])}
        return tuple(found.values())


@dataclass(frozen=True)
class JoinProgress:
    """How far a join has come: events read of those that the files hold, for one view."""

    view: str
    read: int
    events: int


@dataclass(frozen=True)
class JoinOptions:
    """How to join.

    knowledge: "event": by event time alone; "arrival": only events that had arrived by the row's instant, too.
    known_by_us: only events that had arrived then. marks: by source, how far to read its archive; None: all of it.
    groups: by view, into how many groups its entities are divided; None: as memory asks for.
    """

    knowledge: Knowledge = "event"
    known_by_us: int | None = None
    marks: dict[str, tuple[ArchiveMark, ...]] | None = None
    groups: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if self.knowledge not in get_args(Knowledge):
            raise MalformedRequestError(f"knowledge {self.knowledge!r} is neither 'event' nor 'arrival'")


@dataclass(frozen=True)
class Joined:
    """features: the wanted columns, shape (n, …) in the spine's order. What the same join needs to be made again:
    marks by source, groups by view."""

    features: pl.DataFrame
    marks: dict[str, tuple[ArchiveMark, ...]]
    groups: dict[str, int]


def point_in_time_join(
    root: Path,
    spine: Spine,
    views: Sequence[WantedView],
    options: JoinOptions,
    progress: Callable[[JoinProgress], None] = lambda progress: None,
) -> Joined:
    """The views' features at each row of the spine, from the archive under `root`.

    Raises StoreFormatError when a file of the archive is damaged.
    """
    marks: dict[str, tuple[ArchiveMark, ...]] = {}
    groups: dict[str, int] = {}
    columns: list[pl.Series] = []
    for wanted in views:
        source = wanted.source.name
        if source not in marks:
            marks[source] = options.marks[source] if options.marks is not None else high_water_marks(root, source)
        joined, count = _ViewJoin(root, spine, wanted, options, marks[source], progress).run()
        groups[wanted.bound.compiled.name] = count
        columns += [joined[name].alias(named) for name, named in wanted.features]
    return Joined(pl.DataFrame(columns), marks, groups)


class _ViewJoin:
    """One view's share."""

    def __init__(
        self,
        root: Path,
        spine: Spine,
        wanted: WantedView,
        options: JoinOptions,
        marks: tuple[ArchiveMark, ...],
        progress: Callable[[JoinProgress], None],
    ) -> None:
        self._root = root
        self._spine = spine
        self._wanted = wanted
        self._view = wanted.bound.compiled
        self._options = options
        self._marks = marks
        self._progress = progress
        key = spine.keys.select(encoded_key(self._view.spec.join_keys).alias(KEY))
        # Sorted: which number an entity has, and so which events lie side by side, depends on the spine alone.
        self._entities = key.drop_nulls().unique().sort(KEY).with_row_index(ENTITY).cast({ENTITY: pl.Int64})
        found = key.join(self._entities, on=KEY, how="left", maintain_order="left")[ENTITY]
        self._entity = found.fill_null(-1).to_numpy()
        self._as_of_us = spine.as_of.to_numpy()

    def run(self) -> tuple[pl.DataFrame, int]:
        """The features by their own names, and into how many groups the entities were divided."""
        # Files that a compaction replaced may go while they are read; the marks make it the same events again.
        return with_fresh_files(self._run)

    def _run(self) -> tuple[pl.DataFrame, int]:
        if not len(self._as_of_us):
            return self._join(0, 1, pl.DataFrame()), 1
        from_us, to_us = self._from_us(), int(self._as_of_us.max())
        files = files_between(self._root, self._wanted.source.name, self._marks, from_us, to_us)
        given = self._options.groups
        groups = given[self._view.name] if given is not None else self._groups(sum(file.rows for file in files))
        frames = self._events(files, from_us, to_us)
        if groups == 1:
            return self._join(0, 1, _together(frames)), 1
        with tempfile.TemporaryDirectory(prefix="featurestore-join-") as folder:
            spilled = _spill(frames, Path(folder), groups)
            parts = [self._join(group, groups, _together(map(pl.read_ipc, spilled[group]))) for group in range(groups)]
        # Each part has all rows of the spine, and values where the entity is of its group; null keys are of the first.
        member = np.maximum(self._entity, 0) % groups
        order = np.argsort(np.concatenate([np.flatnonzero(member == group) for group in range(groups)]))
        return pl.concat(parts)[order], groups

    def _join(self, group: int, groups: int, events: pl.DataFrame) -> pl.DataFrame:
        rows = np.flatnonzero(np.maximum(self._entity, 0) % groups == group) if groups > 1 else slice(None)
        entity, as_of_us = self._entity[rows], self._as_of_us[rows]
        names = [name for name, _ in self._wanted.features]
        by_arrival = self._options.knowledge == "arrival"
        if events.is_empty():
            entity = np.full(len(entity), -1, dtype=np.int64)
            return join_view(self._view, names, [], entity, as_of_us)
        tables = build_tables(events, max(self._entities.height, 1), self._wanted.slots, by_delay=by_arrival)
        return join_view(self._view, names, tables, entity, as_of_us, by_arrival=by_arrival)

    def _events(self, files: list[EventFile], from_us: int | None, to_us: int) -> Iterator[pl.DataFrame]:
        total, read = sum(file.rows for file in files), 0

        def done(rows: int) -> None:
            nonlocal read
            read += rows
            self._progress(JoinProgress(self._view.name, read, total))

        return read_events(
            files,
            self._wanted.bound,
            self._wanted.source,
            self._entities,
            from_us=from_us,
            to_us=to_us,
            arrived_by_us=self._options.known_by_us,
            done=done,
        )

    def _from_us(self) -> int | None:
        """From when on events matter to any row; None: from the beginning, for an entity is known for ever then."""
        if not self._view.spec.ttl_us or self._view.has_lifetime:
            return None
        earliest = int(self._as_of_us.min())
        starts = [int(group.start_us(earliest)) for group in self._view.groups]
        return min([*starts, earliest - self._view.spec.ttl_us])

    def _groups(self, events: int) -> int:
        # Fields and times, the frame that they are made from, and what sorting takes.
        width = 8 * (len(self._wanted.slots) + 6) * 2
        return max(1, -(-events * width // MEMORY_BYTES))


def _together(frames: Iterator[pl.DataFrame]) -> pl.DataFrame:
    found = [frame for frame in frames if frame.height]
    return pl.concat(found) if found else pl.DataFrame()


def _spill(frames: Iterator[pl.DataFrame], folder: Path, groups: int) -> dict[int, list[Path]]:
    """Events on disk by group of entities."""
    files: dict[int, list[Path]] = {group: [] for group in range(groups)}
    for number, frame in enumerate(frames):
        parts = frame.with_columns(_group=pl.col(ENTITY) % groups).partition_by(
            "_group", as_dict=True, include_key=False
        )
        for (group,), part in parts.items():
            path = folder / f"{group}-{number}.arrow"
            part.write_ipc(path, compression="lz4")
            files[int(group)].append(path)
    return files
