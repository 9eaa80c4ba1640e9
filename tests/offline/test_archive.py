from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.batches import NO_TIME
from featurestore.errors import StoreFormatError, StoreFullError
from featurestore.offline import layout
from featurestore.offline.archive import ArchiveEnd, SourceArchive, read_ends
from featurestore.offline.read import archive_counts, read_dead_letters, read_events, read_late
from featurestore.offline.segments import SegmentLimits, cut_segments
from tests.offline.logs import (
    ACCEPTED,
    GENERATION,
    SECOND,
    KilledError,
    Log,
    Message,
    archive_of,
    contents,
    draw_log,
    write_disturbed,
    write_whole,
)

SOURCE = "transactions"


def accepted_log(count: int, *, size: int = 1, arrival_step_us: int = 0) -> Log:
    """`count` accepted messages at offsets 0, 1, …; event times rise by a second."""
    messages = [
        Message(n, n * arrival_step_us, size, n * SECOND, (n - 1) * SECOND if n else NO_TIME, "accepted")
        for n in range(count)
    ]
    return Log(0, 0, count, messages)


def starts(root: Path, kind: layout.Kind = "events", partition: int = 0) -> list[int]:
    folder = layout.partition_dir(root, kind, SOURCE, GENERATION, partition)
    return sorted(int(path.stem) for path in folder.glob("*.parquet"))


# -- where files begin
# -------------------------------------------------------------------------------------------


def test_a_file_begins_at_each_multiple_of_the_segment_size(tmp_path: Path) -> None:
    write_whole(tmp_path, [accepted_log(40, size=0)])
    assert starts(tmp_path) == [0, 16, 32]


def test_a_file_begins_when_the_one_before_has_passed_its_bytes(tmp_path: Path) -> None:
    # 60 bytes a segment: seven messages of nine bytes pass it.
    write_whole(tmp_path, [accepted_log(16, size=9)])
    assert starts(tmp_path) == [0, 7, 14]


def test_a_file_begins_with_the_first_message_of_a_later_arrival_bucket(tmp_path: Path) -> None:
    write_whole(tmp_path, [accepted_log(16, size=0, arrival_step_us=25 * SECOND)])
    #  arrival: 0 25 50 | 75 100 | 125 150 175 | …
    assert starts(tmp_path)[:3] == [0, 3, 5]


def test_an_arrival_time_that_steps_back_begins_no_file() -> None:
    limits = SegmentLimits(events=1000, value_bytes=1000, span_us=10)
    offsets, arrivals = np.arange(5), np.array([15, 5, 25, 5, 15])
    parts = cut_segments(limits, 0, 0, None, offsets, arrivals, np.zeros(5, dtype=np.int64))
    assert [(part.first, part.stop, part.first_arrival_us) for part in parts] == [(0, 2, 15), (2, 5, 25)]


