"""An online store made again from the archive is the store that was lost, whatever kills the rebuild on its way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.config import Settings
from featurestore.errors import RegistryError, StoreError, StoreFormatError, StoreLockedError
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.offline.snapshots import SnapshotWriter
from featurestore.online.source_store import lock_source
from featurestore.online.steps import between_steps
from featurestore.recovery.rebuild import RebuildOptions, RebuiltSource, rebuild
from featurestore.registry import Registry
from featurestore.sources.embedded import EmbeddedBroker
from featurestore.sources.topics import TopicInfo
from featurestore.testing.crash import SimulatedCrash
from featurestore.worker import archive_run, prepare
from featurestore.worker.archive_run import ArchiveRunOptions
from featurestore.worker.host import SourceHost
from featurestore.worker.prepare import RegisteredSource
from tests.conftest import TopicAt
from tests.faults.support import LONG, MODULE, Load, wait_for
from tests.integration.project import Project, Stores, assert_same_stores, read_stores
from tests.integration.road import send, send_to

TOPIC = "payments"
SHARD = "online/transactions/shard-0003"


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Stores]]:
    """A project that has read its topic in two runs, with corrections of windows that were emitted; and its stores."""
    folder = tmp_path_factory.mktemp("archived")
    with EmbeddedBroker(folder / "data") as broker:
        assert broker.address is not None
        topic = TopicAt("embedded", "embedded", broker.address.bootstrap_servers, TOPIC, 2)
        project = Project.create(folder / "project", "embedded", TOPIC, data_dir=folder / "data")
        messages = list(TransactionStream(Shape(events=6_000, cards=40, duration_s=4_000.0), seed=21))
        for part in (messages[:4_000], messages[4_000:]):
            send_to(topic, [(number % 2, key, value) for number, (key, value) in enumerate(part)])
            project.run_until_end()
        yield project, read_stores(project)


@pytest.fixture
def copy(archived: tuple[Project, Stores], tmp_path: Path) -> Project:
    """A project of the test's own with the same data."""
    project = Project.create(tmp_path / "project", "embedded", TOPIC, data_dir=tmp_path / "data")
    shutil.copytree(archived[0].data_dir, tmp_path / "data")
    return project


class Schedule:
    """Dies at the crash point of this number, once."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number
        self.passed: list[str] = []

    def __call__(self, point: str) -> None:
        self.passed.append(point)
        if len(self.passed) - 1 == self.number:
            raise SimulatedCrash(point)


def rebuilt(project: Project, point: Schedule, *, snapshots: bool = False) -> RebuiltSource:
    settings = Settings.load(project.folder, {"store.data_dir": project.data_dir})
    registry = Registry.open(settings.registry_place, create=False)
    run = ArchiveRunOptions(project.folder)
    options = RebuildOptions(run, snapshots, grace_s=0.0, crash_point=point)
    try:
        (done,) = rebuild(settings, registry, ["transactions"], options)
    finally:
        registry.close()
    return done


def lose(project: Project) -> None:
    """The store can't be opened any more, not even its description."""
    folder = project.data_dir / "online" / "transactions"
    (folder / "store.json").write_text("{")
    for shard in sorted(folder.glob("shard-*")):
        (shard / "CURRENT").write_text("nonsense")


def test_a_store_that_can_not_be_opened_is_made_again(copy: Project, archived: tuple[Project, Stores]):
    lose(copy)
    done = rebuilt(copy, Schedule())
    assert done.finished
    assert done.snapshot_rows > 0
    assert not done.partial
    assert done.set_aside is not None
    assert (Path(done.set_aside) / "online" / "shard-0000" / "CURRENT").read_text() == "nonsense"
    assert_same_stores(read_stores(copy), archived[1])
    verified = copy.call("offline", "verify", "--json")
    assert verified.returncode == 0, verified.stdout
    again = rebuilt(copy, Schedule(), snapshots=True)
    assert again.snapshot_rows > done.snapshot_rows, "those that are final too"
    assert_same_stores(read_stores(copy), archived[1])


