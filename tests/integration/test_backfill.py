"""A view filled from the archive is the view that had been there from the beginning, killed on its way or not."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from featurestore.examples.transactions import Shape, TransactionStream
from tests.conftest import ON_KAFKA, TopicAt
from tests.integration.project import Project, assert_same_stores, log_events, read_stores
from tests.integration.road import send

MODULE = "pipelines/transactions.py"
EVENTS = 40_000


def stream(seed: int) -> list[tuple[bytes | None, bytes]]:
    return list(TransactionStream(Shape(events=EVENTS, cards=300, duration_s=4 * 3600.0), seed=seed))


def without_merchants(project: Project) -> str:
    """The definitions as they were before the merchants' view; returns those with it."""
    whole = (project.folder / MODULE).read_text()
    cut = whole[: whole.index("merchant_activity =")]
    (project.folder / MODULE).write_text(cut)
    return whole


def undisturbed(topic: TopicAt, folder: Path, data_dir: Path) -> Project:
    """Both views from the beginning; on the embedded broker its address file goes along."""
    (folder / "data").mkdir(parents=True)
    for file in data_dir.glob("*"):
        if file.is_file():
            shutil.copy(file, folder / "data")
    project = Project.create(folder, topic.bootstrap_servers, topic.topic, data_dir=folder / "data")
    project.run_until_end()
    return project


@ON_KAFKA
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_backfill_killed_again_and_again_hands_over_to_the_live_stream(any_topic: TopicAt, tmp_path: Path):
    messages = stream(5)
    half = EVENTS * 2 // 3
    merchant = json.loads(messages[0][1])["merchant_id"]
    send(any_topic, messages[:half])
    project = Project.create(
        tmp_path / "project", any_topic.bootstrap_servers, any_topic.topic, data_dir=tmp_path / "data"
    )
    whole = without_merchants(project)
    project.run_until_end()
    (project.folder / MODULE).write_text(whole)

    planned = project.call("backfill", MODULE, "--dry-run", "--apply", "--json")
    assert planned.returncode == 0, planned.stderr
    (source,) = json.loads(planned.stdout)["sources"]
    assert source["views"] == ["merchant_activity@1"]
    archived = read_stores_events(project)
    assert sum(part["events"] for part in source["to_read"]) == archived

    chance = random.Random(7)
    log = tmp_path / "backfill.log"
    interrupted = 0
    for number in range(4):
        worker = project.start(
            "--log-level", "debug", "backfill", MODULE, "--processes", "2" if number % 2 else "1", log=log
        )
        deadline = time.monotonic() + 30
        while len(log_events(log, "commit")) <= chance.randrange(1, 30) and worker.poll() is None:
            assert time.monotonic() < deadline, log.read_text()[-3000:]
        worker.kill()
        worker.wait()
        if b"backfill_taken_in" in log.read_bytes():
            break
        interrupted += 1
        # Nothing of it is served.
        found = project.call("get", "merchant_activity:count_1h", "-e", f"merchant_id={merchant}", "--json")
        assert json.loads(found.stdout)["results"][1]["statuses"] == ["NOT_FOUND"], found.stderr
    assert interrupted
    run = project.call("run", MODULE, "--until-end")
    assert run.returncode == 0
    if b"backfill_taken_in" not in log.read_bytes():
        assert '"view_in_backfill"' in run.stderr
        done = project.call("backfill", MODULE, "--json")
        assert done.returncode == 0, done.stderr
        (source,) = json.loads(done.stdout)["sources"]
        assert source["finished"]
        assert source["taken_in"]
        assert source["rows"]["merchant_activity@1"] > 0

    again = project.call("backfill", MODULE)
    assert again.returncode == 1
    assert "has begun already" in again.stderr
    assert "view reset" in again.stderr

    send(any_topic, messages[half:])
    project.run_until_end()
    assert not (project.data_dir / "backfill" / "transactions" / "staging.json").exists()
    other = undisturbed(any_topic, tmp_path / "undisturbed", project.data_dir)
    assert_same_stores(read_stores(project), read_stores(other))


def read_stores_events(project: Project) -> int:
    from featurestore.offline import read_events

    return read_events(project.data_dir / "offline", "transactions").height


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("any_topic", ["embedded"], indirect=True)
def test_beside_a_running_worker_it_is_taken_in_at_the_workers_next_start(any_topic: TopicAt, tmp_path: Path):
    messages = stream(6)
    send(any_topic, messages[:20_000])
    project = Project.create(
        tmp_path / "project", any_topic.bootstrap_servers, any_topic.topic, data_dir=tmp_path / "data"
    )
    whole = without_merchants(project)
    project.run_until_end()
    log = tmp_path / "run.log"
    worker = project.start("run", MODULE, log=log)
    try:
        deadline = time.monotonic() + 30
        while not log_events(log, "worker_started"):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        (project.folder / MODULE).write_text(whole)
        done = project.call("backfill", MODULE, "--apply", "--view", "merchant_activity", "--json")
        assert done.returncode == 0, done.stderr
        (source,) = json.loads(done.stdout)["sources"]
        assert source["finished"]
        assert not source["taken_in"]
        send(any_topic, messages[20_000:])
        # A second time reads only what was archived since, and changes nothing else.
        assert project.call("backfill", MODULE, "--view", "merchant_activity").returncode == 0
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, log.read_text()[-3000:]
    project.run_until_end()
    other = undisturbed(any_topic, tmp_path / "undisturbed", project.data_dir)
    assert_same_stores(read_stores(project), read_stores(other))


@pytest.mark.parametrize("any_topic", ["embedded"], indirect=True)
def test_what_it_refuses_and_how_it_is_given_up(any_topic: TopicAt, tmp_path: Path):
    project = Project.create(
        tmp_path / "project", any_topic.bootstrap_servers, any_topic.topic, data_dir=tmp_path / "data"
    )
    whole = without_merchants(project)
    nothing = project.call("backfill", MODULE, "--apply")
    assert nothing.returncode == 1
    assert "nothing of source 'transactions' is archived yet" in nothing.stderr
    send(any_topic, stream(7)[:500])
    project.run_until_end()
    (project.folder / MODULE).write_text(whole)
    unapplied = project.call("backfill", MODULE)
    assert unapplied.returncode == 1
    assert "the definitions differ" in unapplied.stderr
    unknown = project.call("backfill", MODULE, "--view", "nobody")
    assert "view 'nobody' is not defined" in unknown.stderr
    given_up = project.call("backfill", MODULE, "--abandon", "--yes", "--json")
    assert json.loads(given_up.stdout) == {"abandoned": []}
