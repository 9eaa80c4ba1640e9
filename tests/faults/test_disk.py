"""A disk that is full in the middle of a commit, of an archive write, of a compaction; a store that is read-only."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.sources.embedded import EmbeddedBroker
from tests.conftest import TopicAt
from tests.faults.support import MODULE
from tests.integration.project import Project, Stores, assert_same_stores, log_events, read_stores
from tests.integration.road import send_to

TOPIC = "payments"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Stores]]:
    """A broker with a topic, by its address file, and the stores of a run that nothing is done to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with EmbeddedBroker(folder / "data") as broker:
        assert broker.address is not None
        topic = TopicAt("embedded", "embedded", broker.address.bootstrap_servers, TOPIC, 2)
        stream = TransactionStream(Shape(events=12_000, cards=2_000, duration_s=4_000.0), seed=23)
        send_to(topic, [(n % 2, key, value) for n, (key, value) in enumerate(stream)])
        project = Project.create(folder / "project", "embedded", TOPIC, data_dir=folder / "data")
        project.run_until_end()
        yield folder / "data" / "broker.json", read_stores(project)


class Disk:
    """A file system in memory of its own, of a size that can be changed."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def mount(self, size: str) -> None:
        self.place.mkdir(parents=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.place)], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"a small file system can't be mounted here: {done.stderr.strip()}")

    def change(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.place)], check=True)

    @property
    def used_bytes(self) -> int:
        return shutil.disk_usage(self.place).used


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "data" / "online")
    yield made
    subprocess.run(["umount", str(made.place)], capture_output=True)


@pytest.fixture
def project(undisturbed: tuple[Path, Stores], tmp_path: Path) -> Project:
    project = Project.create(tmp_path / "project", "embedded", TOPIC, data_dir=tmp_path / "data")
    project.data_dir.mkdir()
    shutil.copy(undisturbed[0], project.data_dir)
    return project


@pytest.mark.parametrize(
    ("folder", "size", "told"), [("online", "6m", "disk is full: "), ("offline", "300k", "no room")]
)
def test_a_full_disk_is_told_and_after_room_is_made_the_run_goes_on(
    project: Project, undisturbed: tuple[Path, Stores], disk: Disk, tmp_path: Path, folder: str, size: str, told: str
):
    disk.place = project.data_dir / folder
    disk.mount(size)
    for number in range(2):
        log = tmp_path / f"{number}.log"
        worker = project.start("--log-level", "debug", "run", MODULE, "--apply", "--until-end", log=log)
        assert worker.wait(60) == 1, log.read_text()[-2000:]
        last = log.read_text().rpartition("Error: ")[2]
        assert last.startswith(told), log.read_text()[-2000:]
        assert str(disk.place) in last
        assert "Hint: free space" in last
        assert "Traceback" not in log.read_text()
    assert log_events(tmp_path / "0.log", "commit"), "it was in the middle"
    disk.change("size=100m")
    project.run_until_end()
    assert_same_stores(read_stores(project), undisturbed[1])


def test_a_compaction_without_room_changes_nothing(project: Project, undisturbed: tuple[Path, Stores], disk: Disk):
    disk.place = project.data_dir / "offline"
    disk.mount("100m")
    project.run_until_end()
    dataset = next((disk.place / "features" / "card_activity" / "v1").glob("tumbling_*"))
    (path,) = dataset.glob("*.parquet")
    shutil.copy(path, dataset / "again.parquet")  # two files, so that there is something to do
    before = read_rows(dataset)
    disk.change(f"size={disk.used_bytes + 8_192}")
    full = project.call("offline", "compact", "--grace", "0s")
    assert full.returncode == 1, full.stdout
    assert "no room left to write" in full.stderr
    assert "Traceback" not in full.stderr
    assert read_rows(dataset) == before
    disk.change("size=100m")
    done = project.call("offline", "compact", "--grace", "0s", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["compacted"]
    assert len(list(dataset.glob("*.parquet"))) == 1
    assert read_rows(dataset) == before


def read_rows(dataset: Path) -> int:
    return pl.read_parquet(dataset / "*.parquet").height


def test_a_read_only_store_is_told_and_left_as_it_was(project: Project, undisturbed: tuple[Path, Stores], disk: Disk):
    disk.mount("100m")
    project.run_until_end()
    disk.change("ro")
    refused = project.call("run", MODULE, "--until-end")
    assert refused.returncode == 1
    assert f"Error: {disk.place}" in refused.stderr
    assert "Read-only file system" in refused.stderr
    assert "writable for this user" in refused.stderr
    assert "Traceback" not in refused.stderr
    disk.change("rw")
    project.run_until_end()
    assert_same_stores(read_stores(project), undisturbed[1])
