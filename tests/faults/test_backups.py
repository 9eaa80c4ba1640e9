"""A backup that was taken while workers read, restored and run on, is what a run holds that nothing was done to."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from featurestore.offline import read_events
from tests.conftest import TopicAt
from tests.faults.support import MODULE, Load, shorter_or, wait_for
from tests.integration.project import Project, assert_same_stores, log_events, read_stores


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("any_topic", ["embedded"], indirect=True)
def test_a_backup_taken_under_load_goes_on_to_the_stores_of_an_undisturbed_run(any_topic: TopicAt, tmp_path: Path):
    project = Project.create(
        tmp_path / "project", any_topic.bootstrap_servers, any_topic.topic, data_dir=tmp_path / "data"
    )
    chance = random.Random(11)
    log = tmp_path / "run.log"
    load = Load(any_topic.address, any_topic.topic, any_topic.partitions, seed=11)
    load.start()
    worker = project.start("run", MODULE, "--apply", "--processes", "2", log=log)
    backups: list[Path] = []
    try:
        # Rows that are in files and rows that still wait for one.
        wait_for(lambda: list((tmp_path / "data" / "offline" / "features").rglob("*.parquet")), 60, log)
        for number in range(int(shorter_or(10, 2))):
            time.sleep(chance.uniform(0.2, 1.5))
            backups.append(tmp_path / f"backup-{number}")
            base = ["--base", str(backups[-2])] if number else []
            done = project.call("backup", str(backups[-1]), "--json", *base)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["sources"] == ["transactions"]
        assert worker.poll() is None
        time.sleep(1.0)
    finally:
        load.stop()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, log.read_text()[-3000:]
    assert len(log_events(log, "worker_started")) == 2, "nobody was disturbed"
    project.run_until_end()
    undisturbed = read_stores(project)
    assert undisturbed.snapshots[("card_activity", "tumbling_1m")].height
    for backup in backups:
        other = Project.create(
            tmp_path / f"from-{backup.name}",
            any_topic.bootstrap_servers,
            any_topic.topic,
            data_dir=tmp_path / f"from-{backup.name}" / "data",
        )
        other.data_dir.mkdir()
        shutil.copy(tmp_path / "data" / "broker.json", other.data_dir)
        done = other.call("restore", str(backup), "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["set_aside"] is None
        assert list((other.data_dir / "offline" / "features").rglob("*.parquet"))
        assert read_events(other.data_dir / "offline", "transactions").height < undisturbed.events.height
        other.run_until_end()
        assert_same_stores(read_stores(other), undisturbed)


@pytest.mark.parametrize("any_topic", ["embedded"], indirect=True)
def test_a_restore_asks_before_it_sets_aside_what_is_there(any_topic: TopicAt, tmp_path: Path):
    project = Project.create(
        tmp_path / "project", any_topic.bootstrap_servers, any_topic.topic, data_dir=tmp_path / "data"
    )
    assert project.call("apply", MODULE).returncode == 0
    assert project.call("backup", str(tmp_path / "b")).returncode == 0
    asked = project.call("restore", str(tmp_path / "b"))
    assert asked.returncode == 1
    assert "say --yes" in asked.stderr
    done = project.call("restore", str(tmp_path / "b"), "--yes")
    assert done.returncode == 0, done.stderr
    assert "set-aside" in done.stdout
    assert (tmp_path / "data" / "broker.json").exists(), "the broker's address is nobody's state"
    nothing = project.call("restore", str(tmp_path / "nowhere"), "--yes")
    assert nothing.returncode == 1
    assert "is no backup" in nothing.stderr
