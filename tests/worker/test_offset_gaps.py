"""What is remembered of offsets that were left out: each once, however often a gap is found."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.batches import NO_TIME
from featurestore.errors import OffsetGapError, StoreFormatError
from featurestore.shard.protocol import Fence
from featurestore.sources.topics import TopicInfo
from featurestore.worker.offset_gaps import OffsetGap, note_offset_gaps, read_offset_gaps, united
from featurestore.worker.prepare import behind_gaps
from featurestore.worker.resume import newest_before
from tests.sources.support import source


def test_a_gap_that_is_found_again_and_has_grown_is_one(tmp_path: Path) -> None:
    (tmp_path / "online" / "clicks").mkdir(parents=True)
    assert read_offset_gaps(tmp_path, "clicks") == {}
    note_offset_gaps(tmp_path, "clicks", {"g/0": (10, 20), "g/1": (5, 6)})
    note_offset_gaps(tmp_path, "clicks", {"g/0": (10, 30)})
    note_offset_gaps(tmp_path, "clicks", {"g/0": (50, 60)})
    found = read_offset_gaps(tmp_path, "clicks")
    assert [(gap.first, gap.end, gap.lost) for gap in found["g/0"]] == [(10, 30, 20), (50, 60, 10)]
    assert [(gap.first, gap.end) for gap in found["g/1"]] == [(5, 6)]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=8))
def test_every_lost_offset_counts_once(spans: list[tuple[int, int]]) -> None:
    gaps = united(OffsetGap(first, first + length, "2026-01-01T00:00:00Z") for first, length in spans)
    lost = {offset for first, length in spans for offset in range(first, first + length)}
    assert sum(gap.lost for gap in gaps) == len(lost)
    assert {offset for gap in gaps for offset in range(gap.first, gap.end)} == lost
    assert all(before.end < after.first for before, after in itertools.pairwise(gaps))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "online" / "clicks"
    folder.mkdir(parents=True)
    (folder / "offset_gaps.json").write_text("{")
    with pytest.raises(StoreFormatError, match=r"offset_gaps\.json"):
        read_offset_gaps(tmp_path, "clicks")


TOPIC = TopicInfo("g", {0: (200, 400)})


def behind(
    resume: int, archive_end: int | None, gaps: list[tuple[int, int]], *, accept: bool = False
) -> dict[int, int]:
    """`behind_gaps` of a partition of which the broker keeps offsets 200 to 399."""
    ends = {} if archive_end is None else {0: Fence(archive_end)}
    known = {"g/0": [OffsetGap(first, end, "2026-01-01T00:00:00Z") for first, end in gaps]}
    return behind_gaps(source(), TOPIC, {0: Fence(resume)}, ends, known, accept_gap=accept)


def test_a_gap_is_refused_accepted_or_mended_from_the_archive() -> None:
    assert behind(200, 300, []) == {}
    with pytest.raises(OffsetGapError, match="offsets 100 to 199 are still needed") as stopped:
        behind(100, 150, [])
    assert stopped.value.hint is not None
    assert "--accept-gap" in stopped.value.hint
    assert behind(100, 150, [], accept=True) == {0: 200}
    # What the archive has, it is asked for, whatever is accepted.
    for accept in (False, True):
        with pytest.raises(OffsetGapError, match="the archive has them"):
            behind(100, 250, [], accept=accept)


def test_a_gap_that_the_archive_has_left_behind_and_a_shard_has_not_is_still_the_accepted_one() -> None:
    # Killed after the archive's file, before the shard's commit: nobody has what lies in the gap.
    assert behind(100, 250, [(100, 200)]) == {0: 200}
    assert behind(120, None, [(100, 200)]) == {0: 200}
    with pytest.raises(OffsetGapError):
        behind(99, None, [(100, 200)])
    with pytest.raises(OffsetGapError):
        behind(100, None, [(100, 199)])


def test_the_largest_event_time_known_before_a_gaps_end_goes_on() -> None:
    assert newest_before(100, [Fence(10, 5), Fence(80, 9), Fence(100, 11), Fence(101, 99)]) == 11
    assert newest_before(100, [Fence(10), Fence(200, 7)]) == NO_TIME