def test_wherever_it_is_killed_it_goes_on_and_nothing_runs_on_half_a_store(
    copy: Project, archived: tuple[Project, Stores], tmp_path: Path
):
    whole = tmp_path / "whole"
    lose(copy)
    shutil.copytree(copy.data_dir, whole)
    point = Schedule()
    rebuilt(copy, point)
    names = point.passed
    assert {"staged", "exchange_begun", "linked", "snapshots_exchanged", "store_set_aside", "store_in_place"} <= {
        *names
    }
    # The first and the last of each, in the short form of some.
    every = sorted({names.index(name) for name in names} | {len(names) - 1 - names[::-1].index(name) for name in names})
    for number in every if LONG else every[1::3]:
        shutil.rmtree(copy.data_dir)
        shutil.copytree(whole, copy.data_dir)
        with pytest.raises(SimulatedCrash):
            rebuilt(copy, Schedule(number))
        if names.index("exchange_begun") <= number:
            with pytest.raises(StoreError, match="half exchanged"):
                lock_source(copy.data_dir, "transactions")
        done = rebuilt(copy, Schedule())
        assert done.finished, names[number]
        assert done.set_aside is not None
        assert (Path(done.set_aside) / "online" / "store.json").read_text() == "{"
        assert_same_stores(read_stores(copy), archived[1])
        lock_source(copy.data_dir, "transactions").release()


def test_what_it_refuses(copy: Project):
    settings = Settings.load(copy.folder, {"store.data_dir": copy.data_dir})
    registry = Registry.open(settings.registry_place, create=False)
    options = RebuildOptions(ArchiveRunOptions(copy.folder))
    with pytest.raises(RegistryError, match="is a view") as caught:
        rebuild(settings, registry, ["card_activity"], options)
    assert caught.value.hint == "featurestore rebuild transactions"
    with pytest.raises(RegistryError, match="no source 'nobody'"):
        rebuild(settings, registry, ["nobody"], options)
    lock = lock_source(copy.data_dir, "transactions")
    with pytest.raises(StoreLockedError, match="is being run"):
        rebuild(settings, registry, ["transactions"], options)
    lock.release()
    (damaged,) = (copy.data_dir / "offline" / "events").rglob("topic_partition=1/*.parquet")
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.raises(StoreFormatError, match=f"{damaged} is damaged"):
        rebuild(settings, registry, ["transactions"], options)
    registry.close()


def test_without_an_archive_the_store_is_empty_and_no_snapshot_is_lost(copy: Project, archived: tuple[Project, Stores]):
    for kind in ("events", "late", "dead_letter"):
        shutil.rmtree(copy.data_dir / "offline" / kind, ignore_errors=True)
    before = {path.name for path in (copy.data_dir / "offline" / "features").rglob("*.parquet")}
    done = rebuilt(copy, Schedule())
    assert (done.events, set(done.entities.values())) == (0, {0})
    assert not list((copy.data_dir / "offline" / "features").rglob("*.parquet")), "they will come again"
    assert done.set_aside is not None
    assert {path.name for path in Path(done.set_aside).rglob("*.parquet")} == before
    shutil.copy(archived[0].data_dir / "broker.json", copy.data_dir)
    copy.run_until_end()
    assert_same_stores(read_stores(copy), archived[1])


