"""Retention: what is old goes whole, what is counted stays counted, and the store says from when on all is there."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random

import pytest

from featurestore.batches import NO_TIME
from featurestore.offline import layout
from featurestore.offline.archive import read_ends
from featurestore.offline.compaction import compact, plan_source
from featurestore.offline.compaction_plan import CompactionLimits, plan_runs
from featurestore.offline.inventory import list_datasets
from featurestore.offline.pieces import Piece
from featurestore.offline.read import archive_counts, read_dead_letters, read_events, read_late, read_snapshots
from featurestore.offline.retention import (
    archive_begin,
    archive_complete_since,
    plan_archive_removal,
    plan_snapshot_removal,
    prune,
    snapshots_complete_since,
)
from featurestore.offline.snapshots import SnapshotWriter, finish_recovery
from tests.offline.logs import (
    GENERATION,
    SECOND,
    KilledError,
    Log,
    Message,
    archive_of,
    contents,
    draw_log,
    write_whole,
)
from tests.offline.test_compaction import SOURCE, compact_all, contents_of_datasets, killing, no_wait
from tests.offline.test_snapshots import TUMBLING, entry, rows

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
SOON = EPOCH + timedelta(days=365)


def prune_archive(root: Path, before: datetime, **options: object) -> None:
    prune(root, lambda: [plan_archive_removal(root, SOURCE, before)], **{"grace_s": 0.0, "wait": no_wait, **options})  # type: ignore[arg-type]


def rising_log(random: Random, partition: int, count: int) -> Log:
    """A drawn log whose times rise by some ten seconds a message, as those of a stream do."""
    log, messages, highest = draw_log(random, partition, count), [], NO_TIME
    for number, message in enumerate(log.messages):
        later = 12 * SECOND * number
        event = message.event_us + later
        messages.append(replace(message, event_us=event, arrival_us=message.arrival_us + later, before_us=highest))
        highest = max(highest, event) if message.verdict == "accepted" else highest
    return replace(log, messages=messages)


def some_time(root: Path, share: float = 0.5) -> datetime:
    """The event time before which so many of an archive's events lie."""
    found = read_events(root, SOURCE)["event_time"].quantile(share)
    assert isinstance(found, datetime)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_every_event_from_the_limit_on_stays_and_what_is_gone_is_older_than_the_marker(
    tmp_path: Path, seed: int
) -> None:
    write_whole(tmp_path, [rising_log(Random(seed), partition, 90) for partition in range(2)])
    if seed % 2:
        compact_all(tmp_path)
    before, counts = read_events(tmp_path, SOURCE), archive_counts(tmp_path, SOURCE)
    limit = some_time(tmp_path, 0.9)
    ends = read_ends(tmp_path, SOURCE, GENERATION)
    prune_archive(tmp_path, limit)
    left = read_events(tmp_path, SOURCE)
    since = archive_complete_since(tmp_path, SOURCE)
    assert since is not None
    assert since <= limit
    gone = before.join(left, on=["_partition", "_offset"], how="anti")
    assert 0 < gone.height < before.height
    assert gone["event_time"].max() < since
    # What was read stays counted, and a run resumes where it did.
    assert archive_counts(tmp_path, SOURCE) == counts
    assert read_ends(tmp_path, SOURCE, GENERATION) == ends


def test_late_events_and_dead_letters_of_a_segment_go_with_it(tmp_path: Path) -> None:
    write_whole(tmp_path, [rising_log(Random(3), 0, 90)])
    prune_archive(tmp_path, some_time(tmp_path))
    first = int(read_events(tmp_path, SOURCE)["_offset"].min())  # type: ignore[arg-type]
    start = next(start for start in sorted(starts(tmp_path)) if start <= first)
    for frame in (read_late(tmp_path, SOURCE), read_dead_letters(tmp_path, SOURCE)):
        assert frame["_offset"].min() >= start  # type: ignore[operator]


def starts(root: Path) -> list[int]:
    folder = layout.partition_dir(root, "events", SOURCE, GENERATION, 0)
    return [int(path.name[:20]) for path in folder.glob("*.parquet")]


