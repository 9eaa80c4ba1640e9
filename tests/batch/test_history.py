"""History from files: every event once, in one order; all of it or nothing, whatever goes wrong on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import pytest

from featurestore.batch.history import HistoryImport, import_history, plan_import
from featurestore.batch.history_files import HistoryFiles
from featurestore.batches import NO_TIME, PartitionBatch, PartitionProgress
from featurestore.compile.view import compile_view
from featurestore.definitions.specs import ColumnSpec, SourceSpec
from featurestore.errors import BackfillError, SchemaError, SourceError, StoreFullError, StoreLockedError
from featurestore.offline import SourceArchive, archive_counts, read_ends, read_events
from featurestore.offline import history as history_module
from featurestore.offline.archive_reader import archived_generations
from featurestore.offline.compaction import compact, plan_source
from featurestore.offline.coverage import Gap, archive_gaps, complete_from_us, reaches
from featurestore.offline.history import event_span_us
from featurestore.offline.layout import is_history
from featurestore.offline.manifest import maintenance_lock
from featurestore.offline.pieces import partition_folders
from featurestore.offline.retention import plan_archive_removal, prune
from tests.factories import LIFETIME, MINUTE, feature, sliding, source_spec, tumbling, view_spec

SECOND = 1_000_000
INSTANT = pl.Datetime("us", "UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
OOO, LATENESS = 5 * SECOND, 60 * SECOND
TOPIC_US = 1_000 * MINUTE
"""The topic's archive begins here."""


class Killed(BaseException):
    """The process ended here: no handler runs."""


def source() -> SourceSpec:
    spec = source_spec(out_of_orderness_us=OOO, lateness_us=LATENESS)
    columns = (
        ColumnSpec(name="card", dtype="String"),
        ColumnSpec(name="amount", dtype="Float64", has_default=True, default=1.5),
        ColumnSpec(name="note", dtype="String", nullable=True),
        ColumnSpec(name="ts", dtype="Datetime", unit="ms"),
    )
    return SourceSpec(**{name: getattr(spec, name) for name in spec.__struct_fields__} | {"columns": columns})


def archive(
    root: Path,
    times_us: Sequence[int],
    *,
    partition: int = 0,
    first: int = 0,
    arrival_us: int = 0,
    generation: str = "g",
) -> None:
    """Append events to a partition of the topic's archive."""
    count = len(times_us)
    offsets = np.arange(first, first + count)
    rows = pl.DataFrame(
        {
            "card": [f"c{number}" for number in range(count)],
            "amount": [0.5] * count,
            "note": pl.Series([None] * count, dtype=pl.String),
            "ts": pl.Series(times_us).cast(INSTANT),
            "_partition": pl.Series([partition] * count, dtype=pl.Int32),
            "_offset": offsets,
            "event_time": pl.Series(times_us).cast(INSTANT),
            "arrival_time": pl.Series([arrival_us] * count).cast(INSTANT),
            "_partition_watermark": pl.Series([NO_TIME] * count, dtype=pl.Int64),
        }
    )
    progress = PartitionProgress(partition, first, first + count, max(times_us))
    dead = pl.DataFrame(schema={"_offset": pl.Int64, "reason": pl.String})
    ones = np.ones(count, dtype=np.int64)
    one = SourceArchive(root, "events", generation, segment_events=16)
    one.append(PartitionBatch(progress, offsets, ones * arrival_us, ones, rows, rows.clear(), dead))
    one.flush()


def topic(root: Path) -> None:
    """Two partitions of some minutes each."""
    for partition in range(2):
        times = [TOPIC_US + number * 10 * SECOND + partition for number in range(60)]
        archive(root, times, partition=partition, arrival_us=TOPIC_US + 3600 * SECOND)


def history(seed: int, rows: int = 400, until_us: int = TOPIC_US) -> pl.DataFrame:
    """Rows in no order, before `until_us`; several of one instant."""
    random = Random(seed)
    times = [until_us - random.randrange(1, 20_000) * 100_000 for _ in range(rows)]
    return pl.DataFrame(
        {
            "card": [f"h{number}" for number in range(rows)],
            "amount": [float(number) for number in range(rows)],
            "note": [None if number % 3 else "x" for number in range(rows)],
            "ts": pl.Series(times).cast(INSTANT),
        }
    )


def write(frame: pl.DataFrame, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path, row_group_size=64)
    return str(path)


def run(root: Path, *paths: str, before_us: int | None = None, **options: object) -> HistoryImport:
    files = HistoryFiles(source(), paths, root, options.pop("arrival", None))  # type: ignore[arg-type]
    return import_history(root / "store", source(), files, before_us, **{"segment_rows": 50, **options})  # type: ignore[arg-type]


