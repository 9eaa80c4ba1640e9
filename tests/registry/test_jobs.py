"""Jobs: what is recorded, how the dead are told from the living, and that a registry's trouble is not theirs."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from featurestore.definitions.resolve import ResolvedDefinitions
from featurestore.definitions.specs import EntitySpec, FeatureSpec, JoinKeySpec, SourceSpec, ViewSpec, WindowSpec
from featurestore.errors import RegistryError, StoreFullError
from featurestore.registry import Registry, jobs
from featurestore.registry.jobs import ABANDONED_AFTER, Jobs, OffsetRange, definitions_hash
from featurestore.registry.tables import JOBS

ROOT = Path(__file__).resolve().parents[2]
HOUR_US = 3_600_000_000
CARD = EntitySpec(name="card", join_keys=(JoinKeySpec(name="card_id", dtype="String"),))
SOURCE = SourceSpec(
    name="payments",
    topic="payments",
    schema="payments.avsc",
    format="json",
    event_time="ts",
    max_out_of_orderness_us=0,
    allowed_lateness_us=0,
    idle_timeout_us=1,
    max_future_us=1,
    columns=(),
)
COUNT = FeatureSpec(
    name="n", function="count", window=WindowSpec(kind="sliding", size_us=HOUR_US), output_dtype="Int64"
)
VIEW = ViewSpec(name="activity", source="payments", entities=(CARD,), features=(COUNT,))


def apply(registry: Registry) -> None:
    registry.apply(registry.plan(ResolvedDefinitions({"payments": SOURCE}, {"activity": VIEW})), revision="f00")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    opened = Registry.open(path)
    yield opened
    opened.close()


def wait_until(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.01)


# What is recorded


def test_a_job_is_running_until_it_ends_and_then_says_how(registry: Registry):
    offsets = (OffsetRange("payments", "g1", 0, 5, 9), OffsetRange("payments", "g1", 1, 0))
    before = datetime.now(timezone.utc)
    kept = Jobs(registry.database, heartbeat_s=0.01)
    with kept.record("run", "activity@1", definitions_hash="abc", git_revision="f00") as job:
        wait_until(kept.find)
        assert (kept.get(job.id).outcome, kept.get(job.id).ended_at) == ("running", None)
        job.rows, job.offsets = 4, offsets
        wait_until(lambda: kept.get(job.id).rows == 4)
    (found,) = kept.find()
    assert (found.kind, found.subject, found.outcome, found.rows) == ("run", "activity@1", "succeeded", 4)
    assert (found.definitions_hash, found.git_revision, found.error) == ("abc", "f00", None)
    assert (found.pid, found.offsets) == (os.getpid(), offsets)
    assert found.by
    assert found.host
    assert found.ended_at is not None
    assert before <= found.started_at <= found.ended_at <= datetime.now(timezone.utc)


def test_the_heartbeat_goes_on_while_the_job_does(registry: Registry):
    kept = Jobs(registry.database, heartbeat_s=0.01)
    with kept.record("run", "activity@1"):
        wait_until(kept.find)
        first = kept.find()[0].heartbeat_at
        wait_until(lambda: kept.find()[0].heartbeat_at > first)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StoreFullError("the disk is full", hint="make room"), "the disk is full\nHint: make room"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_a_job_that_raises_has_failed_and_its_error_goes_on(registry: Registry, error: BaseException, told: str):
    with pytest.raises(type(error)), Jobs(registry.database).record("materialize", "limits@1"):
        raise error
    (found,) = Jobs(registry.database).find()
    assert (found.outcome, found.error) == ("failed", told)


def test_a_job_may_say_that_it_was_stopped(registry: Registry):
    with Jobs(registry.database).record("backfill", "activity@1") as job:
        job.fail("stopped by a signal")
    (found,) = Jobs(registry.database).find()
    assert (found.outcome, found.error) == ("failed", "stopped by a signal")


def test_a_promotion_is_recorded_with_the_hash_of_its_version(registry: Registry):
    apply(registry)
    Jobs(registry.database).record_version("promote", "activity", 1)
    (found,) = Jobs(registry.database).find()
    assert (found.kind, found.subject, found.outcome) == ("promote", "activity@1", "succeeded")
    assert (found.definitions_hash, found.git_revision) == (definitions_hash([VIEW]), "f00")


def test_the_hash_of_definitions_is_of_what_they_say_in_any_order():
    assert definitions_hash([CARD, SOURCE]) == definitions_hash([SOURCE, CARD])
    assert definitions_hash([CARD]) != definitions_hash([SOURCE])


# The dead


def test_a_job_whose_process_was_killed_is_abandoned(registry: Registry, path: Path):
    program = (
        "import sys, time\nfrom featurestore.registry import Registry\nfrom featurestore.registry.jobs import Jobs\n"
        "with Jobs(Registry.open(sys.argv[1]).database).record('run', 'activity@1'):\n    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], env=environment)
    try:
        kept = Jobs(registry.database)
        wait_until(kept.find)
        assert kept.find()[0].outcome == "running"
        process.send_signal(signal.SIGKILL)
        # As a zombie, too: whoever started it may be slow to notice.
        wait_until(lambda: kept.find()[0].outcome == "abandoned")
        process.wait()
        (found,) = kept.find(failed=True)
        assert (found.outcome, found.ended_at, found.pid) == ("abandoned", None, process.pid)
    finally:
        process.kill()
        process.wait()


def test_a_job_of_another_host_is_abandoned_when_its_heartbeat_is_old(registry: Registry):
    kept = Jobs(registry.database)
    with kept.record("run", "activity@1") as job:
        wait_until(kept.find)
        # A pid that is nobody's here says nothing about another host.
        elsewhere = update(JOBS).values(host="elsewhere", pid=2**22 + 1)
        with registry.database.transaction(write=True) as connection:
            connection.execute(elsewhere)
        beat = kept.get(job.id).heartbeat_at
        for age, outcome in ((ABANDONED_AFTER, "running"), (ABANDONED_AFTER + timedelta(seconds=1), "abandoned")):
            assert [found.outcome for found in kept.find(now=beat + age)] == [outcome]
    assert kept.find(now=beat + timedelta(days=9))[0].outcome == "succeeded"


# Trouble with the registry


def test_a_registry_that_can_not_be_written_is_told_once_and_tried_again(registry: Registry, path: Path):
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE jobs RENAME TO away")
    kept = Jobs(registry.database, heartbeat_s=0.01)
    with capture_logs() as logged:
        with kept.record("run", "activity@1"):
            wait_until(lambda: logged)
            time.sleep(0.1)  # more heartbeats
        assert [entry["event"] for entry in logged] == ["job_not_recorded"]
        with kept.record("run", "activity@1"):
            wait_until(lambda: len(logged) == 2)
            with sqlite3.connect(path) as connection:
                connection.execute("ALTER TABLE away RENAME TO jobs")
            wait_until(kept.find)
    assert [job.outcome for job in kept.find()] == ["succeeded"]


def test_a_registry_that_does_not_answer_holds_nobody_up(
    registry: Registry, path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "LAST_WRITE_S", 0.2)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with capture_logs() as logged:
            began = time.monotonic()
            with Jobs(registry.database).record("run", "activity@1"):
                started_s = time.monotonic() - began
        assert started_s < 0.2
        assert time.monotonic() - began < 2
        assert [entry["event"] for entry in logged] == ["job_not_recorded"]
    finally:
        other.execute("ROLLBACK")
        other.close()
    wait_until(lambda: Jobs(registry.database).find())  # its thread gets its turn in the end


def test_a_promotion_stands_when_it_can_not_be_recorded(registry: Registry, path: Path):
    apply(registry)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE jobs")
    with capture_logs() as logged:
        Jobs(registry.database).record_version("promote", "activity", 1)
    assert [entry["event"] for entry in logged] == ["job_not_recorded"]


# Looking for jobs


@pytest.fixture
def several(registry: Registry) -> Jobs:
    kept = Jobs(registry.database)
    with kept.record("run", "card_activity@1, limits@3"):
        pass
    with kept.record("run", "card_activity@2") as job:
        job.fail("no")
    with kept.record("materialize", "limits@3"):
        pass
    with kept.record("materialize", "card%@1"):
        pass
    return kept


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["card%@1", "limits@3", "card_activity@2", "card_activity@1, limits@3"]),
        ({"limit": 2}, ["card%@1", "limits@3"]),
        ({"kind": "run"}, ["card_activity@2", "card_activity@1, limits@3"]),
        ({"view": "card_activity"}, ["card_activity@2", "card_activity@1, limits@3"]),
        ({"view": "limits", "limit": 1}, ["limits@3"]),
        ({"view": "card_activity@1"}, ["card_activity@1, limits@3"]),
        ({"view": "card"}, []),
        ({"view": "card%"}, ["card%@1"]),
        ({"failed": True}, ["card_activity@2"]),
        ({"failed": True, "kind": "materialize"}, []),
    ],
)
def test_jobs_are_found_newest_first(several: Jobs, filters: dict[str, Any], found: list[str]):
    assert [job.subject for job in several.find(**filters)] == found


def test_a_job_is_found_by_the_beginning_of_its_id(several: Jobs):
    job = several.find(limit=1)[0]
    assert several.get(job.id[:10]) == job
    with pytest.raises(RegistryError, match="several jobs"):
        several.get("")
    with pytest.raises(RegistryError, match="no job"):
        several.get("_")
