"""The simulator finds defects that are put in on purpose: each of these must make some short history fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from featurestore.batches import NO_TIME
from featurestore.shard.protocol import Fence
from featurestore.worker.resume import archive_starts
from tests.simulation import simulator
from tests.simulation.histories import drawn_history

HISTORIES = 150


def applied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.shard.processor.above_fence", lambda frame, *_: frame)


def resumed_at_the_furthest_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    def furthest(
        fences: Mapping[int, Sequence[Fence]], ends: Mapping[int, Fence], starts: Mapping[int, Fence]
    ) -> dict[int, Fence]:
        return {
            partition: max([*candidates, ends.get(partition, starts[partition])], key=lambda fence: fence.next_offset)
            for partition, candidates in fences.items()
        }

    monkeypatch.setattr(simulator, "resume_points", furthest)


def resumed_without_the_largest_event_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(_offline: Path, _source: str, _generation: str, resume: Mapping[int, Fence]) -> dict[int, Fence]:
        return {partition: Fence(fence.next_offset, NO_TIME) for partition, fence in resume.items()}

    monkeypatch.setattr(simulator, "with_archived_times", forgetful)


def archive_begun_at_the_shards_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator, "archive_starts", lambda stored, *rest: archive_starts({}, *rest))


def finished_snapshots_emitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator, "recover", lambda *_: {})


@pytest.mark.parametrize(
    "defect",
    [
        applied_again,
        resumed_at_the_furthest_fence,
        resumed_without_the_largest_event_time,
        archive_begun_at_the_shards_fences,
        finished_snapshots_emitted_again,
    ],
    ids=lambda defect: defect.__name__,
)
def test_it_is_found(defect: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    defect(monkeypatch)
    for seed in range(HISTORIES):
        try:
            drawn_history(seed, tmp_path / str(seed))
        except AssertionError:
            return
    pytest.fail(f"{HISTORIES} histories passed")
