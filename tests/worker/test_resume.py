"""Where partitions are read on, as pure decisions."""

from __future__ import annotations

from featurestore.batches import NO_TIME
from featurestore.shard.protocol import Fence, ViewState, fence_key
from featurestore.worker.resume import archive_starts, first_fences, resume_points

PARTITIONS = {0: (3, 100), 1: (5, 200)}
LATEST = {0: Fence(100), 1: Fence(200)}


def state(**fences: Fence) -> ViewState:
    """Fences by partition, as keyword p0=…"""
    return ViewState({fence_key("g", int(name[1:])): fence for name, fence in fences.items()})


def test_a_new_view_begins_where_it_says():
    assert first_fences("g", [ViewState(), ViewState()], LATEST, PARTITIONS) == LATEST


def test_a_start_that_died_half_way_has_decided_for_all_shards():
    written = state(p0=Fence(90), p1=Fence(190))
    assert first_fences("g", [written, ViewState()], LATEST, PARTITIONS) == {0: Fence(90), 1: Fence(190)}


def test_an_added_partition_is_read_from_its_beginning():
    known = state(p0=Fence(90, 7))
    assert first_fences("g", [known, known], LATEST, PARTITIONS)[1] == Fence(5)


def test_a_topic_made_again_begins_anew():
    old = ViewState({fence_key("before", 0): Fence(90)})
    assert first_fences("g", [old], LATEST, PARTITIONS) == LATEST


def test_the_archive_begins_where_the_first_start_said():
    fences = {0: [Fence(9), Fence(4)], 1: [Fence(7)]}
    assert archive_starts({fence_key("g", 0): Fence(2)}, "g", fences) == {0: Fence(2), 1: Fence(7)}


def test_reading_goes_on_at_the_least_fence_and_the_pair_that_knows_a_time_wins():
    fences = {0: [Fence(9, 50), Fence(4, 30)], 1: [Fence(7, NO_TIME), Fence(7, 60)]}
    ends = {0: Fence(6, 40)}
    starts = {0: Fence(0), 1: Fence(8)}
    assert resume_points(fences, ends, starts) == {0: Fence(4, 30), 1: Fence(7, 60)}
