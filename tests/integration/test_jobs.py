"""Real runs, backfills and their records: what was read, how it ended, and who was killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.sources.embedded import EmbeddedBroker, embedded_address
from featurestore.sources.produce import produce
from tests.integration.project import Project

EVENTS = 2_000


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    created = Project.create(tmp_path / "project", "embedded", "transactions")
    with EmbeddedBroker(created.data_dir):
        send(created, EVENTS)
        yield created


def send(project: Project, events: int) -> None:
    servers = embedded_address(project.data_dir).bootstrap_servers
    produce(servers, project.topic, TransactionStream(Shape(events=events)), {})


def jobs(project: Project, *options: str) -> list[dict[str, Any]]:
    done = project.call("jobs", "--json", *options)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["jobs"]
    return found


def wait_for_job(project: Project, outcome: str) -> dict[str, Any]:
    """The newest job, once it is so and its offsets are known."""
    until = time.monotonic() + 30
    while True:
        # Before the first start there is no registry, or one that is being made.
        asked = project.call("jobs", "--json")
        found = json.loads(asked.stdout)["jobs"] if asked.returncode == 0 else []
        if found and found[0]["outcome"] == outcome:
            return found[0]
        assert time.monotonic() < until, found
        time.sleep(0.2)


def spans(job: dict[str, Any]) -> list[tuple[int, int, int]]:
    return [(span["partition"], span["first"], span["end"]) for span in job["offsets"]]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_run_is_recorded_with_the_offsets_that_it_read(project: Project, processes: str):
    project.run_until_end("--processes", processes)
    (first,) = jobs(project)
    assert (first["kind"], first["outcome"], first["error"]) == ("run", "succeeded", None)
    assert first["subject"] == "card_activity@1, merchant_activity@1"
    assert first["rows"] == EVENTS
    assert [begin for _, begin, _ in spans(first)] == [0] * len(first["offsets"])
    assert sum(end for _, _, end in spans(first)) == EVENTS

    send(project, 30)
    project.run_until_end("--processes", processes)
    second = jobs(project, "--limit", "1")[0]
    assert second["rows"] == 30
    assert [(p, end) for p, _, end in spans(first)] == [(p, begin) for p, begin, _ in spans(second)]
    assert second["definitions_hash"] == first["definitions_hash"]


def test_a_run_that_fails_is_recorded_with_its_error(project: Project):
    project.run_until_end()
    shutil.rmtree(sorted((project.data_dir / "online" / "transactions").glob("shard*"))[0])
    done = project.call("run", project.example.module, "--until-end")
    assert done.returncode == 1
    (failed,) = jobs(project, "--failed")
    assert failed["outcome"] == "failed"
    assert failed["error"].splitlines()[0] in done.stderr
    shown = project.call("jobs", "show", failed["id"][:8])
    assert failed["error"].splitlines()[0] in shown.stdout


@pytest.mark.parametrize(("number", "outcome"), [(signal.SIGKILL, "abandoned"), (signal.SIGTERM, "succeeded")])
def test_a_killed_run_is_abandoned_and_a_drained_one_succeeded(
    project: Project, tmp_path: Path, number: signal.Signals, outcome: str
):
    worker = project.start("run", project.example.module, "--apply", log=tmp_path / "run.log")
    try:
        running = wait_for_job(project, "running")
        assert running["pid"] == worker.pid
        until = time.monotonic() + 20
        while "worker_started" not in (tmp_path / "run.log").read_text():
            assert time.monotonic() < until, "it does not start"
            time.sleep(0.05)
        os.kill(worker.pid, number)
        worker.wait(30)
    finally:
        worker.kill()
        worker.wait()
    (job,) = jobs(project)
    assert (job["id"], job["outcome"]) == (running["id"], outcome)
    assert (job["ended_at"] is None) == (outcome == "abandoned")


def test_a_backfill_is_recorded_with_what_it_read_of_the_archive(project: Project):
    project.run_until_end()
    (project.folder / "pipelines" / "days.py").write_text(
        "from featurestore import StreamFeatureView, agg\nfrom pipelines.transactions import merchant, transactions\n"
        'days = StreamFeatureView("days", source=transactions, entities=[merchant], '
        'features=[agg.count(over=["24h"])])\n'
    )
    done = project.call("backfill", "pipelines/days.py", "--apply")
    assert done.returncode == 0, done.stderr
    job = jobs(project)[0]
    assert (job["kind"], job["subject"], job["outcome"], job["rows"]) == ("backfill", "days@1", "succeeded", EVENTS)
    assert spans(job) == spans(jobs(project, "--kind", "run")[0])
