"""Iceberg tables hold each row of the files that are closed once, before and after every change of these."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random

import polars as pl
import polars.testing
import pytest

from featurestore.errors import StoreError, StoreLockedError
from featurestore.offline.archive import SourceArchive
from featurestore.offline.iceberg import (
    Synced,
    TableFiles,
    batch_row_files,
    event_files,
    open_catalog,
    snapshot_files,
    sync_tables,
)
from featurestore.offline.layout import batch_dir, batch_name, batch_stem, partition_dir, snapshot_dir
from featurestore.offline.listing import newest_segment
from featurestore.offline.manifest import maintenance_lock
from featurestore.offline.read import read_events, read_snapshots
from featurestore.offline.retention import plan_archive_removal, plan_snapshot_removal, prune
from featurestore.offline.snapshots import SnapshotWriter
from featurestore.offline.tables import write_frame
from tests.offline.logs import GENERATION, SECOND, archive_of, draw_log, write_whole
from tests.offline.test_compaction import PLACE, SOURCE, compact_all
from tests.offline.test_snapshots import TUMBLING, entry, rows

TABLE = f"events.{SOURCE}"
EVER = datetime(2200, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive of two partitions in many small segments."""
    write_whole(tmp_path, [draw_log(Random(1), partition, 80) for partition in range(2)])
    return tmp_path


def sync(root: Path) -> list[Synced]:
    return sync_tables(root, open_catalog(root, None), lambda: [event_files(root, SOURCE)], grace_s=0.0)


def in_table(root: Path, name: str = TABLE) -> pl.DataFrame:
    frame = pl.from_arrow(open_catalog(root, None).load_table(name).scan().to_arrow())
    assert isinstance(frame, pl.DataFrame)
    return frame.sort(PLACE)


def closed(root: Path) -> pl.DataFrame:
    """All events but those of each partition's newest file."""
    frame = read_events(root, SOURCE)
    newest = [newest_segment(partition_dir(root, "events", SOURCE, GENERATION, partition)) for partition in range(2)]
    opened = pl.concat([pl.read_parquet(path, columns=PLACE) for path in newest if path is not None])
    return frame.join(opened, on=PLACE, how="anti").sort(PLACE)


def snapshots(root: Path, name: str = TABLE) -> int:
    return len(open_catalog(root, None).load_table(name).metadata.snapshots)


def assert_same(root: Path) -> None:
    expected = closed(root)
    found = in_table(root)
    assert expected.height > 50
    polars.testing.assert_frame_equal(found.select(expected.columns), expected, check_dtypes=False)


def test_a_table_has_the_rows_of_all_closed_files(root: Path) -> None:
    (done,) = sync(root)
    assert (done.table, done.added, done.removed) == (TABLE, done.files, 0)
    assert done.rows == closed(root).height
    assert_same(root)


def test_a_compaction_is_one_snapshot_that_takes_old_files_for_new_ones(root: Path) -> None:
    sync(root)
    compact_all(root)
    (done,) = sync(root)
    assert done.removed > done.added > 0
    assert snapshots(root) == 2
    assert_same(root)


def test_nothing_new_makes_no_snapshot(root: Path) -> None:
    sync(root)
    before = open_catalog(root, None).load_table(TABLE).metadata_location
    (done,) = sync(root)
    assert (done.added, done.removed) == (0, 0)
    assert open_catalog(root, None).load_table(TABLE).metadata_location == before


def test_columns_that_came_later_are_null_before(root: Path) -> None:
    sync(root)
    log = draw_log(Random(9), 2, 80)
    archive = archive_of(root)
    archive.append(log.batch(log.first, log.end, extra="channel"))
    archive.flush()
    sync(root)
    found = in_table(root)
    assert found.filter(pl.col("_partition") < 2)["channel"].null_count() > 50
    assert found.filter(pl.col("_partition") == 2)["channel"].null_count() == 0


def test_events_tell_the_generation_of_their_topic(root: Path) -> None:
    # Offsets begin again in a new topic: without its generation a place would name two events.
    sync(root)
    log = draw_log(Random(5), 0, 80)
    archive = SourceArchive(
        root,
        SOURCE,
        "a/b c",  # a folder's name quotes what it can't hold
        segment_events=16,
        segment_bytes=60,
        segment_span_us=60 * SECOND,
        buffer_bytes_max=2_000,
    )
    archive.append(log.batch(log.first, log.end))
    archive.flush()
    sync(root)
    found = in_table(root)
    assert found.select(PLACE).is_duplicated().any()
    assert not found.select("topic_generation", *PLACE).is_duplicated().any()
    assert set(found["topic_generation"]) == {GENERATION, "a/b c"}
    table = open_catalog(root, None).load_table(TABLE)
    only = table.scan(row_filter="topic_generation == 'a/b c'").to_arrow()
    assert only.num_rows == found.filter(pl.col("topic_generation") == "a/b c").height > 30
    compact_all(root)
    sync(root)
    assert in_table(root).sort("topic_generation", *PLACE).equals(found.sort("topic_generation", *PLACE))


