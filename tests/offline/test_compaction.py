"""Compaction: the same rows in fewer files, for our readers at every moment, whatever is killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import duckdb
import polars as pl
import polars.testing
import pyarrow.parquet as pq
import pytest

from featurestore.errors import StoreFormatError, StoreFullError, StoreLockedError
from featurestore.offline import layout, listing
from featurestore.offline.archive import ArchiveEnd, SourceArchive, read_ends
from featurestore.offline.compaction import Compacted, compact, plan_snapshots, plan_source
from featurestore.offline.compaction_plan import CompactionLimits
from featurestore.offline.inventory import list_datasets
from featurestore.offline.listing import list_files, segment_files
from featurestore.offline.manifest import Manifest, maintenance_lock, manifest_path, read_manifest
from featurestore.offline.partition_archive import read_segment_footer
from featurestore.offline.read import (
    archive_counts,
    read_dead_letters,
    read_events,
    read_late,
    read_side,
    read_snapshots,
)
from featurestore.offline.snapshots import SnapshotWriter, finish_recovery, recover
from tests.offline.logs import (
    GENERATION,
    KilledError,
    Log,
    archive_of,
    contents,
    draw_log,
    write_disturbed,
    write_whole,
)
from tests.offline.test_snapshots import (
    TUMBLING,
    Emitter,
    Shards,
    entry,
    expected_keys,
    rows,
    write,
    written_keys,
)

SOURCE = "transactions"
PLACE = ["_partition", "_offset"]
CrashPoint = Callable[[str], None]

# Drawn logs jump by seconds only, and their segments hold some ten messages.
SMALL = CompactionLimits(rows=60)


def no_wait(seconds: float) -> None:
    pass


def compact_all(root: Path, intents: Path | None = None, **options: object) -> list[Compacted]:
    """Everything below `root`, without grace."""
    dirs = [] if intents is None else [intents]

    def plan() -> list[object]:
        found: list[object] = list(plan_source(root, SOURCE, ["card_id"], SMALL))
        for folder in (root / "features").glob("*/v*/*"):
            found += plan_snapshots(root, folder, ["card_id"], dirs, SMALL)
        return found

    return compact(root, plan, **{"grace_s": 0.0, "wait": no_wait, **options})  # type: ignore[arg-type]


def seen(root: Path) -> dict[str, pl.DataFrame]:
    """All that readers see of an archive, in one order."""
    frames = {
        "events": read_events(root, SOURCE),
        "late": read_late(root, SOURCE),
        "dead": read_dead_letters(root, SOURCE),
        "side": read_side(root, "late", SOURCE),
    }
    return {name: frame.sort(PLACE) if frame.height else frame for name, frame in frames.items()}


def assert_same(one: dict[str, pl.DataFrame], other: dict[str, pl.DataFrame]) -> None:
    for name, frame in one.items():
        polars.testing.assert_frame_equal(frame, other[name])


def kinds_of(root: Path, kind: layout.Kind, partition: int = 0) -> list[str]:
    folder = layout.partition_dir(root, kind, SOURCE, GENERATION, partition)
    return sorted(path.name for path in folder.glob("*.parquet"))


def killing(at: int, points: Counter[str]) -> CrashPoint:
    """Dies at crash point number `at`, once."""
    passed = 0

    def crash_point(point: str) -> None:
        nonlocal passed
        passed += 1
        if passed == at + 1:
            points[point] += 1
            raise KilledError(point)

    return crash_point


# -- what is the same afterwards


@pytest.mark.parametrize("seed", range(5))
def test_rows_counts_and_ends_are_the_same_in_fewer_files(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    logs = [draw_log(random, partition, 80) for partition in range(2)]
    write_whole(tmp_path, logs)
    before, files = seen(tmp_path), len(contents(tmp_path))
    counts, ends = archive_counts(tmp_path, SOURCE), read_ends(tmp_path, SOURCE, GENERATION)
    (done,) = compact_all(tmp_path)
    assert_same(before, seen(tmp_path))
    assert (archive_counts(tmp_path, SOURCE), read_ends(tmp_path, SOURCE, GENERATION)) == (counts, ends)
    assert len(contents(tmp_path)) == files - done.files_before + done.files_after < files / 2
    assert compact_all(tmp_path) == []


def test_plain_readers_see_the_same_rows_by_a_glob(tmp_path: Path) -> None:
    write_whole(tmp_path, [draw_log(Random(1), partition, 80) for partition in range(2)])
    glob = str(tmp_path / "events" / SOURCE / "**" / "*.parquet")
    before = pl.read_parquet(glob, hive_partitioning=False).sort(PLACE)
    compact_all(tmp_path)
    polars.testing.assert_frame_equal(before, pl.read_parquet(glob, hive_partitioning=False).sort(PLACE))
    count = "count(*), count(DISTINCT (_partition, _offset)), sum(amount)"
    assert duckdb.sql(f"SELECT {count} FROM '{glob}'").fetchall() == [
        (before.height, before.height, before["amount"].sum())
    ]


def test_a_compacted_file_is_sorted_by_key_and_time_with_statistics_on_both(tmp_path: Path) -> None:
    write_whole(tmp_path, [draw_log(Random(2), 0, 60)])
    compact_all(tmp_path)
    path = next(p for p in (tmp_path / "events").rglob("*.parquet") if layout.is_compacted_segment(p))
    frame = pl.read_parquet(path, hive_partitioning=False)
    assert frame.equals(frame.sort("card_id", "event_time", "arrival_time", "_offset"))
    group = pq.read_metadata(path).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert columns["card_id"].statistics.min == frame["card_id"].min()
    assert columns["event_time"].statistics.has_min_max
    assert columns["card_id"].compression == "ZSTD"


def test_the_newest_segment_and_files_behind_it_are_not_touched(tmp_path: Path) -> None:
    log = draw_log(Random(3), 0, 60)
    archive = archive_of(tmp_path)
    archive.append(log.batch(log.first, log.end))
    archive.flush()
    newest = {kind: kinds_of(tmp_path, kind)[-1] for kind in ("events",)}
    left = contents(tmp_path)
    compact_all(tmp_path)
    name = next(key for key in left if key.endswith(newest["events"]) and key.startswith("events"))
    assert contents(tmp_path)[name] == left[name]


def test_a_column_that_came_later_ends_a_run(tmp_path: Path) -> None:
    log = draw_log(Random(4), 0, 90)
    middle = log.messages[45].offset
    archive = archive_of(tmp_path)
    archive.append(log.batch(log.first, middle))
    archive.flush()
    archive = archive_of(tmp_path)
    archive.append(log.batch(middle, log.end, extra="device"))
    archive.flush()
    before = seen(tmp_path)
    compact_all(tmp_path)
    assert len([name for name in kinds_of(tmp_path, "events") if "-" in name]) >= 2
    assert_same(before, seen(tmp_path))


def test_a_hole_between_segments_stays_visible(tmp_path: Path) -> None:
    write_whole(tmp_path, [draw_log(Random(5), 0, 80)])
    folder = layout.partition_dir(tmp_path, "events", SOURCE, GENERATION, 0)
    names = kinds_of(tmp_path, "events")
    (folder / names[2]).unlink()
    compact_all(tmp_path)
    first = next(name for name in kinds_of(tmp_path, "events") if "-" in name)
    assert first == layout.compacted_segment_name(int(names[0][:20]), int(names[2][:20]))


# -- crashes and readers


def test_a_kill_at_each_point_in_turn_is_finished_by_the_next_call_and_readers_see_every_row_once(
    tmp_path: Path,
) -> None:
    logs = [draw_log(Random(7), partition, 30) for partition in range(2)]
    write_whole(tmp_path / "whole", logs)
    expected = seen(tmp_path / "whole")
    counts = archive_counts(tmp_path / "whole", SOURCE)
    compact_all(tmp_path / "whole")
    crash_at, points = 0, Counter[str]()
    while True:
        root = tmp_path / str(crash_at)
        write_whole(root, logs)
        died = len(points), sum(points.values())
        try:
            compact_all(root, crash_point=killing(crash_at, points))
        except KilledError:
            assert_same(expected, seen(root))
            assert archive_counts(root, SOURCE) == counts
            assert sum(dataset.rows for dataset in list_datasets(root)) == counts.read - counts.duplicates
            compact_all(root)
        assert contents_of_datasets(root) == contents_of_datasets(tmp_path / "whole"), f"crash at point {crash_at}"
        if died == (len(points), sum(points.values())):
            break
        crash_at += 1
    wanted = {"staged_temporary_written", "staged_renamed", "manifest_temporary_written", "manifest_renamed"}
    assert wanted | {"linked", "removed_one"} <= set(points)


def contents_of_datasets(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(root).items() if not name.startswith(layout.MAINTENANCE)}


def test_readers_see_every_row_once_at_each_step(tmp_path: Path) -> None:
    write_whole(tmp_path, [draw_log(Random(8), 0, 60)])
    expected, looks = seen(tmp_path), Counter[str]()

    def look(point: str) -> None:
        looks[point] += 1
        assert_same(expected, seen(tmp_path))

    compact_all(tmp_path, crash_point=look, wait=lambda seconds: look("wait"))
    assert looks["wait"] == looks["manifest_renamed"] / 2 == 1
    assert looks["linked"] >= 3


def test_a_listing_from_before_the_swap_can_be_read_during_the_grace_and_fails_loudly_after_it(tmp_path: Path) -> None:
    write_whole(tmp_path, [draw_log(Random(9), 0, 60)])
    folder = tmp_path / "events" / SOURCE
    rows_before = read_events(tmp_path, SOURCE).height
    old = pl.scan_parquet(list_files(tmp_path, folder), hive_partitioning=False)
    between: list[pl.LazyFrame] = []

    def wait(seconds: float) -> None:
        assert seconds == 30.0
        assert old.collect().height == rows_before
        between.append(pl.scan_parquet(list_files(tmp_path, folder), hive_partitioning=False))

    compact_all(tmp_path, grace_s=30.0, wait=wait)
    with pytest.raises(FileNotFoundError):
        old.collect()
    # It had listed the new files where they lay before they were swapped in: that name stays for another grace.
    assert between[0].collect().height == rows_before
    compact_all(tmp_path, grace_s=30.0)
    assert between[0].collect().height == rows_before
    compact_all(tmp_path)
    assert not [path for path in (tmp_path / layout.MAINTENANCE / "staged").rglob("*") if path.is_file()]


def test_a_swap_that_begins_while_the_folders_are_read_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the second look at the manifest the listing would show the new file and the old ones.
    write_whole(tmp_path, [draw_log(Random(13), 0, 60)])
    folder, reads = tmp_path / "events" / SOURCE, 0
    rows_before = read_events(tmp_path, SOURCE).height

    def read_then_swap(root: Path) -> Manifest:
        nonlocal reads
        reads += 1
        manifest = read_manifest(root)
        if reads == 1:
            with pytest.raises(KilledError):
                compact_all(root, crash_point=killing_at("linked"))
        return manifest

    monkeypatch.setattr(listing, "read_manifest", read_then_swap)
    files = list_files(tmp_path, folder)
    assert pl.read_parquet(files, hive_partitioning=False).height == rows_before
    assert len(list(folder.rglob("*.parquet"))) > len(files), "the new file and the old ones are there"


def killing_at(name: str) -> CrashPoint:
    def crash_point(point: str) -> None:
        if point == name:
            raise KilledError(point)

    return crash_point


def test_two_compactions_at_once_are_refused(tmp_path: Path) -> None:
    with maintenance_lock(tmp_path), pytest.raises(StoreLockedError, match="being compacted"):
        compact_all(tmp_path)


def test_without_room_nothing_changes_and_nothing_is_left_behind(tmp_path: Path) -> None:
    write_whole(tmp_path, [draw_log(Random(10), 0, 60)])
    before = contents(tmp_path)

    def full(point: str) -> None:
        if point == "staged_renamed":
            raise StoreFullError("no room")

    with pytest.raises(StoreFullError):
        compact_all(tmp_path, crash_point=full)
    assert contents(tmp_path) == before
    assert not manifest_path(tmp_path).exists()


def test_a_staged_file_that_is_gone_is_named(tmp_path: Path) -> None:
    write_whole(tmp_path, [draw_log(Random(11), 0, 60)])

    def wait(seconds: float) -> None:
        next(p for p in (tmp_path / layout.MAINTENANCE / "staged").rglob("*.parquet")).unlink()

    with pytest.raises(StoreFormatError, match="is gone, which was about to take the place of"):
        compact_all(tmp_path, wait=wait)


# -- beside an archive at work


@pytest.mark.parametrize("seed", range(25))
def test_an_archive_that_is_compacted_between_restarts_holds_what_an_undisturbed_one_holds(
    tmp_path: Path, seed: int
) -> None:
    """Batches, crashes of the archive and of the compaction at drawn moments; replays from anywhere below the end."""
    random = Random(seed)
    logs = [draw_log(random, partition, 60) for partition in range(2)]
    write_whole(tmp_path / "whole", logs)
    root, points = tmp_path / "disturbed", Counter[str]()
    for part in range(1, 6):
        cut = [Log(log.partition, log.first, first_part(log, part / 5), log.messages) for log in logs]
        write_disturbed(root, cut, random, 0.03)
        try:
            compact_all(root, crash_point=killing(random.randrange(25), points))
        except KilledError:
            continue
    assert_same(seen(root), seen(tmp_path / "whole"))
    assert archive_counts(root, SOURCE) == archive_counts(tmp_path / "whole", SOURCE)
    assert read_ends(root, SOURCE, GENERATION) == read_ends(tmp_path / "whole", SOURCE, GENERATION)


def first_part(log: Log, share: float) -> int:
    return log.end if share == 1 else max(log.first, int(log.first + (log.end - log.first) * share))


def test_an_archive_goes_on_behind_a_compacted_file_when_a_user_has_moved_the_newest_away(tmp_path: Path) -> None:
    log = draw_log(Random(12), 0, 80)
    write_whole(tmp_path, [log])
    expected = seen(tmp_path)
    compact_all(tmp_path)
    newest = kinds_of(tmp_path, "events")[-1]
    while not layout.is_compacted_segment(Path(newest)):
        for kind in ("events", "late", "dead_letter"):
            (layout.partition_dir(tmp_path, kind, SOURCE, GENERATION, 0) / newest).unlink(missing_ok=True)
        newest = kinds_of(tmp_path, "events")[-1]
    end = read_ends(tmp_path, SOURCE, GENERATION)[0]
    assert end == ArchiveEnd(end.next_offset, log.max_before(end.next_offset))
    kept = contents_of_datasets(tmp_path)
    # With wider limits the compacted segment would not be full.
    archive = SourceArchive(tmp_path, SOURCE, GENERATION)
    archive.append(log.batch(log.first, log.end))
    archive.flush()
    assert_same(expected, seen(tmp_path))
    # It begins a segment where the compacted one ends, instead of writing that one longer.
    files = segment_files(layout.partition_dir(tmp_path, "events", SOURCE, GENERATION, 0))
    spans = [(footer.start, footer.end) for footer in (read_segment_footer(path) for _, path in files)]
    assert [start for start, _ in spans[1:]] == [end for _, end in spans[:-1]]
    # A side file that begins behind the end was a leftover; the others stay as they were.
    assert kept.items() <= contents_of_datasets(tmp_path).items() | {
        item for item in kept.items() if not item[0].startswith("events")
    }


# -- snapshots


def live_compacted(
    root: Path, random: Random, crash_point: CrashPoint, intents: Path, shards: Shards, run_id: int
) -> None:
    for shard, sequences in recover(root, intents).items():
        shards.drop(shard, sequences)
    shards.sync()
    finish_recovery(intents)
    writer = SnapshotWriter(root, intents, f"store-{run_id}-0", crash_point=crash_point)
    writer.add(shards.entries())
    emitter = Emitter(shards, 8)
    while not emitter.done:
        writer.add(emitter.next_entries(random))
        if random.random() < 0.3:
            write(writer, shards, crash_point)
    write(writer, shards, crash_point)


@pytest.mark.parametrize("power_cuts", [False, True], ids=["kill", "power_cut"])
def test_every_snapshot_row_is_in_one_file_once_whatever_is_killed_while_it_is_compacted(
    tmp_path: Path, power_cuts: bool
) -> None:
    """A compaction, itself killed at times, runs whole between any two writes to disk of the snapshot writer."""
    crashes, compacted = Counter[str](), 0
    for seed in range(60):
        random = Random(seed)
        root, intents = tmp_path / str(seed) / "offline", tmp_path / str(seed) / "intents"
        shards = Shards(3)

        def crash_point(point: str, random: Random = random, root: Path = root, intents: Path = intents) -> None:
            nonlocal compacted
            if random.random() < 0.15:
                with suppress(KilledError):
                    compacted += len(compact_all(root, intents, crash_point=killing(random.randrange(30), crashes)))
            if random.random() < 0.05:
                crashes[point] += 1
                raise KilledError(point)

        for run_id in range(1_000):
            try:
                live_compacted(root, random, crash_point, intents, shards, run_id)
            except KilledError:
                if power_cuts and random.random() < 0.5:
                    shards.cut_power()
            else:
                break
        compact_all(root, intents)
        assert written_keys(root) == expected_keys(3, 8), f"seed {seed}"
    assert compacted > 50
    assert {"staged_renamed", "manifest_renamed", "linked", "removed_one", "published", "dropped_one"} <= set(crashes)


def test_files_of_an_intent_stay_until_it_is_gone(tmp_path: Path) -> None:
    root, intents = tmp_path / "offline", tmp_path / "intents"
    writer = SnapshotWriter(root, intents, "w")
    for number in range(3):
        writer.add([entry(0, number, rows(["a"], number * 60))])
        writer.write()
        writer.done()
    (done,) = compact_all(root, intents)
    assert (done.files_before, done.files_after) == (2, 1)
    assert (layout.snapshot_dir(root, TUMBLING) / layout.snapshot_name("w", 2)).exists()
    finish_recovery(intents)
    writer = SnapshotWriter(root, intents, "v")
    assert compact_all(root, intents) == []  # two thirds of the rows lie in one file: it is not rewritten for the third
    assert written_keys(root) == Counter(a=3)


def test_valid_rows_and_revisions_are_the_same_and_sorted_by_key_and_time(tmp_path: Path) -> None:
    for number in range(6):
        writer = SnapshotWriter(tmp_path, tmp_path / "i", "w")
        keys = ["b", "a"] if number % 2 else ["c", "a"]
        writer.add([entry(0, number, rows(keys, number // 2 * 60, revision=number % 2, count=number))])
        writer.write()
        writer.done()
        finish_recovery(tmp_path / "i")
    every, valid = (read_snapshots(tmp_path, "card_activity", 1, "tumbling_1m", keys) for keys in (None, ["card_id"]))
    compact_all(tmp_path)
    order = ["card_id", "window_end", "revision"]
    found = read_snapshots(tmp_path, "card_activity", 1, "tumbling_1m")
    polars.testing.assert_frame_equal(found, every.sort(order))
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    polars.testing.assert_frame_equal(read_snapshots(tmp_path, "card_activity", 1, "tumbling_1m", ["card_id"]), valid)
