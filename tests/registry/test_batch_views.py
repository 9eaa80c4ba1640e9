"""Batch views lie beside stream views in the registry: versions, ids and one set of names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from featurestore.definitions.resolve import ResolvedDefinitions
from featurestore.definitions.specs import BatchViewSpec, EntitySpec, FieldSpec, FileSourceSpec, JoinKeySpec, ViewSpec
from featurestore.errors import RegistryError, UnknownViewError
from featurestore.registry import Plan, RegisteredBatchView, Registry
from featurestore.registry.plan import Kind
from tests.factories import MINUTE, feature, sliding, source_spec, view_spec

SPEC = BatchViewSpec(
    name="limits",
    source=FileSourceSpec(path="a.csv", format="csv", event_time="t"),
    entities=(EntitySpec(name="card", join_keys=(JoinKeySpec(name="card_id", dtype="String"),)),),
    features=(FieldSpec(name="credit", output_dtype="Int64"),),
)
STREAM = view_spec([feature("count", sliding(10), None)])


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry.open(tmp_path / "registry.db")
    yield opened
    opened.close()


def apply(
    registry: Registry, *views: BatchViewSpec, stream: ViewSpec | None = None, promote: bool | Kind = False
) -> Plan:
    """Plan and apply batch views, with a stream view or alone."""
    streams = {stream.name: stream} if stream else {}
    sources = {"events": source_spec()} if stream else {}
    plan = registry.plan(ResolvedDefinitions(sources, streams, {view.name: view for view in views}))
    registry.apply(plan, promote=promote)
    return plan


def moved(path: str) -> BatchViewSpec:
    """The view from another file, which makes a new version of it."""
    return msgspec.structs.replace(SPEC, source=FileSourceSpec(path=path, format="csv", event_time="t"))


def test_a_batch_view_is_applied_beside_stream_views(registry: Registry):
    plan = apply(registry, SPEC, stream=STREAM)
    assert {(change.kind, change.name) for change in plan.added} == {
        ("entity", "card"),
        ("source", "events"),
        ("view", "activity"),
        ("batch_view", "limits"),
    }
    assert "+ batch view limits version 1" in plan.render()
    (batch,), (stream,) = registry.batch_views(), registry.views()
    assert (batch.spec, batch.version, stream.spec) == (SPEC, 1, STREAM)
    assert batch.view_id != stream.view_id


def test_what_is_read_makes_a_new_version_and_the_owner_does_not(registry: Registry):
    apply(registry, SPEC)
    first = registry.batch_views()[0]
    apply(registry, msgspec.structs.replace(SPEC, owner="risk@example.com"))
    assert registry.batch_views()[0].version == 1
    change = next(change for change in apply(registry, moved("b.csv")).changed if change.kind == "batch_view")
    assert change.new_version == 2
    assert ("source.path", "a.csv", "b.csv") in [(part.path, part.before, part.after) for part in change.fields]
    # It is materialized beside the first, which is served until it is promoted.
    assert [(view.view_id, view.version) for view in registry.live_batch_views()] == [
        (first.view_id, 1),
        (first.view_id, 2),
    ]
    assert [view.version for view in registry.batch_views()] == [1]
    found = registry.any_view("limits@2")
    assert isinstance(found, RegisteredBatchView)
    assert (found.reference, found.store, found.spec) == ("limits@2", "batch-views/limits", moved("b.csv"))
    with pytest.raises(UnknownViewError, match="version 3 of view 'limits' is not computed"):
        registry.any_view("limits@3")
    assert registry.versions.promote("limits", 2).previous == 1
    assert [view.version for view in registry.batch_views()] == [2]
    assert registry.versions.rollback("limits").served == 1


def test_what_is_applied_for_a_run_promotes_stream_views_alone(registry: Registry):
    apply(registry, SPEC, stream=STREAM)
    longer = msgspec.structs.replace(STREAM, ttl_us=MINUTE)
    apply(registry, moved("b.csv"), stream=longer, promote="view")
    assert {name: route.served for name, route in registry.routes().items()} == {"activity": 2, "limits": 1}
    apply(registry, moved("c.csv"), promote=True)
    assert registry.routes()["limits"].served == 3
    assert [view.version for view in registry.live_batch_views()] == [1, 3]  # the one before is kept for a rollback


def test_a_name_is_unique_over_both_kinds(registry: Registry):
    apply(registry, SPEC, stream=STREAM)
    with pytest.raises(RegistryError, match="'activity' is deployed as a stream view already"):
        apply(registry, msgspec.structs.replace(SPEC, name=STREAM.name))
    renamed = msgspec.structs.replace(STREAM, name="limits", ttl_us=MINUTE)
    with pytest.raises(RegistryError, match="'limits' is deployed as a batch view already"):
        registry.plan(ResolvedDefinitions({"events": source_spec()}, {"limits": renamed}))


def test_a_batch_view_that_is_absent_is_told_and_left(registry: Registry):
    apply(registry, SPEC)
    plan = apply(registry, stream=STREAM)
    assert [(change.kind, change.name) for change in plan.absent] == [("batch_view", "limits")]
    assert len(registry.batch_views()) == 1


def test_what_runs_do_with_stream_views_is_refused_for_a_batch_view(registry: Registry):
    apply(registry, SPEC)
    with pytest.raises(UnknownViewError, match="'limits' is a batch view, no stream view"):
        registry.pause("limits")