def test_a_removal_leaves_what_our_readers_see_and_perhaps_nothing(root: Path) -> None:
    (first,) = sync(root)
    times = read_events(root, SOURCE)["event_time"].sort()
    # Only the oldest segments of a partition go, up to the first that is too young: at which of these is drawn.
    for before in (*(times[len(times) * tenth // 10] for tenth in range(1, 10)), EVER):
        prune(root, lambda: [plan_archive_removal(root, SOURCE, before)], grace_s=0.0)  # noqa: B023
        (done,) = sync(root)
        expected = closed(root)
        assert in_table(root).select(expected.columns).sort(PLACE).rows() == expected.rows()
    assert first.files > done.files == 0
    (done,) = sync(root)
    assert (done.added, done.removed, done.rows) == (0, 0, 0)


def test_snapshots_have_all_revisions_through_compaction_and_removal(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path, tmp_path / "intents", "w")
    folder = snapshot_dir(tmp_path, TUMBLING)
    name = "features.card_activity_v1_tumbling_1m"

    def write(*frames: pl.DataFrame) -> None:
        writer.add([entry(0, number, frame) for number, frame in enumerate(frames)])
        writer.write()
        writer.done()

    def register() -> Synced:
        plan = [snapshot_files(tmp_path, folder, [tmp_path / "intents"])]
        (done,) = sync_tables(tmp_path, open_catalog(tmp_path, None), lambda: plan, grace_s=0.0)
        return done

    def assert_equal_rows() -> None:
        order = ["card_id", "window_end", "revision"]
        found = pl.from_arrow(open_catalog(tmp_path, None).load_table(name).scan().to_arrow())
        expected = read_snapshots(tmp_path, "card_activity", 1, "tumbling_1m")
        polars.testing.assert_frame_equal(found, expected, check_dtypes=False, check_row_order=False)
        connection = open_catalog(tmp_path, None).load_table(name).scan().to_duckdb("t")
        valid = connection.sql(
            "SELECT * FROM t QUALIFY row_number() OVER (PARTITION BY card_id, window_end ORDER BY revision DESC) = 1"
        )
        ours = read_snapshots(tmp_path, "card_activity", 1, "tumbling_1m", ["card_id"])
        # DuckDB calls UTC Etc/UTC.
        found = valid.pl().with_columns(pl.col("window_end").dt.convert_time_zone("UTC")).select(order).sort(order)
        polars.testing.assert_frame_equal(found, ours.select(order).sort(order), check_dtypes=False)

    write(rows(["a", "b"]))
    write(rows(["a"], revision=1, count=2))
    writer.close()
    register()
    assert_equal_rows()
    write(rows(["c"], window_end_us=120_000_000))
    assert register().added == 0, "its writer may still undo it"
    writer.close()
    assert register().added == 1
    assert_equal_rows()
    compact_all(tmp_path, tmp_path / "intents")
    assert register().removed == 3
    assert_equal_rows()
    prune(tmp_path, lambda: [plan_snapshot_removal(tmp_path, folder, EVER, [])], grace_s=0.0)
    assert (register().files, register().rows) == (0, 0)
    assert open_catalog(tmp_path, None).load_table(name).scan().to_arrow().num_rows == 0


def write_part(root: Path, name: str, cards: Sequence[str], credit: object = 1) -> Path:
    """A file of batch rows. credit: of each of them."""
    path = batch_dir(root, "limits", 1) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    times = [datetime(2026, 11, 23, tzinfo=timezone.utc)] * len(cards)
    frame = pl.DataFrame({"card_id": cards, "credit": [credit] * len(cards), "event_timestamp": times})
    with path.open("wb") as file:
        write_frame(file, frame, footer=b"{}", statistics=["card_id", "event_timestamp"])
    return path


def sync_batch(root: Path, running: str | None = None) -> list[Synced]:
    def plan() -> list[TableFiles]:
        return [batch_row_files(root, batch_dir(root, "limits", 1), lambda: running)]

    return sync_tables(root, open_catalog(root, None), plan, grace_s=0.0)


def batch_cards(root: Path, row_filter: str = "true") -> list[str]:
    table = open_catalog(root, None).load_table("features.limits_v1_batch")
    return sorted(table.scan(row_filter=row_filter).to_arrow()["card_id"].to_pylist())


@pytest.mark.parametrize("cards", [["x", "y"], ["a", "b", "x", "y"]])
def test_a_batch_part_written_anew_under_its_name_is_registered_anew(tmp_path: Path, cards: list[str]) -> None:
    # Its old figures would make filters pass over rows, and engines look for its footer in the wrong place.
    write_part(tmp_path, batch_name(None, 10, 0), ["a", "b"])
    write_part(tmp_path, batch_name(10, 20, 0), ["c"])
    sync_batch(tmp_path)
    write_part(tmp_path, batch_name(None, 10, 0), cards)
    (done,) = sync_batch(tmp_path)
    assert (done.added, done.removed, done.rows) == (1, 1, len(cards) + 1)
    assert batch_cards(tmp_path) == sorted([*cards, "c"])
    assert batch_cards(tmp_path, "card_id == 'x'") == ["x"]
    assert [(one.added, one.removed) for one in sync_batch(tmp_path)] == [(0, 0)]


def test_batch_rows_of_an_interval_under_way_wait_for_its_end(tmp_path: Path) -> None:
    write_part(tmp_path, batch_name(None, 10, 0), ["a"])
    write_part(tmp_path, batch_name(10, 20, 0), ["b"])
    sync_batch(tmp_path, running=batch_stem(10, 20))
    assert batch_cards(tmp_path) == ["a"]
    sync_batch(tmp_path)
    assert batch_cards(tmp_path) == ["a", "b"]


def test_columns_that_iceberg_can_not_join_are_told_and_stop_no_other_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_part(tmp_path, batch_name(None, 10, 0), ["a"], credit=1)
    write_part(tmp_path, batch_name(10, 20, 0), ["b"], credit=1.5)
    write_whole(tmp_path, [draw_log(Random(1), 0, 80)])

    def plan() -> list[TableFiles]:
        return [
            batch_row_files(tmp_path, batch_dir(tmp_path, "limits", 1), lambda: None),
            event_files(tmp_path, SOURCE),
        ]

    with pytest.raises(StoreError, match=r"features\.limits_v1_batch.*column 'credit'.*int64.*double"):
        sync_tables(tmp_path, open_catalog(tmp_path, None), plan, grace_s=0.0)
    assert in_table(tmp_path).height > 20
    assert capsys.readouterr().out == ""


def test_a_type_that_iceberg_has_not_is_told(tmp_path: Path) -> None:
    write_part(tmp_path, batch_name(None, 10, 0), ["a"], credit=timedelta(days=1))
    with pytest.raises(StoreError, match=r"features\.limits_v1_batch.*credit.*duration"):
        sync_batch(tmp_path)


def test_a_type_that_became_another_since_the_last_call_is_told(tmp_path: Path) -> None:
    path = write_part(tmp_path, batch_name(None, 10, 0), ["a"], credit=1)
    sync_batch(tmp_path)
    path.unlink()
    write_part(tmp_path, batch_name(None, 10, 0), ["a"], credit=1.5)
    with pytest.raises(StoreError, match=r"features\.limits_v1_batch.*credit") as told:
        sync_batch(tmp_path)
    assert "drop" in str(told.value.hint)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_sync_killed_at_its_commit_leaves_the_table_as_it_was_or_as_it_is_to_be(root: Path, moment: str) -> None:
    sync(root)
    before = in_table(root)
    compact_all(root)
    script = f"""
import os, signal
from pathlib import Path
from pyiceberg.catalog.sql import SqlCatalog
from featurestore.offline.iceberg import event_files, open_catalog, sync_tables

commit = SqlCatalog.commit_table
def killed(*arguments):
    if {moment!r} == "after":
        commit(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
SqlCatalog.commit_table = killed
root = Path({str(root)!r})
sync_tables(root, open_catalog(root, None), lambda: [event_files(root, {SOURCE!r})], grace_s=0.0)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert snapshots(root) == (1 if moment == "before" else 2)
    sync(root)
    assert snapshots(root) == 2
    assert in_table(root).equals(before)


def test_files_of_an_unknown_place_and_an_unknown_catalog_are_told(root: Path) -> None:
    with pytest.raises(StoreError, match="Iceberg catalog 'nowhere' can't be opened"):
        open_catalog(root, "nowhere")
    with maintenance_lock(root), pytest.raises(StoreLockedError):
        sync(root)
    assert sync_tables(root, open_catalog(root, None), lambda: [TableFiles("events.none", ())], grace_s=0.0) == []


def test_engines_must_not_drop_our_files(root: Path) -> None:
    sync(root)
    assert open_catalog(root, None).load_table(TABLE).properties["gc.enabled"] == "false"


def test_globs_of_the_store_do_not_meet_the_catalog(root: Path) -> None:
    before = sorted(root.rglob("*.parquet"))
    sync(root)
    assert sorted(root.rglob("*.parquet")) == before
    assert snapshot_files(root, root / "features" / "v" / "v1" / "sliding", []).name == "features.v_v1_sliding"
