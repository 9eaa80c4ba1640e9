"""Recompute a view's snapshots and online values from the event archive, by the kernels of the stream, and compare.

Only what is final is compared: windows that end at or before the completeness marker, with all their events in the
archive. Entities are taken some at a time, so memory does not grow with the archive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from featurestore.batches import NO_TIME
from featurestore.cli.archived_events import ArchivedEvents
from featurestore.compile.bind import BoundView
from featurestore.compile.expressions import derived
from featurestore.compile.keys import encoded_key
from featurestore.compile.view import EmittedDataset, WindowGroup
from featurestore.compute.slots import Slot
from featurestore.compute.tiles import empty_tiles
from featurestore.compute.windows import TileIndex, merge_windows
from featurestore.definitions.specs import SourceSpec
from featurestore.errors import StoreError
from featurestore.offline.archive import read_ends
from featurestore.offline.completeness import read_marker_us
from featurestore.offline.layout import SnapshotDataset, is_history
from featurestore.offline.listing import with_fresh_files
from featurestore.offline.read import archive_counts, scan_valid_snapshots
from featurestore.offline.retention import archive_pruned_until, snapshots_complete_since
from featurestore.online.reader import OnlineReader
from featurestore.shard.emission import emitted_rows, touched_windows
from featurestore.shard.intake import Intake, take_in
from featurestore.shard.protocol import KEY, ViewState, fence_key

ROWS_AT_ONCE = 1_000_000
"""Events of so many are recomputed together."""

TOLERANCE = 1e-9
"""Of the sum of a window's absolute values (design rule: what "the same" means for floats)."""

ARCHIVE_WAIT_S = 60.0
_ONLINE = "online"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_VALUE, _STORED = "_expected", "_stored"


