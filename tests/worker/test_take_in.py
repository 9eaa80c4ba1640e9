"""The hand-over of a backfill: repeated after a crash, and dropped where a worker was first."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurestore.compile.view import CompiledView, compile_view
from featurestore.online import layout
from featurestore.online.rocks import RocksMemory
from featurestore.online.shard_store import RocksShardStore
from featurestore.online.source_store import open_source_store
from featurestore.registry import Registry
from featurestore.shard.protocol import Commit, Fence, ViewState
from featurestore.worker import take_in
from featurestore.worker.staging import FORMAT_VERSION, StagedView, Staging, read_staging, staging_dir, write_staging
from featurestore.worker.take_in import take_in_backfill
from tests.factories import feature, sliding, source_spec, view_spec

SOURCE, SHARDS = "events", 2


def project(tmp_path: Path) -> tuple[Registry, CompiledView]:
    """A registry with one view, an empty store, and a whole backfill of the view with one fence a shard."""
    from featurestore.definitions.resolve import ResolvedDefinitions

    source, spec = source_spec(), view_spec([feature("count", sliding(10), None)])
    registry = Registry.open(tmp_path / "registry" / "registry.db")
    registry.apply(registry.plan(ResolvedDefinitions({SOURCE: source}, {spec.name: spec})))
    (registered,) = registry.views()
    view = compile_view(spec, source, view_id=registered.view_id, version=registered.version)
    open_source_store(tmp_path, SOURCE, SHARDS)
    open_source_store(staging_dir(tmp_path, SOURCE), SOURCE, SHARDS)
    for shard in range(SHARDS):
        put_state(staging_dir(tmp_path, SOURCE), shard, view, 100 + shard)
    staged = StagedView(view.name, view.view_id, view.version)
    write_staging(tmp_path, Staging(FORMAT_VERSION, SOURCE, (staged,), whole=True))
    return registry, view


def put_state(data_dir: Path, shard: int, view: CompiledView, offset: int) -> None:
    store = RocksShardStore(layout.shard_dir(data_dir, SOURCE, shard), RocksMemory())
    store.write(Commit(states=[(view, ViewState(fences={"g/0": Fence(offset)}))]))
    store.close()


def offsets(data_dir: Path, view: CompiledView) -> list[int | None]:
    found: list[int | None] = []
    for shard in range(SHARDS):
        store = RocksShardStore(layout.shard_dir(data_dir, SOURCE, shard), RocksMemory())
        state = store.read_state(view)
        fence = state.fence("g", 0) if state else None
        found.append(fence.next_offset if fence else None)
        store.close()
    return found


def test_an_interrupted_hand_over_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    registry, view = project(tmp_path)
    copied = take_in.copy_view

    def fails_at_the_second_shard(origin: Path, target: Path, *rest: object) -> int:
        if origin.name.endswith("1"):
            raise KeyboardInterrupt
        return copied(origin, target, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(take_in, "copy_view", fails_at_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        take_in_backfill(tmp_path, SOURCE, registry)
    assert offsets(tmp_path, view) == [100, None]
    monkeypatch.undo()
    assert take_in_backfill(tmp_path, SOURCE, registry) == {view.reference: 0}
    assert offsets(tmp_path, view) == [100, 101]
    assert read_staging(tmp_path, SOURCE) is None


def test_what_a_worker_has_begun_meanwhile_stands(tmp_path: Path):
    registry, view = project(tmp_path)
    put_state(tmp_path, 1, view, 7)
    assert take_in_backfill(tmp_path, SOURCE, registry) == {}
    assert offsets(tmp_path, view) == [None, 7]
    assert read_staging(tmp_path, SOURCE) is None


def test_a_backfill_of_an_old_version_is_dropped(tmp_path: Path):
    registry, view = project(tmp_path)
    registry.versions.begin_anew(view.name)
    assert take_in_backfill(tmp_path, SOURCE, registry) == {}
    assert offsets(tmp_path, view) == [None, None]