def test_the_newest_segment_stays_whatever_its_age_and_a_run_goes_on_behind_it(tmp_path: Path) -> None:
    log = rising_log(Random(4), 0, 60)
    middle = log.messages[40].offset
    archive = archive_of(tmp_path)
    archive.append(log.batch(log.first, middle))
    archive.flush()
    prune_archive(tmp_path, SOON)
    assert len(starts(tmp_path)) == 1
    archive = archive_of(tmp_path)
    archive.append(log.batch(log.first, log.end))
    archive.flush()
    write_whole(tmp_path / "whole", [log])
    assert archive_counts(tmp_path, SOURCE) == archive_counts(tmp_path / "whole", SOURCE)
    whole = contents(tmp_path / "whole")
    assert all(whole[name] == content for name, content in contents(tmp_path).items() if name in whole)


def test_an_old_segment_behind_a_younger_one_stays(tmp_path: Path) -> None:
    # A file of old events, one that has a young one, an old one again, and the newest.
    events = [n * SECOND for n in range(64)]
    events[20] = 10_000 * SECOND
    messages = [Message(n, 0, 0, us, NO_TIME, "accepted") for n, us in enumerate(events)]
    write_whole(tmp_path, [Log(0, 0, 64, messages)])
    prune_archive(tmp_path, EPOCH + timedelta(seconds=5_000))
    assert sorted(starts(tmp_path)) == [16, 32, 48]
    assert archive_complete_since(tmp_path, SOURCE) == EPOCH + timedelta(seconds=15, microseconds=1)


def test_a_kill_at_each_point_keeps_every_count_and_the_next_call_finishes(tmp_path: Path) -> None:
    logs = [rising_log(Random(7), partition, 40) for partition in range(2)]
    write_whole(tmp_path / "whole", logs)
    limit, counts = some_time(tmp_path / "whole"), archive_counts(tmp_path / "whole", SOURCE)
    every = read_events(tmp_path / "whole", SOURCE)
    prune_archive(tmp_path / "whole", limit)
    left = read_events(tmp_path / "whole", SOURCE)
    crash_at, points = 0, Counter[str]()
    while sum(points.values()) == crash_at:
        root = tmp_path / str(crash_at)
        write_whole(root, logs)
        try:
            prune_archive(root, limit, crash_point=killing(crash_at, points))
        except KilledError:
            found = read_events(root, SOURCE)
            assert found.equals(every) or found.equals(left), "readers see all of it or what will be left"
            assert (archive_complete_since(root, SOURCE) is None) <= found.equals(every)
            assert archive_counts(root, SOURCE) == counts
            prune_archive(root, limit)
        assert archive_counts(root, SOURCE) == counts
        assert contents_of_datasets(root) == contents_of_datasets(tmp_path / "whole")
        crash_at += 1
    assert {"manifest_temporary_written", "manifest_renamed", "removed_one"} <= set(points)


def test_removing_twice_adds_up_and_the_marker_only_rises(tmp_path: Path) -> None:
    write_whole(tmp_path, [rising_log(Random(5), 0, 120)])
    counts, begin = archive_counts(tmp_path, SOURCE), archive_begin(tmp_path, SOURCE, GENERATION, 0)
    marks = []
    for share in (0.3, 0.6):
        prune_archive(tmp_path, some_time(tmp_path, share))
        marks.append(archive_complete_since(tmp_path, SOURCE))
    assert marks[0] < marks[1]  # type: ignore[operator]
    assert archive_counts(tmp_path, SOURCE) == counts
    assert archive_begin(tmp_path, SOURCE, GENERATION, 0) == begin


def test_an_archive_that_was_there_from_the_first_offset_is_complete_from_the_beginning(tmp_path: Path) -> None:
    messages = [Message(n, n * SECOND, 0, n * SECOND, NO_TIME, "accepted") for n in range(10, 20)]
    write_whole(tmp_path / "whole", [Log(0, 0, 20, messages)])
    assert archive_complete_since(tmp_path / "whole", SOURCE) is None
    # This one began inside the log: what came before its first message may be missing.
    write_whole(tmp_path / "later", [Log(0, 10, 20, messages)])
    assert archive_complete_since(tmp_path / "later", SOURCE) == EPOCH + timedelta(seconds=10)