def imported(root: Path) -> pl.DataFrame:
    """What lies in history: generation after generation, in the order in which a backfill reads them."""
    store, frames = root / "store", []
    for generation in archived_generations(store, "events"):
        if is_history(generation.generation):
            rows = read_events(store, "events").filter(pl.col("card").str.starts_with("h"))
            span = event_span_us(store, "events", generation.generation)
            assert span is not None
            inside = pl.col("event_time").dt.epoch("us").is_between(*span)
            frames.append(rows.filter(inside).sort("event_time", "_partition", "_offset"))
    return pl.concat(frames) if frames else pl.DataFrame()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    topic(tmp_path / "store")
    return tmp_path


# -- what is there afterwards


def test_every_event_is_there_once_in_the_order_of_times_and_then_of_rows(root: Path):
    rows = history(1)
    paths = [write(rows.head(150), root / "a.parquet"), write(rows.tail(250), root / "b.parquet")]
    planned = plan_import(root / "store", source(), HistoryFiles(source(), paths, root))
    assert imported(root).is_empty()
    done = run(root, *paths)
    assert (done.rows, done.rows_read, done.rows_left_out, done.files) == (400, 400, 0, 2)
    assert (planned.generation, planned.rows, planned.earliest) == (done.generation, 400, done.earliest)
    found, expected = imported(root), rows.sort("ts", maintain_order=True)
    assert found["card"].to_list() == expected["card"].to_list()
    assert found.select(rows.columns).equals(expected)
    assert found["event_time"].equals(expected["ts"].alias("event_time"))
    assert found["arrival_time"].to_list() == found["event_time"].to_list()
    assert done.partitions > 1
    counts = archive_counts(root / "store", "events")
    assert (counts.accepted, counts.read, counts.imported) == (120, 120, {done.generation: 400})


def test_it_comes_before_every_topic_and_its_offsets_and_times_are_those_of_a_log(root: Path):
    done = run(root, write(history(2), root / "a.parquet"))
    first, *others = archived_generations(root / "store", "events")
    assert first.generation == done.generation
    assert [one.generation for one in others] == ["g"]
    for partition, end in read_ends(root / "store", "events", first.generation).items():
        mine = read_events(root / "store", "events").filter(
            pl.col("card").str.starts_with("h"), pl.col("_partition") == partition
        )
        assert sorted(mine["_offset"]) == list(range(end.next_offset))
        assert mine.sort("_offset")["event_time"].is_sorted()
        assert end.max_event_time_us == mine["event_time"].dt.epoch("us").max()


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_columns_that_may_be_missing_numbers_and_text_are_taken_as_the_schema_says(root: Path, suffix: str):
    time_ms = (TOPIC_US - MINUTE) // 1000
    frame = pl.DataFrame({"card": ["h1", "h2"], "ts": [time_ms, time_ms + 1], "came": [time_ms + 500, None]})
    run(root, write(frame, root / f"a.{suffix}"), arrival="came")
    found = imported(root)
    assert found["amount"].to_list() == [1.5, 1.5]
    assert found["note"].null_count() == 2
    assert found["event_time"].dt.epoch("us").to_list() == [time_ms * 1000, (time_ms + 1) * 1000]
    assert found["arrival_time"].dt.epoch("us").to_list() == [(time_ms + 500) * 1000, (time_ms + 1) * 1000]


def test_a_file_that_two_patterns_match_counts_once(root: Path):
    write(history(3, 20), root / "lake" / "a.parquet")
    done = run(root, "lake", "lake/*.parquet", str(root / "lake" / "a.parquet"))
    assert (done.files, done.rows) == (1, 20)


# -- the border


def test_what_is_not_older_than_the_archive_is_left_out_and_counted(root: Path):
    frame = history(4, 100, until_us=TOPIC_US + 600 * SECOND)
    done = run(root, write(frame, root / "a.parquet"))
    older = frame.filter(pl.col("ts").dt.epoch("us") < TOPIC_US)
    assert 0 < older.height < 100
    assert (done.rows, done.rows_left_out) == (older.height, 100 - older.height)
    assert set(imported(root)["card"]) == set(older["card"])
    assert done.before == done.archive_begins


def test_what_the_topic_may_still_bring_is_left_out_too(tmp_path: Path):
    archive(tmp_path / "store", [TOPIC_US, TOPIC_US + SECOND])  # its newest event leaves room for later ones before it
    line_us = TOPIC_US + SECOND - OOO - LATENESS
    times = [line_us - 1, line_us, TOPIC_US - 1]
    frame = pl.DataFrame({"card": ["h0", "h1", "h2"], "ts": pl.Series(times).cast(INSTANT)})
    done = run(tmp_path, write(frame, tmp_path / "a.parquet"))
    assert (done.rows, done.rows_left_out) == (1, 2)
    with pytest.raises(BackfillError, match="may still bring events") as refused:
        run(tmp_path, str(tmp_path / "a.parquet"), before_us=line_us + 1)
    assert "--before" in str(refused.value.hint)