@given(st.integers(0, 2**32), st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_cuts_are_those_of_the_rule_read_message_by_message(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    limits = SegmentLimits(events=16, value_bytes=60, span_us=60)
    offsets = np.cumsum(random.integers(1, 5, count))
    arrivals, sizes = random.integers(0, 300, count), random.integers(0, 30, count)

    start, size, arrived, expected = 0, 0, None, []
    for index in range(count):
        crosses = offsets[index] // 16 > start // 16
        if crosses or size >= 60 or (arrived is not None and arrivals[index] // 60 > arrived // 60):
            start, size, arrived = offsets[index], 0, None
            expected.append(index)
        arrived = arrivals[index] if arrived is None else arrived
        size += sizes[index]

    parts = cut_segments(limits, 0, 0, None, offsets, arrivals, sizes)
    assert [part.first for part in parts[1:]] == expected
    assert (parts[-1].value_bytes, parts[-1].first_arrival_us) == (size, arrived)


# -- replay, crashes, batches
# ------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.randoms(use_true_random=False), st.integers(1, 3), st.sampled_from([0.0, 0.02, 0.1]))
@settings(max_examples=30, deadline=None)
def test_any_batches_flushes_and_crashes_give_the_same_files(
    tmp_path_factory: pytest.TempPathFactory, random: Random, partitions: int, crash_probability: float
) -> None:
    logs = [draw_log(random, partition, random.randint(1, 70)) for partition in range(partitions)]
    whole, disturbed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("disturbed")
    write_whole(whole, logs)
    write_disturbed(disturbed, logs, random, crash_probability)
    assert contents(disturbed) == contents(whole)


@pytest.mark.slow
def test_hundreds_of_seeded_histories_with_crashes_give_the_same_files(tmp_path: Path) -> None:
    crashes = 0
    for seed in range(300):
        random = Random(seed)
        logs = [draw_log(random, partition, random.randint(1, 30)) for partition in range(random.randint(1, 2))]
        whole, disturbed = tmp_path / f"whole-{seed}", tmp_path / f"disturbed-{seed}"
        write_whole(whole, logs)
        crashes += write_disturbed(disturbed, logs, random, random.choice([0.05, 0.2]))
        assert contents(disturbed) == contents(whole), f"seed {seed}"
    assert crashes > 500


def test_a_crash_at_each_point_in_turn_gives_the_same_files(tmp_path: Path) -> None:
    logs = [draw_log(Random(7), partition, 20) for partition in range(2)]
    write_whole(tmp_path / "whole", logs)
    crash_at, crashed, points = 0, True, Counter[str]()
    while crashed:
        root, passed, crashed = tmp_path / f"crash-{crash_at}", 0, False

        def crash_point(point: str, crash_at: int = crash_at) -> None:
            nonlocal passed, crashed
            passed += 1
            if not crashed and passed > crash_at:
                crashed = True
                points[point] += 1
                raise KilledError(point)

        for _ in range(2):
            archive = archive_of(root, crash_point)
            try:
                for first in range(0, 200, 10):
                    for log in logs:
                        if first < log.end:
                            archive.append(log.batch(max(first, log.first), min(first + 10, log.end)))
                    archive.flush()
            except KilledError:
                continue
            break
        assert contents(root) == contents(tmp_path / "whole"), f"crash at point {crash_at}"
        crash_at += 1
    assert {"events_temporary_written", "events_renamed", "late_renamed", "dead_letter_renamed"} <= set(points)


def test_the_files_hold_every_message_once_and_the_counts_add_up(tmp_path: Path) -> None:
    random = Random(11)
    logs = [draw_log(random, partition, 60) for partition in range(3)]
    write_disturbed(tmp_path, logs, random, 0.05)
    verdicts = Counter(message.verdict for log in logs for message in log.messages)
    counts = archive_counts(tmp_path, SOURCE)
    assert (counts.accepted, counts.late) == (verdicts.pop("accepted"), verdicts.pop("late"))
    assert counts.duplicates == verdicts.pop("duplicate") > 0
    assert counts.dead_letters == dict(verdicts)
    assert counts.read == sum(len(log.messages) for log in logs)
    for read, kind in ((read_events, "accepted"), (read_late, "late")):
        found = list(read(tmp_path, SOURCE).select("_partition", "_offset").iter_rows())
        expected = [(log.partition, m.offset) for log in logs for m in log.messages if m.verdict == kind]
        assert found == expected
    assert len(read_dead_letters(tmp_path, SOURCE)) == sum(verdicts.values())


def test_late_events_past_the_end_that_a_crash_left_are_not_counted_and_go_at_the_next_start(
    tmp_path: Path,
) -> None:
    messages = [
        Message(0, 0, 1, 100 * SECOND, NO_TIME, "accepted"),
        Message(1, 0, 1, 3 * SECOND, 100 * SECOND, "late"),
        Message(2, 0, 1, 4 * SECOND, 100 * SECOND, "late"),
    ]
    log = Log(0, 0, 3, messages)
    archive = archive_of(tmp_path)
    archive.append(log.batch(0, 2))
    archive.flush()

    def crash_point(point: str) -> None:
        if point == "late_renamed":
            raise KilledError(point)

    archive = archive_of(tmp_path, crash_point)
    archive.append(log.batch(2, 3))
    with pytest.raises(KilledError):
        archive.flush()
    assert read_late(tmp_path, SOURCE)["_offset"].to_list() == [1, 2]
    assert archive_counts(tmp_path, SOURCE).late == 1

    archive = archive_of(tmp_path)
    archive.append(log.batch(0, 2))
    assert read_late(tmp_path, SOURCE)["_offset"].to_list() == [1]


def test_a_file_that_a_crash_left_half_written_goes_at_the_next_start(tmp_path: Path) -> None:
    log = accepted_log(6)
    archive = archive_of(tmp_path)
    archive.append(log.batch(0, 3))
    archive.flush()
    half = layout.temporary_path(tmp_path / next(iter(contents(tmp_path))))
    half.write_bytes(b"PAR1 half")
    archive_of(tmp_path).append(log.batch(3, 6))
    assert not half.exists()


def test_an_archive_that_begins_inside_the_log_knows_the_largest_event_time_at_a_cut(tmp_path: Path) -> None:
    # The largest event time, 90 s, is older than the archive; the cut at offset 16 falls into its first
    # batch.
    messages = [Message(n, 0, 0, n * SECOND, 90 * SECOND, "accepted") for n in range(10, 20)]
    log = Log(0, 10, 20, [Message(0, 0, 0, 90 * SECOND, NO_TIME, "accepted"), *messages])
    archive = archive_of(tmp_path)
    archive.append(log.batch(10, 20))
    archive.flush()
    folder = layout.partition_dir(tmp_path, "events", SOURCE, GENERATION, 0)
    (folder / layout.segment_name(16)).unlink()
    assert read_ends(tmp_path, SOURCE, GENERATION) == {0: ArchiveEnd(16, 90 * SECOND)}


# -- when things are written
# -------------------------------------------------------------------------------------


def test_a_complete_segment_is_written_at_once_and_an_open_one_after_the_interval(tmp_path: Path) -> None:
    log = accepted_log(20, size=0)
    archive = SourceArchive(tmp_path, SOURCE, GENERATION, segment_events=16, flush_interval_s=10)
    archive.append(log.batch(0, 20))
    archive.maybe_flush(100.0)
    assert read_ends(tmp_path, SOURCE, GENERATION) == {0: ArchiveEnd(16, 15 * SECOND)}
    archive.maybe_flush(109.9)
    assert starts(tmp_path) == [0]
    archive.maybe_flush(110.0)
    assert archive.durable_ends() == {0: ArchiveEnd(20, 19 * SECOND)}


def test_short_memory_writes_the_fullest_partition_before_its_time(tmp_path: Path) -> None:
    archive = SourceArchive(tmp_path, SOURCE, GENERATION, buffer_bytes_max=2_000)
    small = accepted_log(2)
    archive.append(Log(1, 0, 2, small.messages).batch(0, 2))
    archive.append(accepted_log(50).batch(0, 50))
    archive.maybe_flush(0.0)
    assert archive.durable_ends() == {0: ArchiveEnd(50, 49 * SECOND)}


def test_progress_over_a_gap_moves_the_end(tmp_path: Path) -> None:
    log = Log(0, 0, 30, accepted_log(3).messages)
    archive = archive_of(tmp_path)
    archive.append(log.batch(0, 3))
    archive.advance(log.batch(3, 30).progress)
    archive.flush()
    assert read_ends(tmp_path, SOURCE, GENERATION) == {0: ArchiveEnd(30, 2 * SECOND)}


def test_a_full_disk_is_named_and_the_same_rows_can_be_written_later(tmp_path: Path) -> None:
    log = accepted_log(5)
    archive = archive_of(tmp_path)
    archive.append(log.batch(0, 5))
    path = layout.partition_dir(tmp_path, "events", SOURCE, GENERATION, 0) / layout.segment_name(0)
    path.parent.mkdir(parents=True)
    layout.temporary_path(path).symlink_to("/dev/full")
    with pytest.raises(StoreFullError, match=str(path)):
        archive.flush()
    assert archive.durable_ends() == {}
    archive.flush()
    assert read_events(tmp_path, SOURCE)["_offset"].to_list() == [0, 1, 2, 3, 4]


def test_late_events_written_before_the_disk_was_full_are_not_written_twice(tmp_path: Path) -> None:
    late = [Message(n, 0, 1, n * SECOND, 90 * SECOND, "late") for n in range(1, 5)]
    log = Log(0, 0, 5, [Message(0, 0, 1, 90 * SECOND, NO_TIME, "accepted"), *late])
    archive = archive_of(tmp_path)
    archive.append(log.batch(0, 3))
    path = layout.partition_dir(tmp_path, "events", SOURCE, GENERATION, 0) / layout.segment_name(0)
    path.parent.mkdir(parents=True)
    layout.temporary_path(path).symlink_to("/dev/full")
    with pytest.raises(StoreFullError):
        archive.flush()
    archive.append(log.batch(3, 5))
    archive.flush()
    assert read_late(tmp_path, SOURCE)["_offset"].to_list() == [1, 2, 3, 4]


def test_a_damaged_newest_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    write_whole(tmp_path, [accepted_log(20, size=0)])
    newest = layout.partition_dir(tmp_path, "events", SOURCE, GENERATION, 0) / layout.segment_name(16)
    newest.write_bytes(newest.read_bytes()[:-20])
    with pytest.raises(StoreFormatError, match=newest.name) as caught:
        read_ends(tmp_path, SOURCE, GENERATION)
    assert "move it away" in str(caught.value)
    newest.unlink()
    assert read_ends(tmp_path, SOURCE, GENERATION) == {0: ArchiveEnd(16, 15 * SECOND)}


def test_a_new_column_closes_the_open_file_and_begins_another(tmp_path: Path) -> None:
    log = accepted_log(10)
    archive = archive_of(tmp_path)
    archive.append(log.batch(0, 4))
    archive.flush()
    archive = archive_of(tmp_path)
    archive.append(log.batch(2, 10, extra="device"))
    archive.flush()
    assert starts(tmp_path) == [0, 4]
    assert read_events(tmp_path, SOURCE)["device"].to_list() == [None] * 4 + list(range(4, 10))


# -- what readers of others see
# ----------------------------------------------------------------------------------


def test_plain_readers_get_the_archived_columns_and_no_others_by_a_glob(tmp_path: Path) -> None:
    write_whole(tmp_path, [accepted_log(20)])
    frame = pl.read_parquet(tmp_path / "events" / SOURCE / "**" / "*.parquet")
    assert list(frame.schema.items()) == [item for item in ACCEPTED.items() if item[0] != "_partition_watermark"]
    assert frame["_offset"].to_list() == list(range(20))
    table = pyarrow.dataset.dataset(tmp_path / "events" / SOURCE, partitioning="hive").to_table()
    assert (len(table), set(table["topic_generation"].to_pylist())) == (20, {GENERATION})


def test_files_are_zstd_with_statistics_on_offset_and_event_time(tmp_path: Path) -> None:
    write_whole(tmp_path, [accepted_log(10)])
    path = layout.partition_dir(tmp_path, "events", SOURCE, GENERATION, 0) / layout.segment_name(0)
    group = pq.read_metadata(path).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert (columns["_offset"].statistics.min, columns["_offset"].statistics.max) == (0, 9)
    assert columns["event_time"].statistics.has_min_max


def test_reading_a_store_without_files_gives_empty_frames_and_zero_counts(tmp_path: Path) -> None:
    assert read_events(tmp_path, SOURCE).is_empty()
    assert read_late(tmp_path, SOURCE).is_empty()
    assert read_dead_letters(tmp_path, SOURCE).is_empty()
    assert archive_counts(tmp_path, SOURCE).read == 0
    assert read_ends(tmp_path, SOURCE, GENERATION) == {}
