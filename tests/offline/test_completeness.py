"""The completeness board: the marker is the least over all shards of this run, and never goes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from featurestore.batches import NO_TIME
from featurestore.errors import StoreFormatError
from featurestore.offline.completeness import CompletenessBoard, marker_path, read_marker_us, remove_marker

MINUTE = 60_000_000


def board(root: Path, process: int = 0, *, shards: int = 2, run_id: str = "r1", version: int = 1) -> CompletenessBoard:
    return CompletenessBoard(root / "offline", root / "board", run_id, process, shards, [("activity", version)])


def marker(root: Path, version: int = 1) -> int | None:
    return read_marker_us(root / "offline", "activity", version)


def test_the_marker_is_the_least_over_the_shards_of_all_processes(tmp_path: Path):
    first, second = board(tmp_path, 0), board(tmp_path, 1)
    first.publish({0: {"activity@1": 5 * MINUTE}})
    assert marker(tmp_path) is None, "shard 1 has not been heard of"
    second.publish({1: {"activity@1": 3 * MINUTE}})
    assert marker(tmp_path) == 3 * MINUTE
    second.publish({1: {"activity@1": 9 * MINUTE}})
    assert marker(tmp_path) == 5 * MINUTE


def test_a_shard_without_a_watermark_holds_it_back(tmp_path: Path):
    board(tmp_path).publish({0: {"activity@1": MINUTE}, 1: {"activity@1": NO_TIME}})
    assert marker(tmp_path) is None


def test_pages_of_an_earlier_run_do_not_count(tmp_path: Path):
    board(tmp_path, 1).publish({1: {"activity@1": 9 * MINUTE}})
    now = board(tmp_path, 0, run_id="r2")
    now.publish({0: {"activity@1": 5 * MINUTE}})
    assert marker(tmp_path) is None
    now.publish({0: {"activity@1": 5 * MINUTE}, 1: {"activity@1": 4 * MINUTE}})
    assert marker(tmp_path) == 4 * MINUTE


def test_it_never_goes_back(tmp_path: Path):
    board(tmp_path, shards=1).publish({0: {"activity@1": 5 * MINUTE}})
    board(tmp_path, shards=1, run_id="r2").publish({0: {"activity@1": 2 * MINUTE}})
    assert marker(tmp_path) == 5 * MINUTE


def test_a_new_version_has_a_marker_of_its_own(tmp_path: Path):
    board(tmp_path, shards=1).publish({0: {"activity@1": 5 * MINUTE}})
    board(tmp_path, shards=1, run_id="r2", version=2).publish({0: {"activity@2": 2 * MINUTE}})
    assert (marker(tmp_path, 1), marker(tmp_path, 2)) == (5 * MINUTE, 2 * MINUTE)
    remove_marker(tmp_path / "offline", "activity", 1)
    assert (marker(tmp_path, 1), marker(tmp_path, 2)) == (None, 2 * MINUTE)


def test_the_file_reads_without_code_of_ours(tmp_path: Path):
    board(tmp_path, shards=1).publish({0: {"activity@1": 1_767_225_600_000_000}})
    path = marker_path(tmp_path / "offline", "activity", 1)
    assert path.relative_to(tmp_path).as_posix() == "offline/features/activity/v1/_complete.json"
    document = json.loads(path.read_text())
    assert document["complete_until"] == "2026-01-01T00:00:00Z"
    assert (document["view"], document["version"]) == ("activity", 1)


def test_a_damaged_marker_is_named(tmp_path: Path):
    path = marker_path(tmp_path / "offline", "activity", 1)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(StoreFormatError, match=r"_complete\.json"):
        marker(tmp_path)