def test_snapshots_go_by_window_end_and_the_store_says_so(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path, tmp_path / "i", "w")
    for number in range(4):
        writer.add([entry(0, number, rows(["a"], (number + 1) * 60 * SECOND))])
        writer.write()
        writer.done()
    finish = layout.snapshot_dir(tmp_path, TUMBLING)
    assert snapshots_complete_since(tmp_path, "card_activity", 1, "tumbling_1m") is None
    limit = EPOCH + timedelta(seconds=240)

    def plan(before: datetime = limit) -> list[object]:
        return [plan_snapshot_removal(tmp_path, finish, before, [tmp_path / "i"])]

    prune(tmp_path, plan, grace_s=0.0, wait=no_wait)  # type: ignore[arg-type]
    left = read_snapshots(tmp_path, "card_activity", 1, "tumbling_1m")
    assert left["window_end"].to_list() == [limit]
    assert snapshots_complete_since(tmp_path, "card_activity", 1, "tumbling_1m") == EPOCH + timedelta(
        seconds=180, microseconds=1
    )
    # The newest is still named by the writer's intent; without it, it goes too.
    prune(tmp_path, lambda: plan(SOON), grace_s=0.0, wait=no_wait)  # type: ignore[arg-type, return-value]
    assert read_snapshots(tmp_path, "card_activity", 1, "tumbling_1m").height == 1
    finish_recovery(tmp_path / "i")
    prune(tmp_path, lambda: plan(SOON), grace_s=0.0, wait=no_wait)  # type: ignore[arg-type, return-value]
    assert read_snapshots(tmp_path, "card_activity", 1, "tumbling_1m").is_empty()


# -- what compaction plans


def piece(number: int, size: int, *, days: float = 0.0, schema: str = "a") -> Piece:
    at = EPOCH + timedelta(days=days)
    return Piece({"f": (Path(str(number)),)}, size, size, size, at, at, schema, (number, number + 1))


def planned(sizes: list[int], **limits: int) -> list[list[int]]:
    runs = plan_runs([piece(n, size) for n, size in enumerate(sizes)], CompactionLimits(**{"rows": 100, **limits}))  # type: ignore[arg-type]
    return [[one.rows for one in run] for run in runs]


def test_neighbours_become_one_up_to_the_limit() -> None:
    assert planned([40, 40, 40, 40]) == [[40, 40], [40, 40]]
    assert planned([40, 40, 40], size_bytes=40) == []
    assert planned([40, 40, 40], plain_bytes=80) == [[40, 40]]


def test_a_large_file_is_not_rewritten_for_small_ones() -> None:
    assert planned([60, 1, 2, 3]) == [[1, 2, 3]]
    assert planned([60, 3]) == []
    assert planned([30, 20, 10]) == [[30, 20, 10]]


def test_a_run_covers_a_week_at_most_and_one_schema() -> None:
    weeks = [piece(n, 1, days=n * 3) for n in range(6)]
    assert [len(run) for run in plan_runs(weeks)] == [3, 3]
    assert plan_runs([piece(0, 1), piece(1, 1, schema="b")]) == []


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_rewritten_a_logarithm_of_times(seed: int) -> None:
    random, pieces, rewritten, total = Random(seed), [], 0, 0
    for _ in range(1_000):
        size = random.randint(1, 3)
        total += size
        pieces.append(Piece({}, size, size, size, EPOCH, EPOCH, "a"))
        for run in plan_runs(pieces, CompactionLimits(rows=1_000)):
            rewritten += (size := sum(one.rows for one in run))
            at = pieces.index(run[0])
            pieces[at : at + len(run)] = [Piece({}, size, size, size, EPOCH, EPOCH, "a")]
    assert rewritten / total < 12
    assert len(pieces) < 30


def test_the_list_says_what_compaction_would_leave(tmp_path: Path) -> None:
    write_whole(tmp_path, [draw_log(Random(6), 0, 90)])
    said = {dataset.dataset: dataset.files_compacted for dataset in list_datasets(tmp_path)}
    compact(tmp_path, lambda: plan_source(tmp_path, SOURCE, []), grace_s=0.0, wait=no_wait)
    assert {dataset.dataset: dataset.files for dataset in list_datasets(tmp_path)} == said
    assert said[f"events/{SOURCE}"] == 2
