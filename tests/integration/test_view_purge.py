"""`featurestore view purge` after real runs: old versions go, the current one and its files stay as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from featurestore.examples.transactions import TransactionStream
from featurestore.offline.layout import version_dir
from featurestore.online.reader import OnlineReader
from featurestore.online.source_store import lock_source
from featurestore.online.usage import measure_versions
from featurestore.registry import RegisteredView, Registry
from featurestore.sources.embedded import EmbeddedBroker
from featurestore.worker.purge import find_leftovers, purge_versions
from tests.conftest import TopicAt
from tests.integration.project import Project, Stores, assert_same_stores, read_stores
from tests.integration.road import send
from tests.integration.test_road import SHAPE

VIEW, SOURCE = "card_activity", "transactions"
MESSAGES = list(TransactionStream(SHAPE, seed=11))[:1_500]


class KilledError(Exception):
    pass


@dataclass
class Kill:
    """A crash point that raises at its n-th call."""

    at: int
    calls: int = 0

    def __call__(self, point: str) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise KilledError(point)


def registered(project: Project) -> RegisteredView:
    registry = Registry.open(project.data_dir / "registry" / "registry.db", create=False)
    try:
        return registry.view(VIEW)
    finally:
        registry.close()


def reset(project: Project, *options: str) -> dict[str, object]:
    done = project.call("view", "reset", VIEW, *options, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project whose first view has versions 1 and 2, both run to the topic's end."""
    with EmbeddedBroker(tmp_path / "data") as broker:
        assert broker.address is not None
        topic = TopicAt("embedded", "embedded", broker.address.bootstrap_servers, "t", 4)
        send(topic, MESSAGES)
        project = Project.create(tmp_path, "embedded", "t")
        project.run_until_end()
        reset(project)
        project.run_until_end()
        yield project


def assert_only_the_current_version_is_left(project: Project, before: Stores) -> None:
    view = registered(project)
    assert find_leftovers(project.data_dir, view, [view.version]) == []
    offline = project.data_dir / "offline"
    assert not version_dir(offline, VIEW, 1).exists()
    assert version_dir(offline, VIEW, 2).is_dir()
    assert_same_stores(before, read_stores(project))


@pytest.mark.timeout(120)
def test_a_purge_removes_the_old_version_alone(project: Project):
    before, data_dir = read_stores(project), project.data_dir
    view = registered(project)
    (left,) = find_leftovers(data_dir, view, [view.version])
    assert left.version == 1
    assert left.entities > 0
    assert left.online_bytes > 0
    assert left.offline_bytes > 0
    reader = OnlineReader(data_dir, SOURCE)
    try:
        done = project.call("view", "purge", VIEW)
        assert done.returncode == 1
        assert "say --yes" in done.stderr
        lock = lock_source(data_dir, SOURCE)
        try:
            held = project.call("view", "purge", VIEW, "--yes")
        finally:
            lock.release()
        assert held.returncode == 1
        assert "is being run by process" in held.stderr
        assert find_leftovers(data_dir, view, [view.version]) == [left]

        done = project.call("view", "purge", VIEW, "--yes", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["removed"] == [msgspec.to_builtins(left)]
        # A server that was there all the time goes on with the current version.
        reader.refresh()
        assert len(reader.states(project.views()[VIEW])) == len(list((data_dir / "online" / SOURCE).glob("shard-*")))
    finally:
        reader.close()
    assert_only_the_current_version_is_left(project, before)
    assert {version for view_id, version in measure_versions(data_dir, SOURCE) if view_id == view.view_id} == {2}
    again = project.call("view", "purge", VIEW, "--yes")
    assert "nothing is left" in again.stdout
    project.run_until_end()
    assert_only_the_current_version_is_left(project, before)


@pytest.mark.timeout(120)
def test_a_purge_that_was_killed_anywhere_is_finished_by_the_next(project: Project):
    before = read_stores(project)
    view = registered(project)
    shards = len(list((project.data_dir / "online" / SOURCE).glob("shard-*")))
    points = []
    # A shard less each time, then the intents, the marker, the files; the last one dies when all is done.
    for at in (1, 5, shards, shards + 1, shards + 2, shards + 3):
        with pytest.raises(KilledError) as killed:
            purge_versions(project.data_dir, view, [1], crash_point=Kill(at))
        points.append(str(killed.value))
        assert (find_leftovers(project.data_dir, view, [view.version]) == []) == (at == shards + 3)
    assert points == [*["shard_purged"] * 3, "recovered", "marker_removed", "files_removed"]
    purge_versions(project.data_dir, view, [1])
    project.run_until_end()
    assert_only_the_current_version_is_left(project, before)


@pytest.mark.timeout(120)
def test_a_snapshot_write_that_a_crash_left_keeps_the_files_of_the_current_version(project: Project):
    # Its files are all there and its entries dropped; undone for a missing file of the old version, the current
    # version's rows would be gone from everywhere.
    before = read_stores(project)
    offline = project.data_dir / "offline"
    files = [next(version_dir(offline, VIEW, version).glob("*/*.parquet")) for version in (1, 2)]
    intent = {
        "format_version": 1,
        "files": [str(path.relative_to(offline)) for path in files],
        "covered": {"0": [[0, 0]]},
    }
    folder = project.data_dir / "online" / SOURCE / "outbox" / "process-0"
    (folder / "dead-00000000.intent.json").write_text(json.dumps(intent))
    purge_versions(project.data_dir, registered(project), [1])
    assert files[1].exists()
    assert not files[0].exists()
    project.run_until_end()
    assert_only_the_current_version_is_left(project, before)


@pytest.mark.timeout(120)
def test_a_view_is_reset_to_where_it_is_told(project: Project):
    assert reset(project, "--from", "latest") == {"view": VIEW, "version": 3, "before": 2, "from": "latest"}
    project.run_until_end()
    status = json.loads(project.call("status", "--json").stdout)
    applied = {view["name"]: (view["applied"], view["from_beginning"]) for view in status["views"]}
    assert applied[VIEW] == (0, False)
    assert applied["merchant_activity"][0] > 0
    # The next version begins again as its definition says.
    assert reset(project)["from"] == "earliest"
    project.run_until_end()
    status = json.loads(project.call("status", "--json").stdout)
    assert {view["name"]: view["from_beginning"] for view in status["views"]}[VIEW] is True
    wrong = project.call("view", "reset", VIEW, "--from", "yesterday", "--yes")
    assert wrong.returncode == 2