class Comparison(msgspec.Struct):
    """One feature in one dataset. compared = equal + different; missing: not stored; extra: not in the archive."""

    view: str
    dataset: str
    feature: str
    compared: int = 0
    equal: int = 0
    different: int = 0
    missing: int = 0
    extra: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing differs."""
        return not (self.different or self.missing or self.extra)


@dataclass
class Verified:
    """What was compared of a view. until: windows that end by then; since: and begin after; notes: for people."""

    view: str
    version: int
    until: datetime | None = None
    since: datetime | None = None
    events: int = 0
    entities: int = 0
    comparisons: dict[tuple[str, str], Comparison] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, object]:
        """For programs."""
        return {
            "view": self.view,
            "version": self.version,
            "until": self.until,
            "since": self.since,
            "events": self.events,
            "entities": self.entities,
            "notes": self.notes,
            "comparisons": list(self.comparisons.values()),
        }

    def sentence(self) -> str:
        """For people."""
        until = "no window yet" if self.until is None else f"windows until {self.until.isoformat()}"
        since = "" if self.since is None else f" that begin after {self.since.isoformat()}"
        text = f"{self.view} v{self.version}: {self.events:,} events of {self.entities:,} entities, {until}{since}"
        return "\n  ".join([text.replace("+00:00", "Z"), *self.notes])

    def of(self, dataset: str, feature: str) -> Comparison:
        """The figures of one feature in one dataset."""
        return self.comparisons.setdefault((dataset, feature), Comparison(self.view, dataset, feature))


class ViewVerifier:
    """Compares one applied view. sample: so many entities at most, None: all. on_progress: share done, 0 to 1."""

    def __init__(
        self,
        data_dir: Path,
        view: BoundView,
        source: SourceSpec,
        applied_at: datetime,
        *,
        sample: int | None = None,
        on_progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self._root = data_dir / "offline"
        self._data_dir = data_dir
        self._view = view
        self._compiled = view.compiled
        self._source = source.name
        self._spec = source
        self._events = ArchivedEvents(self._root, source, view, ())
        self._applied_at = applied_at
        self._sample = sample
        self._on_progress = on_progress

    def verify(self) -> Verified:
        """Recompute and compare. Raises StoreError when the archive is behind the view, StoreFormatError."""
        compiled = self._compiled
        done = Verified(compiled.name, compiled.version)
        until_us = read_marker_us(self._root, compiled.name, compiled.version)
        reader = OnlineReader(self._data_dir, self._source)
        try:
            reader.refresh()
            states = reader.states(compiled)
            filled = {key.rpartition("/")[0] for state in states for key in state.fences}
            self._events = ArchivedEvents(self._root, self._spec, self._view, filled)
            self._await_archive(states)
            online = self._is_still(reader)
            done.since = archive_pruned_until(self._root, self._source)
            if compiled.spec.start == "latest" or (online and self._has_missed(states)):
                done.since = max(self._applied_at, done.since or self._applied_at)
                done.notes.append("it began behind events of the archive: what begins after it was applied is compared")
            done.until = None if until_us is None else _EPOCH + timedelta(microseconds=until_us)
            beyond = sum(state.counts.beyond_retention for state in states)
            if beyond:
                done.notes.append(
                    f"{beyond:,} events came behind the correction line (idle partitions); their windows may differ"
                )
            if until_us is None:
                done.notes.append("no window is final yet")
            if not online:
                done.notes.append(
                    "online values were not compared: the worker is reading; stop it, or wait for its idle"
                )
            for share, frame in self._parts():
                intake = take_in(self._view, [frame], NO_TIME)
                done.events += frame.height
                done.entities += len(intake.keys)
                scale = self._scale(frame, intake)
                if until_us is not None:
                    for dataset in compiled.datasets:
                        self._compare_dataset(done, dataset, intake, scale, share, until_us)
                if online:
                    self._compare_online(done, reader, intake, scale)
            if online and not self._is_still(reader):
                done.notes.append("the worker went on meanwhile: differences of online values may be new events")
        finally:
            reader.close()
        return done

    def _parts(self) -> Iterator[tuple[pl.Expr, pl.DataFrame]]:
        """(condition on the encoded key, routed events of those entities), until all are through."""
        events = self._events
        if self._sample is not None:
            keys = with_fresh_files(lambda: events.sample(self._sample or 0))
            chosen = pl.col(KEY).is_in(keys.implode())
            self._on_progress(0.5)
            yield chosen, with_fresh_files(lambda: events.read(chosen))
            return
        parts = -(-with_fresh_files(events.count) // ROWS_AT_ONCE)
        for number in range(parts):
            mine = pl.col(KEY).hash(seed=0) % parts == number
            yield mine, with_fresh_files(lambda mine=mine: events.read(mine))  # type: ignore[misc]
            self._on_progress((number + 1) / parts)

    def _await_archive(self, states: Sequence[ViewState]) -> None:
        """The archive's open files follow within seconds what shards have applied; then it holds all that is final."""
        deadline = time.monotonic() + ARCHIVE_WAIT_S
        while True:
            ends: dict[str, int] = {}
            generations = {key.rpartition("/")[0] for state in states for key in state.fences}
            for generation in generations:
                for partition, end in read_ends(self._root, self._source, generation).items():
                    ends[fence_key(generation, partition)] = end.next_offset
            behind = [
                key
                for state in states
                for key, fence in state.fences.items()
                if fence.max_event_time_us != NO_TIME and fence.next_offset > ends.get(key, 0) and not is_history(key)
            ]
            if not behind:
                return
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the archive of '{self._source}' is behind what view '{self._compiled.name}' has applied "
                    f"({behind[0]})",
                    hint="run the worker once more: it reads on from where the archive ends",
                )
            time.sleep(0.5)

    def _is_still(self, reader: OnlineReader) -> bool:
        """Whether every shard has applied exactly what is archived."""
        reader.refresh()
        for state in reader.states(self._compiled):
            for generation in {key.rpartition("/")[0] for key in state.fences}:
                for partition, end in read_ends(self._root, self._source, generation).items():
                    fence = state.fence(generation, partition)
                    if fence is None or fence.next_offset != end.next_offset:
                        return False
        return True

    def _has_missed(self, states: Sequence[ViewState]) -> bool:
        seen = sum(state.counts.applied + state.counts.filtered + state.counts.null_key for state in states)
        counts = archive_counts(self._root, self._source)
        filled = {key.rpartition("/")[0] for state in states for key in state.fences}
        return seen < counts.accepted + sum(count for name, count in counts.imported.items() if name in filled)

    def _scale(self, frame: pl.DataFrame, intake: Intake) -> dict[str, np.ndarray]:
        """By input column of floats, each entity's largest absolute value: with a window's count it bounds Σ|x|."""
        frame = derived(frame, self._view.derive) if self._view.derive else frame
        numbers = [name for name in self._compiled.input_columns if frame.schema[name].is_numeric()]
        largest = frame.group_by(KEY).agg(pl.col(name).cast(pl.Float64).fill_nan(None).abs().max() for name in numbers)
        ordered = pl.DataFrame({KEY: intake.keys}, schema={KEY: pl.String}).join(largest, on=KEY, how="left")
        return {name: ordered[name].fill_null(0.0).to_numpy() for name in numbers}

    def _compare_dataset(
        self,
        done: Verified,
        dataset: EmittedDataset,
        intake: Intake,
        scale: Mapping[str, np.ndarray],
        mine: pl.Expr,
        until_us: int,
    ) -> None:
        compiled = self._compiled
        index = TileIndex(intake.tiles, len(intake.keys))
        nothing = TileIndex(empty_tiles(compiled.slots), len(intake.keys))
        entity, ends = touched_windows(
            dataset, intake.tiles, nothing, index, emitted_us=NO_TIME, boundary_us=until_us, line_us=until_us
        ).due
        rows = emitted_rows(
            compiled, dataset, index, pl.Series(intake.keys, dtype=pl.String), entity, ends, np.zeros(len(ends))
        )
        keys = [key.name for key in compiled.spec.join_keys]
        place = [*keys, "window_end"]
        columns = {
            f"{_VALUE} {feature.name}": rows[feature.name] for group in dataset.groups for feature in group.features
        }
        bounds = {
            f"_bound {feature.name}": _bound(index, group, feature.column, entity, ends, scale)
            for group in dataset.groups
            for feature in group.features
            if feature.output_dtype == "Float64"
        }
        expected = rows.select(place).with_columns(**columns, **bounds, _is_expected=pl.lit(True))
        together = expected.join(
            self._stored(dataset, rows.schema, mine, until_us), on=place, how="full", coalesce=True
        )
        removed = snapshots_complete_since(self._root, compiled.name, compiled.version, dataset.name)
        if removed is not None:
            together = together.filter(pl.col("window_end") >= removed)
        for group in dataset.groups:
            rows_of_group = _begun_since(together, dataset, group, done.since)
            for feature in group.features:
                _count(done.of(dataset.name, feature.name), rows_of_group, feature.name)

    def _stored(self, dataset: EmittedDataset, schema: pl.Schema, mine: pl.Expr, until_us: int) -> pl.DataFrame:
        compiled = self._compiled
        place = SnapshotDataset(compiled.name, compiled.version, dataset.name)
        keys = [key.name for key in compiled.spec.join_keys]
        names = [feature.name for group in dataset.groups for feature in group.features]

        def read() -> pl.DataFrame:
            rows = scan_valid_snapshots(self._root, place, keys, schema)
            until = pl.lit(until_us).cast(pl.Datetime("us", "UTC"))
            found: pl.DataFrame = (
                rows.filter(pl.col("window_end") <= until)
                .with_columns(encoded_key(compiled.spec.join_keys).alias(KEY))
                .filter(mine)
                .select(*keys, "window_end", *(pl.col(name).alias(f"{_STORED} {name}") for name in names))
                .with_columns(_is_stored=pl.lit(True))
                .collect()
            )
            return found

        return with_fresh_files(read)

    def _compare_online(
        self, done: Verified, reader: OnlineReader, intake: Intake, scale: Mapping[str, np.ndarray]
    ) -> None:
        compiled = self._compiled
        as_of_us, ttl_us = reader.latest_us(compiled), compiled.spec.ttl_us
        read = reader.read(compiled, intake.keys, list(compiled.features), as_of_us)
        index, entity = TileIndex(intake.tiles, len(intake.keys)), np.arange(len(intake.keys))
        as_of = np.full(len(intake.keys), as_of_us)
        known = intake.newest_us >= as_of_us - ttl_us if ttl_us else np.ones(len(entity), dtype=bool)
        for group in compiled.groups:
            if not _reaches_whole_archive(group, as_of_us, done.since):
                continue
            for feature, series in zip(group.features, group.read(index, entity, as_of), strict=True):
                column = read.columns[feature.name]
                found = pl.DataFrame(
                    {
                        f"{_VALUE} {feature.name}": series,
                        f"{_STORED} {feature.name}": pl.Series(column.values, dtype=series.dtype, strict=False),
                        "_status": column.statuses,
                        "_is_expected": True,
                    }
                ).with_columns(_is_stored=pl.col("_status") != "NOT_FOUND")
                if feature.output_dtype == "Float64":
                    bound = _bound(index, group, feature.column, entity, group.end_us(as_of), scale)
                    found = found.with_columns(bound.alias(f"_bound {feature.name}"))
                _count(done.of(_ONLINE, feature.name), found.filter(pl.Series(known)), feature.name)


