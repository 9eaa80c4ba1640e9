"""A verdict in which the clock spoke is kept on replay, whatever the clock says then."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import StoreFormatError, StoreFullError
from featurestore.sources.verdicts import VerdictJournal


def offsets(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def replayed(journal: VerdictJournal, *numbers: int) -> tuple[list[bool], list[bool]]:
    decided, future = journal.replayed(offsets(*numbers))
    return decided.tolist(), future.tolist()


@pytest.fixture(params=[True, False], ids=["fsync", "no fsync"])
def fsync(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_new_journal_knows_nothing(tmp_path: Path, fsync: bool) -> None:
    journal = VerdictJournal(tmp_path / "verdicts", "g", 0, 0, fsync=fsync)
    assert journal.replay_end == 0
    assert replayed(journal, 0, 1) == ([False, False], [False, False])
    journal.close()


def test_both_verdicts_survive_a_restart(tmp_path: Path, fsync: bool) -> None:
    first = VerdictJournal(tmp_path, "g", 0, 0, fsync=fsync)
    first.record(offsets(3, 5), 8)
    first.record(offsets(), 10)
    # No close: the process was killed.
    again = VerdictJournal(tmp_path, "g", 0, 2, fsync=fsync)
    assert again.replay_end == 10
    assert replayed(again, 2, 3, 4, 5, 9, 10) == (
        [True, True, True, True, True, False],
        [False, True, False, True, False, False],
    )
    first.close()
    again.close()


def test_a_verdict_of_this_life_is_not_asked_for(tmp_path: Path) -> None:
    journal = VerdictJournal(tmp_path, "g", 0, 0)
    journal.record(offsets(1), 3)
    assert journal.replay_end == 0
    journal.close()


def test_verdicts_below_the_resume_offset_are_dropped(tmp_path: Path) -> None:
    first = VerdictJournal(tmp_path, "g", 0, 0)
    first.record(offsets(*range(0, 1000, 2)), 1000)
    first.close()
    VerdictJournal(tmp_path, "g", 0, 990).close()
    assert (tmp_path / "g-0.future").stat().st_size == 5 * 12
    again = VerdictJournal(tmp_path, "g", 0, 990)
    assert replayed(again, 990, 991, 998) == ([True, True, True], [True, False, True])
    again.close()


def test_replaying_a_verdict_writes_it_once(tmp_path: Path) -> None:
    for _ in range(3):
        journal = VerdictJournal(tmp_path, "g", 0, 0)
        journal.record(offsets(4, 6), 8)
        journal.close()
    assert (tmp_path / "g-0.future").stat().st_size == 2 * 12


def test_an_entry_torn_by_a_crash_is_cut_off_and_later_ones_are_read(tmp_path: Path) -> None:
    first = VerdictJournal(tmp_path, "g", 0, 0)
    first.record(offsets(3), 4)
    first.close()
    with (tmp_path / "g-0.future").open("ab") as file:
        file.write(b"\x07\x00\x00")
    second = VerdictJournal(tmp_path, "g", 0, 0)
    second.record(offsets(7), 8)
    second.close()
    third = VerdictJournal(tmp_path, "g", 0, 0)
    assert replayed(third, 3, 7)[1] == [True, True]
    third.close()


@pytest.mark.parametrize("name", ["g-0.future", "g-0.judged"])
def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path, name: str) -> None:
    first = VerdictJournal(tmp_path, "g", 0, 0)
    first.record(offsets(0, 3, 900), 1000)
    first.close()
    path = tmp_path / name
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(StoreFormatError, match=f"{name} is damaged") as caught:
            VerdictJournal(tmp_path, "g", 0, 0)
        assert "featurestore rebuild" in str(caught.value.hint)


def test_zeros_that_a_power_cut_left_at_the_end_are_cut_off(tmp_path: Path) -> None:
    first = VerdictJournal(tmp_path, "g", 0, 0)
    first.record(offsets(0, 3), 8)
    first.close()
    for name in ("g-0.future", "g-0.judged"):
        with (tmp_path / name).open("ab") as file:
            file.write(bytes(20))
    again = VerdictJournal(tmp_path, "g", 0, 0)
    assert again.replay_end == 8
    assert replayed(again, 0, 3, 4)[1] == [True, True, False]
    again.close()


def test_a_lost_mark_keeps_the_future_verdicts(tmp_path: Path) -> None:
    # The mark is left to the operating system: a power cut may take it, while what was synced stays.
    first = VerdictJournal(tmp_path, "g", 0, 0)
    first.record(offsets(3), 9)
    first.close()
    (tmp_path / "g-0.judged").write_bytes(b"")
    again = VerdictJournal(tmp_path, "g", 0, 0)
    assert again.replay_end == 4
    assert replayed(again, 2, 3, 4) == ([False, True, False], [False, True, False])
    again.close()


def test_the_mark_does_not_go_back_when_older_offsets_are_replayed(tmp_path: Path) -> None:
    first = VerdictJournal(tmp_path, "g", 0, 0)
    first.record(offsets(), 100)
    first.close()
    second = VerdictJournal(tmp_path, "g", 0, 10)
    second.record(offsets(), 20)
    second.close()
    third = VerdictJournal(tmp_path, "g", 0, 10)
    assert third.replay_end == 100
    third.close()


def test_generations_and_partitions_do_not_share_verdicts(tmp_path: Path) -> None:
    first = VerdictJournal(tmp_path, "g", 0, 0)
    first.record(offsets(3), 9)
    first.close()
    for generation, partition in (("h", 0), ("g", 1)):
        other = VerdictJournal(tmp_path, generation, partition, 0)
        assert other.replay_end == 0
        other.close()


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = VerdictJournal(tmp_path, "g", 0, 0)

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreFullError):
        journal.record(offsets(3), 9)
    monkeypatch.undo()
    journal.close()