def test_outbox_writes_and_the_recovery_of_a_run_are_steps_that_a_backup_waits_for(
    copy: Project, monkeypatch: pytest.MonkeyPatch
):
    looked: list[str] = []

    def in_between(module: object, name: str, data_dir: Path) -> None:
        """A backup that looks while `name` is under way has to wait."""
        done = getattr(module, name)

        def looks(*arguments: object, **options: object) -> object:
            with pytest.raises(StoreLockedError), between_steps(data_dir, wait_s=0.0):
                pass
            looked.append(name)
            return done(*arguments, **options)

        monkeypatch.setattr(module, name, looks)

    staged = copy.data_dir / "rebuild" / "transactions"
    in_between(SnapshotWriter, "write", staged)
    in_between(SnapshotWriter, "done", staged)
    in_between(archive_run, "recover_outbox", staged)
    in_between(archive_run, "finish_recovery", staged)
    lose(copy)
    rebuilt(copy, Schedule())
    assert {*looked} == {"write", "done", "recover_outbox"}, "no process had an outbox yet"
    looked.clear()
    in_between(prepare, "recover_outbox", copy.data_dir)
    in_between(prepare, "finish_recovery", copy.data_dir)
    monkeypatch.setattr(prepare, "wait_for_topic", lambda *arguments, **options: TopicInfo("new", {0: (0, 0)}))
    settings = Settings.load(copy.folder, {"store.data_dir": copy.data_dir})
    registry = Registry.open(settings.registry_place, create=False)
    source = RegisteredSource(registry.source("transactions"), tuple(registry.live_views()))
    registry.close()
    prepare.plan_source(settings, source, lambda *arguments: (), until_end=True, accept_gap=False, stop=lambda: False)
    assert looked[0] == "recover_outbox"


def test_rows_that_a_killed_run_left_in_the_outbox_are_written_although_all_is_read(
    copy: Project, archived: tuple[Project, Stores], monkeypatch: pytest.MonkeyPatch
):
    lose(copy)
    write = SourceHost.write_outbox

    def dies(host: SourceHost) -> None:
        for slot in host._slots.values():
            slot.store.close()
        raise SimulatedCrash("after the last commit")

    monkeypatch.setattr(SourceHost, "write_outbox", dies)
    with pytest.raises(BaseException, match="after the last commit"):
        rebuilt(copy, Schedule())
    monkeypatch.setattr(SourceHost, "write_outbox", write)
    rebuilt(copy, Schedule())
    assert_same_stores(read_stores(copy), archived[1])


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.skipif(not LONG, reason="with FEATURESTORE_TEST_FAULTS=long; test_damage.py rebuilds after a kill too")
@pytest.mark.parametrize("any_topic", ["embedded"], indirect=True)
def test_after_a_kill_and_the_loss_of_the_store_the_topic_goes_on_at_exact_offsets(any_topic: TopicAt, tmp_path: Path):
    project = Project.create(
        tmp_path / "project", any_topic.bootstrap_servers, any_topic.topic, data_dir=tmp_path / "data"
    )
    log = tmp_path / "run.log"
    send(any_topic, TransactionStream(Shape(events=2_000, cards=200, duration_s=800.0), seed=13))
    project.run_until_end()
    load = Load(any_topic.address, any_topic.topic, any_topic.partitions, seed=12)
    load.start()
    worker = project.start("run", MODULE, "--apply", "--processes", "2", log=log)
    features = tmp_path / "data" / "offline" / "features"
    try:
        wait_for(lambda: len(list(features.rglob("*.parquet"))) > 12, 60, log)
    finally:
        worker.kill()
        worker.wait()
        load.stop()
    lose(project)
    run = project.call("run", MODULE, "--until-end")
    assert run.returncode == 1
    assert "featurestore rebuild transactions" in run.stderr
    done = project.call("rebuild", "transactions", "--processes", "2", "--grace", "0s", "--yes", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    assert answer["equal"]
    assert sum(one["compared"] for view in answer["verified"] for one in view["comparisons"]) > 1_000
    project.run_until_end()
    other = Project.create(
        tmp_path / "other", any_topic.bootstrap_servers, any_topic.topic, data_dir=tmp_path / "other" / "data"
    )
    other.data_dir.mkdir()
    shutil.copy(tmp_path / "data" / "broker.json", other.data_dir)
    other.run_until_end()
    assert_same_stores(read_stores(project), read_stores(other))