def _bound(
    index: TileIndex,
    group: WindowGroup,
    column: str,
    entity: np.ndarray,
    ends_us: np.ndarray,
    scale: Mapping[str, np.ndarray],
) -> pl.Series:
    """How far a float may be off in each window: a bound of Σ|x| times the tolerance."""
    merged = merge_windows(index, [Slot("count")], entity, group.start_us(ends_us), ends_us)
    count = np.asarray(merged["count"], dtype=np.float64)
    return pl.Series(TOLERANCE * count * scale[column][entity] if column in scale else np.zeros(len(entity)))


def _begun_since(
    rows: pl.DataFrame, dataset: EmittedDataset, group: WindowGroup, since: datetime | None
) -> pl.DataFrame:
    """Rows whose windows begin where the archive is complete; none of a lifetime window when that is not the start."""
    if since is None:
        return rows
    if group.window.kind == "lifetime":
        return rows.clear()
    reach_us = max(group.window.size_us + group.window.tile_us, dataset.size_us)
    return rows.filter(pl.col("window_end") >= since + timedelta(microseconds=reach_us))


def _reaches_whole_archive(group: WindowGroup, as_of_us: int, since: datetime | None) -> bool:
    if since is None:
        return True
    window = group.window
    begins = _EPOCH + timedelta(microseconds=as_of_us - window.size_us - (window.tile_us or window.every_us))
    return window.kind != "lifetime" and begins >= since


def _count(comparison: Comparison, rows: pl.DataFrame, feature: str) -> None:
    expected, stored = pl.col(f"{_VALUE} {feature}"), pl.col(f"{_STORED} {feature}")
    same = expected.eq_missing(stored)
    if f"_bound {feature}" in rows.columns:
        # A value computed from rounded sums is off by the value's own rounding at least.
        allowed = pl.max_horizontal(pl.col(f"_bound {feature}"), TOLERANCE * expected.abs())
        same = same | ((expected - stored).abs() <= allowed).fill_null(False)
    both = pl.col("_is_expected").fill_null(False) & pl.col("_is_stored").fill_null(False)
    compared, equal, missing, extra = rows.select(
        both.sum().alias("compared"),
        (both & same).sum().alias("equal"),
        (~pl.col("_is_stored").fill_null(False)).sum().alias("missing"),
        (~pl.col("_is_expected").fill_null(False)).sum().alias("extra"),
    ).row(0)
    comparison.compared += compared
    comparison.equal += equal
    comparison.different += compared - equal
    comparison.missing += missing
    comparison.extra += extra