def test_before_may_be_earlier_but_never_later_than_the_archive_begins(root: Path):
    path = write(history(5), root / "a.parquet")
    with pytest.raises(BackfillError, match="would count events twice: the archive of 'events' begins at"):
        run(root, path, before_us=TOPIC_US + 1)
    assert imported(root).is_empty()
    limit = TOPIC_US - 500 * SECOND
    assert run(root, path, before_us=limit).rows == imported(root).height
    assert imported(root)["event_time"].dt.epoch("us").max() < limit  # type: ignore[operator]


def test_again_changes_nothing_and_older_files_come_before(root: Path):
    newer, older = history(6), history(7, until_us=TOPIC_US - 3_000 * SECOND).with_columns(pl.col("card") + "o")
    path = write(newer, root / "a.parquet")
    run(root, path)
    first = imported(root)
    assert run(root, path).generation is None
    assert run(root, path, before_us=TOPIC_US).generation is None
    assert imported(root).equals(first)
    # A pattern that matches more files now takes in the older events, and none of those that are there twice.
    done = run(root, write(older, root / "b.parquet"), path)
    assert (done.rows, done.rows_left_out) == (older.height, newer.height)
    found = imported(root)
    assert found["card"].n_unique() == found.height == older.height + newer.height
    assert found["event_time"].is_sorted()


def test_without_an_archive_nobody_knows_where_history_ends(tmp_path: Path):
    with pytest.raises(BackfillError, match="nothing of source 'events' is archived yet"):
        run(tmp_path, write(history(8), tmp_path / "a.parquet"))


# -- what refuses an import


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"card": None}, r"a.parquet row 8: column 'card' is null"),
        ({"ts": None}, r"a.parquet row 8: column 'ts' is null"),
    ],
)
def test_rows_that_are_no_events_refuse_all_of_it_and_are_told(root: Path, change: dict[str, object], says: str):
    rows = history(9, 70).with_row_index()
    for name, value in change.items():
        rows = rows.with_columns(
            pl.when(pl.col("index").is_in([7, 66]))
            .then(pl.lit(value, dtype=rows.schema[name]))
            .otherwise(name)
            .alias(name)
        )
    path = write(rows.drop("index"), root / "a.parquet")
    with pytest.raises(SourceError, match=says) as refused:
        run(root, path)
    assert "2 values can't be of source 'events'; nothing was imported" in refused.value.message
    assert "1 more" in refused.value.message
    assert imported(root).is_empty()


def test_text_that_is_no_number_is_told_with_its_value(root: Path):
    path = write(pl.DataFrame({"card": ["h"], "ts": ["1970-01-01"], "amount": ["12,50"]}), root / "a.csv")
    with pytest.raises(SourceError, match=r"a.csv row 1: column 'amount' is '12,50', no Float64"):
        run(root, path)


def test_a_number_beyond_all_times_is_told(root: Path):
    path = write(pl.DataFrame({"card": ["h"], "ts": [2**60]}), root / "a.parquet")
    with pytest.raises(
        SourceError, match=r"column 'ts' is 1152921504606846976, no instant between the years 1 and 9999"
    ):
        run(root, path)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (pl.DataFrame({"cart": ["h"], "ts": [0]}), "column 'card' is not in .*a.parquet"),
        (pl.DataFrame({"card": [1.5], "ts": [0]}), "column 'card' is String, but Float64 in .*a.parquet"),
        (pl.DataFrame({"card": ["h"], "ts": [True]}), "column 'ts' is Datetime, but Boolean in .*a.parquet"),
    ],
)
def test_a_file_without_the_sources_columns_is_named(root: Path, frame: pl.DataFrame, says: str):
    with pytest.raises(SchemaError, match=says):
        run(root, write(frame, root / "a.parquet"))


def test_a_file_that_is_no_parquet_is_named(root: Path):
    (root / "a.parquet").write_text("card,ts\n")
    with pytest.raises(SourceError, match=r"a.parquet can't be read as parquet"):
        run(root, str(root / "a.parquet"))


def test_beside_a_compaction_it_is_refused(root: Path):
    path = write(history(10), root / "a.parquet")
    with maintenance_lock(root / "store"), pytest.raises(StoreLockedError, match="filled with history"):
        run(root, path)


# -- on the way


