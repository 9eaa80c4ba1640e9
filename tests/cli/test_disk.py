"""`featurestore status --disk`: bytes that are those of the stores, counted another way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.examples import write_project
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.online import layout
from featurestore.online.rocks import RocksMemory, open_primary
from featurestore.registry import Registry
from featurestore.sources.embedded import EmbeddedBroker
from tests.cli.support import answer, command, run_until_end, send


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project that has read a stream with late events and dead letters, and whose broker is still there."""
    folder = tmp_path_factory.mktemp("disk") / "project"
    write_project(folder)
    with EmbeddedBroker(folder / "data") as broker:
        send(broker, TransactionStream(Shape(events=3_000, broken_share=0.01, too_late_share=0.01)))
        run_until_end(folder)
        yield folder


def counted_bytes(data_dir: Path, view_id: int, version: int) -> tuple[int, int]:
    """Rows and bytes of a view version, from the shards opened as their worker does."""
    entities = size = 0
    for path in sorted((data_dir / "online" / "transactions").glob("shard-*")):
        store = open_primary(path, RocksMemory())
        for key, value in store.items():
            if key[:1] in b"rpcs" and layout.version_of(key) == (view_id, version):
                entities += key[:1] == b"r"
                size += len(key) + len(value)
        store.close()
    return entities, size


def test_the_bytes_are_those_of_keys_values_and_files(project: Path):
    disk = answer(project, "status", "--disk")["disk"]
    data_dir = project / "data"
    (source,) = disk["sources"]
    for kind, field in (("events", "archive"), ("late", "late"), ("dead_letter", "dead_letter")):
        files = [path for path in (data_dir / "offline" / kind / "transactions").rglob("*") if path.is_file()]
        assert source[f"{field}_bytes"] == sum(path.stat().st_size for path in files) > 0
    assert source["online_file_bytes"] > 0
    assert source["backfill_bytes"] == 0
    registry = Registry.open(data_dir / "registry" / "registry.db", create=False)
    views = {view.spec.name: view for view in registry.views()}
    assert {view["name"] for view in disk["views"]} == views.keys()
    for view in disk["views"]:
        (version,) = view["versions"]
        entities, size = counted_bytes(data_dir, views[view["name"]].view_id, version["version"])
        assert (version["live"], version["entities"]) == (True, entities)
        assert version["online_bytes"] == view["online_bytes"] == size > version["rows_bytes"] > 0
        files = [path for path in (data_dir / "offline" / "features" / view["name"]).rglob("*") if path.is_file()]
        assert version["offline_bytes"] == view["offline_bytes"] == sum(path.stat().st_size for path in files) > 0


def test_it_is_asked_for_and_people_get_tables(project: Path):
    assert "disk" not in answer(project, "status")
    done = command(project, "status", "--disk")
    assert done.returncode == 0, done.stderr
    assert "online files" in done.stdout
    assert "KiB" in done.stdout
    assert done.stderr == ""


def test_before_the_first_run_everything_is_empty(tmp_path: Path):
    write_project(tmp_path)
    assert command(tmp_path, "apply", "pipelines/transactions.py").returncode == 0
    disk = answer(tmp_path, "status", "--disk")["disk"]
    assert [view["online_bytes"] + view["offline_bytes"] for view in disk["views"]] == [0, 0]
