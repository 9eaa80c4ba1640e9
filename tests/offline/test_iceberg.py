"""Iceberg tables hold each row of the files that are closed once, before and after every change of these."""

from __future__ import annotations

from pathlib import Path
from random import Random

import polars as pl
import polars.testing
import pytest

from featurestore.errors import StoreError, StoreLockedError
from featurestore.offline.iceberg import Synced, TableFiles, event_files, open_catalog, snapshot_files, sync_tables
from featurestore.offline.layout import partition_dir
from featurestore.offline.listing import newest_segment
from featurestore.offline.manifest import maintenance_lock
from featurestore.offline.read import read_events
from tests.offline.logs import GENERATION, KilledError, archive_of, draw_log, write_whole
from tests.offline.test_compaction import PLACE, SOURCE, compact_all

TABLE = f"events.{SOURCE}"


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
    (done,) = sync(root)
    assert (done.added, done.removed) == (0, 0)
    assert snapshots(root) == 1


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


def test_a_sync_that_dies_leaves_the_table_as_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync(root)
    before = in_table(root)
    compact_all(root)
    from pyiceberg.catalog.sql import SqlCatalog

    def die(*arguments: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(SqlCatalog, "commit_table", die)
        with pytest.raises(KilledError):
            sync(root)
    assert snapshots(root) == 1
    assert len(open_catalog(root, None).load_table(TABLE).inspect.files()) > 0
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