def test_killed_at_any_moment_all_of_it_is_there_or_nothing_and_again_finishes_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(history_module, "SPILL_BYTES", 3_000)
    path = write(history(11), root / "a.parquet")
    points: Counter[str] = Counter()
    shown = 0
    for at in range(200):
        passed = 0

        def crash_point(point: str, at: int = at) -> None:
            nonlocal passed
            passed += 1
            if passed == at + 1:
                points[point] += 1
                raise Killed

        try:
            run(root, path, crash_point=crash_point)
        except Killed:
            assert imported(root).height in (0, 400)
            if imported(root).height:
                # It is there; what was cut short is only how its files came to their places.
                shown += 1
                assert run(root, path).generation is None
                assert imported(root).height == 400
                files = list((root / "store" / "events").rglob("topic_generation=history-*/**/*.parquet"))
                assert sum(pl.scan_parquet(file).select(pl.len()).collect().item() for file in files) == 400
                break
        else:
            break
    assert shown
    assert {"spilled", "staged", "manifest_renamed"} <= points.keys()
    assert not (root / "store" / "_maintenance" / "import").exists()
    assert imported(root)["card"].to_list() == history(11).sort("ts", maintain_order=True)["card"].to_list()


def test_without_room_nothing_is_imported_and_nothing_is_left_behind(root: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(history(12), root / "a.parquet")

    def full(point: str) -> None:
        if point == "staged":
            raise StoreFullError("no room")

    with pytest.raises(StoreFullError):
        run(root, path, crash_point=full)
    assert imported(root).is_empty()
    assert not list((root / "store" / "_maintenance").rglob("*.parquet"))
    assert not list((root / "store" / "_maintenance").rglob("*.arrows"))


# -- as any part of the archive


def test_it_is_compacted_and_pruned_and_counted_as_the_rest(root: Path):
    store = root / "store"
    done = run(root, write(history(13), root / "a.parquet"))
    before = imported(root)
    compact(store, lambda: plan_source(store, "events", ["card"]), grace_s=0.0)
    assert imported(root).equals(before)
    limit = EPOCH + timedelta(microseconds=TOPIC_US - 600 * SECOND)
    prune(store, lambda: [plan_archive_removal(store, "events", limit)], grace_s=0.0)
    assert archive_counts(store, "events").imported == {done.generation: 400}
    # Nobody resumes from it: the newest files go too.
    prune(store, lambda: [plan_archive_removal(store, "events", EPOCH + timedelta(days=1))], grace_s=0.0)
    assert imported(root).is_empty()
    assert [one.generation for one in archived_generations(store, "events")] == ["g"]
    counts = archive_counts(store, "events")
    assert (counts.accepted, counts.imported) == (120, {done.generation: 400})
    assert len(partition_folders(store, "events")) > 2


# -- what the archive may lack


def test_gaps_of_an_archive(tmp_path: Path):
    store = tmp_path / "store"
    topic(store)
    assert archive_gaps(store, "events") == ()
    begin_us = int(history(14)["ts"].dt.epoch("us").min())  # type: ignore[arg-type]
    done = run(tmp_path, write(history(14), tmp_path / "a.parquet"))
    assert archive_gaps(store, "events") == (Gap(None, begin_us),)
    assert archive_gaps(store, "events", {"g"}) == ()
    assert done.generation is not None
    assert archive_gaps(store, "events", {"g", done.generation}) == (Gap(None, begin_us),)


def test_between_history_and_a_topic_that_was_met_under_way_events_may_be_missing(tmp_path: Path):
    store = tmp_path / "store"
    arrival_us = TOPIC_US + 7 * SECOND
    archive(store, [TOPIC_US + number * 60 * SECOND for number in range(30)], first=1_000, arrival_us=arrival_us)
    assert archive_gaps(store, "events") == (Gap(None, arrival_us),)
    frame = history(15)
    run(tmp_path, write(frame, tmp_path / "a.parquet"))
    times = frame["ts"].dt.epoch("us")
    assert archive_gaps(store, "events") == (
        Gap(None, int(times.min())),  # type: ignore[arg-type]
        Gap(int(times.max()) + 1, arrival_us),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("window", [sliding(10, MINUTE), tumbling(10), tumbling(10, 3 * SECOND)])
def test_windows_that_reach_into_a_gap(window: object):
    spec = view_spec([feature("count", window, None)])  # type: ignore[arg-type]
    groups = compile_view(spec, source_spec(), view_id=1, version=1).groups
    gap = Gap(100 * MINUTE + 17, 130 * MINUTE + 31)
    from_us = complete_from_us(groups, gap)
    assert from_us is not None
    as_of = np.array([gap.from_us, gap.to_us, from_us - 1, from_us])  # type: ignore[list-item]
    assert reaches(groups, gap, as_of).tolist() == [False, True, True, False]
    assert reaches(groups, Gap(None, gap.to_us), as_of).tolist() == [True, True, True, False]


def test_a_lifetime_is_never_complete_behind_a_gap():
    groups = compile_view(view_spec([feature("count", LIFETIME, None)]), source_spec(), view_id=1, version=1).groups
    assert complete_from_us(groups, Gap(None, 5)) is None
    assert reaches(groups, Gap(3, 5), np.array([3, 4, 10**15])).tolist() == [False, True, True]
