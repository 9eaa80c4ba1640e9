"""`featurestore watermark show | reset` around real runs in which one wrong event drags a watermark forward."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import polars as pl
import pytest

from featurestore.durations import parse_instant_us
from featurestore.errors import StoreError
from featurestore.offline import read_snapshots
from featurestore.offline.completeness import read_marker_us
from featurestore.online.source_store import lock_source
from featurestore.registry import Registry
from featurestore.sources.embedded import EmbeddedBroker
from featurestore.worker.watermark import read_view_states, reset_watermark
from tests.conftest import TopicAt
from tests.integration.project import Project, same_frame
from tests.integration.road import send_to
from tests.integration.test_road import other_data_dir

SOURCE, VIEW = "transactions", "merchant_activity"
KEYS = {"merchant_activity": ["merchant_id"], "card_activity": ["card_id"]}
HOUR_MS = 3_600_000
FIRST_MS = int(datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp() * 1000)
WRONG_MS = FIRST_MS + 240 * HOUR_MS


def payment(number: int, ts_ms: int, partition: int) -> tuple[int, bytes | None, bytes]:
    event = {
        "transaction_id": f"t{number}",
        "card_id": f"c{number % 7}",
        "merchant_id": f"m{number % 3}",
        "amount": 1.0 + number % 5,
        "currency": "EUR",
        "fx_rate": 1.0,
        "status": "approved",
        "ts": ts_ms,
    }
    return partition, None, json.dumps(event).encode()


EARLY = [payment(number, FIRST_MS + number * 36_000, 0) for number in range(101)]
WRONG = payment(1_000, WRONG_MS, 0)
# From 02:30 to 08:30 in the other partitions: all of it behind the wrong watermark, most of it after TO.
REST = [payment(2_000 + n, FIRST_MS + HOUR_MS * 5 // 2 + n * 21_600, 1 + n % 3) for n in range(1_000)]


@dataclass
class Case:
    project: Project
    topic: TopicAt
    other: Project


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """Partition 0 alone was read, with the wrong event at its end. `other` has read nothing yet."""
    with EmbeddedBroker(tmp_path / "data") as broker:
        assert broker.address is not None
        topic = TopicAt("embedded", "embedded", broker.address.bootstrap_servers, "t", 4)
        project = Project.create(tmp_path, "embedded", "t")
        other = Project.create(tmp_path / "other", "embedded", "t", data_dir=other_data_dir(topic, tmp_path))
        send_to(topic, [*EARLY, WRONG])
        project.run_until_end()
        yield Case(project, topic, other)


def show(project: Project, view: str = VIEW) -> dict[str, object]:
    done = project.call("watermark", "show", view, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def reset(project: Project, to: str, *options: str, view: str = VIEW, reason: str = "a wrong clock") -> str:
    """What a reset that must be refused says."""
    done = project.call("watermark", "reset", view, "--to", to, "--reason", reason, *(options or ("--yes",)))
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    return done.stderr


def rows_after(project: Project, to_us: int) -> dict[str, pl.DataFrame]:
    """The valid rows of windows that end after an instant; none is there twice and revisions have no gaps."""
    view = project.views()[VIEW]
    found = {}
    for dataset in view.datasets:
        every = read_snapshots(project.data_dir / "offline", VIEW, view.version, dataset.name)
        keys = KEYS[VIEW]
        assert not every.select(*keys, "window_end", "revision").is_duplicated().any(), "a revision twice"
        chain = every.group_by(*keys, "window_end").agg(pl.col("revision").sort())
        assert chain.select((pl.col("revision").list.last() + 1 == pl.col("revision").list.len()).all()).item()
        rows = read_snapshots(project.data_dir / "offline", VIEW, view.version, dataset.name, keys)
        rows = rows.filter(pl.col("window_end").dt.epoch("us") > to_us).drop("revision", "created_timestamp")
        found[dataset.name] = rows.sort("window_end", *keys)
    return found


@pytest.mark.timeout(180)
def test_after_a_reset_windows_are_those_of_a_run_whose_watermark_never_ran_ahead(case: Case):
    project = case.project
    before = show(project)
    assert before["watermark"] == "2026-01-10T23:59:55Z"
    assert (before["held_back_by"], before["ahead"], before["resets"]) == (0, None, [])
    # Partition 0 is all there is: its largest event time is the log's.
    assert "can't be taken back" in reset(project, "2026-01-01T03:00:00Z")

    # The others begin: without a reset their windows are final already.
    send_to(case.topic, REST[:100])
    project.run_until_end()
    after = show(project)
    assert after["watermark"] == before["watermark"]
    assert after["held_back_by"] in (1, 2, 3)
    assert after["ahead"]
    assert read_marker_us(project.data_dir / "offline", VIEW, 1) is not None
    newest_ms = json.loads(REST[99][2])["ts"]
    # These have gone behind the line already; only what comes after them and their windows can be mended.
    assert "take it back to 2026-01-01T04:" in (told := reset(project, "2026-01-01T03:30:00Z")), told
    to = "2026-01-01T04:30:00Z"
    assert (newest_ms - FIRST_MS) / HOUR_MS + 1 + 1 / 60 < 4.5, "an hour and its tile is the reach of the view"
    done = project.call("watermark", "reset", VIEW, "--to", to, "--reason", " a wrong clock ", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"view": VIEW, "version": 1, "from": before["watermark"], "to": to}
    told_by = show(project)
    assert told_by["watermark"] == told_by["correction_line"] == to
    (entry,) = told_by["resets"]  # type: ignore[misc, attr-defined]
    assert (entry["before"], entry["to"], entry["reason"]) == (before["watermark"], to, "a wrong clock")
    assert entry["by"]
    assert "a wrong clock" in project.call("watermark", "show").stdout
    assert read_marker_us(project.data_dir / "offline", VIEW, 1) is None

    send_to(case.topic, REST[100:])
    project.run_until_end()
    case.other.run_until_end()
    got, expected = rows_after(project, parse_instant_us(to)), rows_after(case.other, parse_instant_us(to))
    assert got.keys() == expected.keys() == {"hopping_10m_1m", "sliding"}
    for dataset, rows in expected.items():
        assert rows.height > 100
        same_frame(got[dataset], rows)
    marker_us = read_marker_us(project.data_dir / "offline", VIEW, 1)
    assert marker_us is not None
    assert parse_instant_us(to) < marker_us < parse_instant_us("2026-01-01T09:00:00Z")
    # The other view was not reset: it has none of these windows, which is what the remedy is for.
    lost = read_snapshots(project.data_dir / "offline", "card_activity", 1, "tumbling_1m", ["card_id"])
    late = lost.filter(pl.col("window_end").dt.epoch("us") > parse_instant_us(to))
    assert late.filter(pl.col("window_end").dt.epoch("us") < WRONG_MS * 1000).is_empty()


@pytest.mark.timeout(120)
def test_what_can_not_be_taken_back_is_refused_with_the_numbers(case: Case):
    project = case.project
    send_to(case.topic, REST[:100])
    project.run_until_end()
    states = read_view_states(project.data_dir, project.views()[VIEW])
    to = "2026-01-01T06:00:00Z"
    # What the partitions have together: the newest of the slowest, less 5 s.
    assert "would be there again" in (told := reset(project, "2026-01-01T00:30:00Z")), told
    assert "2026-01-01T03:0" in told
    assert "is at 2026-01-10T23:59:55Z" in reset(project, "2026-01-11T00:00:00Z")
    # A day's windows reach further than an hour's.
    assert "2026-01-02T0" in reset(project, to, view="card_activity")
    assert "--reason is empty" in reset(project, to, reason="  ")
    assert "say --yes" in reset(project, to, "--json")
    assert "has no zone" in reset(project, "2026-01-01T06:00:00")
    assert "did you mean merchant_activity" in reset(project, to, view="merchant_activty")
    lock = lock_source(project.data_dir, SOURCE)
    try:
        assert "is being run by process" in reset(project, to)
    finally:
        lock.release()
    assert project.call("watermark", "reset", VIEW, "--to", to, "--yes").returncode == 2
    assert read_view_states(project.data_dir, project.views()[VIEW]) == states
    assert show(project)["resets"] == []
    # An event that is not in the archive yet could lie anywhere.
    for path in (project.data_dir / "offline" / "events" / SOURCE).rglob("topic_partition=1/*.parquet"):
        path.unlink()
    assert "the last worker was killed" in reset(project, to)


class KilledError(Exception):
    pass


@pytest.mark.timeout(120)
def test_a_reset_that_was_killed_is_finished_by_the_next(case: Case):
    project = case.project
    send_to(case.topic, REST[:3])
    project.run_until_end()
    registry = Registry.open(project.data_dir / "registry" / "registry.db", create=False)
    view, source = registry.view(VIEW), registry.source(SOURCE)
    to_us = parse_instant_us("2026-01-01T04:00:00Z")
    points: list[str] = []

    def kill(point: str) -> None:
        points.append(point)
        if len(points) == 4:
            raise KilledError

    with pytest.raises(KilledError):
        reset_watermark(project.data_dir, registry, view, source, to_us, "first", crash_point=kill)
    compiled = project.views()[VIEW]
    assert (
        sorted(state.watermark_us == to_us for state in read_view_states(project.data_dir, compiled)).count(True) == 3
    )
    fences = [state.fences for state in read_view_states(project.data_dir, compiled)]
    reset_watermark(project.data_dir, registry, view, source, to_us, "second")
    states: Sequence[object] = read_view_states(project.data_dir, compiled)
    assert {(state.watermark_us, state.line_us) for state in states} == {(to_us, to_us)}  # type: ignore[attr-defined]
    assert [state.fences for state in states] == fences  # type: ignore[attr-defined]
    assert [reset_.reason for reset_ in registry.watermark_resets(VIEW)] == ["first", "second"]
    with pytest.raises(StoreError, match="it is at"):
        reset_watermark(project.data_dir, registry, view, source, to_us, "third")
    assert len(registry.watermark_resets(VIEW)) == 2
    registry.close()
