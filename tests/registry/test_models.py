"""Models and the services that they read: recorded as they were, found from either side, told what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from featurestore.definitions.specs import FeatureServiceSpec, ViewSpec
from featurestore.errors import (
    RegistryError,
    UnknownFeatureError,
    UnknownFeatureServiceError,
    UnknownViewError,
)
from featurestore.registry import Registry
from featurestore.registry.history import history
from featurestore.registry.impact import Readers, reached_readers
from featurestore.registry.lineage import Node
from featurestore.registry.models import ModelNow, Models, TrainingSetMark, model_now
from featurestore.registry.readers import deployed_lineage
from featurestore.registry.records import content_hash, encoded
from featurestore.registry.review import in_use
from featurestore.registry.served import read_served
from tests.registry.support import SOURCE, apply, resolved, service, view

SET = TrainingSetMark("sets/training.parquet.manifest.json", "ab" * 32)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A view, another one, and a service of both."""
    opened = Registry.open(tmp_path / "registry.db")
    apply(opened, view(), view("limits"), services=(service(view(), view("limits")),))
    yield opened
    opened.close()


@pytest.fixture
def models(registry: Registry) -> Models:
    return Models(registry.database)


def now(registry: Registry, name: str = "scorer", version: str = "1") -> ModelNow:
    return model_now(Models(registry.database).of_model(name, version), read_served(registry.database))


def computes(registry: Registry, hours: int, *, pinned: bool = True, promote: bool = False) -> ViewSpec:
    """Apply `activity` with another window; pinned: the service goes on reading what it reads."""
    changed = view(hours=hours)
    apply(registry, changed, view("limits"), promote=promote)
    if not pinned:
        number = registry.versions.of("activity")[-1].version
        registry.versions.promote("activity", number, services=["fraud"])
    return changed


def test_a_link_keeps_the_service_as_it_was_with_the_versions_that_it_pinned(
    registry: Registry, models: Models
) -> None:
    made = models.link("scorer", "1", "fraud", uri="models:/scorer/1", training_set=SET, run_id="r1")
    deployed = registry.feature_services()["fraud"].spec
    assert made.service == deployed
    assert [(pin.name, pin.version, pin.features) for pin in made.service.views] == [
        ("activity", 1, ("count",)),
        ("limits", 1, ("count",)),
    ]
    assert made.service_hash == content_hash(encoded(deployed))
    assert (made.uri, made.training_set, made.run_id) == ("models:/scorer/1", SET, "r1")
    computes(registry, 2, pinned=False)
    assert registry.feature_services()["fraud"].spec != deployed
    assert models.of_model("scorer", "1") == made


def test_the_same_link_again_changes_nothing(registry: Registry, models: Models) -> None:
    made = models.link("scorer", "1", "fraud", uri="here", training_set=SET, run_id="r1")
    moved = TrainingSetMark("elsewhere/manifest.json", SET.sha256)
    before = registry.change_number()
    assert models.link("scorer", "1", "fraud", uri="here", training_set=SET, run_id="r1") == made
    assert models.link("scorer", "1", "fraud") == made
    assert models.link("scorer", "1", "fraud", training_set=moved) == made, "the same set, wherever it lies"
    assert registry.change_number() == before
    computes(registry, 2, pinned=False)
    assert models.link("scorer", "1", "fraud") == made, "also when the service reads something else by now"
    assert [entry.action for entry in history(registry.database, "scorer")] == ["link"]


def test_a_link_that_tells_more_adds_it(models: Models) -> None:
    models.link("scorer", "1", "fraud", uri="here")
    made = models.link("scorer", "1", "fraud", run_id="r1")
    assert (made.uri, made.run_id, made.training_set) == ("here", "r1", None)
    made = models.link("scorer", "1", "fraud", training_set=SET)
    assert (made.uri, made.run_id, made.training_set) == ("here", "r1", SET)
    assert models.of_model("scorer", "1") == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"service": "other"}, "version 1 of model 'scorer' reads feature service 'fraud', not 'other'"),
        ({"uri": "there"}, "linked with another URI: here"),
        ({"run_id": "r2"}, "linked with another run: r1"),
        ({"training_set": TrainingSetMark(SET.manifest, "cd" * 32)}, f"another training set: {SET.manifest}"),
        ({"service": "fruad"}, "feature service 'fruad' does not exist"),
    ],
)
def test_what_contradicts_a_link_is_told_and_changes_nothing(
    registry: Registry, models: Models, change: dict[str, object], message: str
) -> None:
    apply(registry, view(), view("limits"), services=(service(view(), name="other"),))
    made = models.link("scorer", "1", "fraud", uri="here", training_set=SET, run_id="r1")
    with pytest.raises((RegistryError, UnknownFeatureServiceError), match=message):
        models.link("scorer", "1", **{"service": "fraud", **change})  # type: ignore[arg-type]
    assert models.find() == [made]
    assert models.link("scorer", "2", "other").service.name == "other", "another version may"


def test_a_training_set_that_comes_later_knows_what_the_model_was_trained_with(
    registry: Registry, models: Models
) -> None:
    trained = registry.feature_services()["fraud"].spec
    computes(registry, 2, pinned=False)
    made = models.link("scorer", "1", "fraud")
    assert made.service.views[0].version == 2
    with pytest.raises(RegistryError, match="linked with other features of service 'fraud'"):
        models.link("scorer", "1", trained)
    made = models.link("scorer", "1", trained, training_set=SET)
    assert made.service == trained
    assert models.of_model("scorer", "1") == made
    assert made.service_hash == content_hash(encoded(trained))


def test_many_processes_that_link_at_once_make_one_record(registry: Registry, tmp_path: Path) -> None:
    def link(number: int) -> str:
        own = Registry.open(tmp_path / "registry.db")
        try:
            return Models(own.database).link("scorer", "1", "fraud", run_id="r").reference
        finally:
            own.close()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(link, range(16))) == {"scorer/1"}
    assert len(Models(registry.database).find()) == 1
    assert len(history(registry.database, "scorer")) == 1


def test_models_are_found_by_service_view_version_and_feature(registry: Registry, models: Models) -> None:
    apply(registry, view(), view("limits"), services=(service(view("limits"), name="other"),))
    models.link("scorer", "1", "fraud")
    computes(registry, 2, pinned=False)
    models.link("scorer", "2", "fraud")
    models.link("limiter", "a", "other")

    def found(**asked: str) -> list[str]:
        return [link.reference for link in models.find(**asked)]  # type: ignore[arg-type]

    assert found() == ["limiter/a", "scorer/1", "scorer/2"]
    assert [link.reference for link in models.of_service("fraud")] == ["scorer/1", "scorer/2"]
    assert found(view="limits") == ["limiter/a", "scorer/1", "scorer/2"]
    assert found(view="activity") == ["scorer/1", "scorer/2"]
    assert found(view="activity@1") == ["scorer/1"]
    assert found(feature="activity:count") == ["scorer/1", "scorer/2"]
    assert found(feature="activity@2:count") == ["scorer/2"]
    assert found(service="other", view="activity") == []


def test_what_nothing_is_called_is_told_with_the_nearest(models: Models) -> None:
    models.link("scorer", "1", "fraud")
    with pytest.raises(UnknownFeatureServiceError, match="'fraude'"):
        models.of_service("fraude")
    with pytest.raises(UnknownViewError, match="there is no view 'activty'"):
        models.find(view="activty")
    with pytest.raises(UnknownFeatureError, match="view 'activity' has no feature 'cuont'"):
        models.find(feature="activity:cuont")
    with pytest.raises(RegistryError, match="version 2 of model 'scorer' is not linked") as caught:
        models.of_model("scorer", "2")
    assert caught.value.hint == "linked are 1"
    with pytest.raises(RegistryError, match="model 'score'") as caught:
        models.of_model("score", "1")
    assert "did you mean 'scorer'" in str(caught.value.hint)
    with pytest.raises(RegistryError, match="has a name and a version"):
        models.link("", "1", "fraud")


def test_it_is_told_what_became_of_a_model_s_features(registry: Registry, models: Models) -> None:
    models.link("scorer", "1", "fraud")
    assert now(registry).service == "same"
    assert [(pin.computed, pin.role) for pin in now(registry).pins] == [(1, "served"), (1, "served")]

    computes(registry, 2, promote=True)
    assert now(registry).service == "same", "the service goes on pinning what it pinned"
    assert [(pin.computed, pin.role) for pin in now(registry).pins] == [(1, "previous"), (1, "served")]

    computes(registry, 2, pinned=False)
    found = now(registry)
    assert (found.service, found.readable) == ("other", True)
    assert (found.pins[0].computed, found.pins[0].service_pins) == (1, 2)

    registry.versions.retire("activity", 1)
    found = now(registry)
    assert (found.readable, found.pins[0].computed, found.pins[0].role) == (False, None, None)


def test_a_service_with_another_owner_asks_for_the_same(registry: Registry, models: Models) -> None:
    models.link("scorer", "1", "fraud")
    owned = msgspec.structs.replace(service(view(), view("limits")), owner="somebody@example.com")
    apply(registry, view(), view("limits"), services=(owned,))
    assert registry.feature_services()["fraud"].spec.owner == "somebody@example.com"
    assert now(registry).service == "same"
    assert edges_into(registry, "model", "scorer/1") == {("fraud", "")}


def test_a_version_that_was_begun_anew_gives_a_model_the_same(registry: Registry, models: Models) -> None:
    models.link("scorer", "1", "fraud")
    registry.versions.begin_anew("activity")
    found = now(registry)
    assert (found.service, found.readable) == ("same", True)
    assert [(pin.version, pin.computed) for pin in found.pins] == [(1, 2), (1, 1)]


def edges_into(registry: Registry, kind: str, name: str) -> set[tuple[str, str]]:
    graph = deployed_lineage(registry.database)
    return {(edge.source.name, edge.role) for edge in graph.inputs[Node(kind, name)]}  # type: ignore[arg-type]


def test_lineage_runs_from_the_topic_to_the_model(registry: Registry, models: Models) -> None:
    models.link("scorer", "1", "fraud")
    graph = deployed_lineage(registry.database)
    reached = {edge.target for edge in graph.edges_from(graph.find("payments"), "downstream")}
    assert {Node("feature", "limits:count"), Node("service", "fraud"), Node("model", "scorer/1")} < reached
    above = {edge.source for edge in graph.edges_from(graph.find("scorer/1"), "upstream")}
    assert {Node("topic", "payments"), Node("column", "payments.ts"), Node("service", "fraud")} < above
    below = {edge.target for edge in graph.edges_from(graph.find("activity"), "downstream")}
    assert below == {Node("service", "fraud"), Node("model", "scorer/1")}, "a view is read by way of its features"


def test_a_version_that_is_read_beside_the_served_one_is_in_the_graph(registry: Registry, models: Models) -> None:
    models.link("scorer", "1", "fraud")
    computes(registry, 2, promote=True)
    assert edges_into(registry, "service", "fraud") == {("activity@1:count", ""), ("limits:count", "")}
    assert ("payments.ts", "time") in edges_into(registry, "feature", "activity@1:count")
    graph = deployed_lineage(registry.database)
    assert graph.edges_from(Node("view", "activity"), "downstream") == [], "nobody reads the served one"

    computes(registry, 2, pinned=False)
    assert edges_into(registry, "service", "fraud") == {("activity:count", ""), ("limits:count", "")}
    assert edges_into(registry, "model", "scorer/1") == {
        ("fraud", ""),
        ("activity@1:count", "as linked"),
        ("limits:count", "as linked"),
    }
    registry.versions.retire("activity", 1)
    assert ("activity@1:count", "as linked") in edges_into(registry, "model", "scorer/1")
    assert edges_into(registry, "feature", "activity@1:count") == set(), "nothing computes it"


def test_the_change_of_a_source_reaches_services_and_models(registry: Registry, models: Models) -> None:
    only_limits: FeatureServiceSpec = service(view("limits"), name="other")
    apply(registry, view(), view("limits"), services=(only_limits,))
    models.link("scorer", "1", "fraud")
    models.link("limiter", "1", "other")
    changed = msgspec.structs.replace(SOURCE, allowed_lateness_us=7)
    plan = registry.plan(resolved(view(), view("limits"), source=changed))
    graph = deployed_lineage(registry.database)
    assert reached_readers(plan, graph) == {"payments": Readers(("fraud", "other"), ("limiter/1", "scorer/1"))}
    told = msgspec.structs.replace(SOURCE, owner="somebody@example.com")
    plan = registry.plan(resolved(view(), view("limits"), source=told))
    assert reached_readers(plan, graph) == {"payments": Readers((), ())}


def test_a_plan_s_review_names_the_models_of_a_service(registry: Registry, models: Models) -> None:
    apply(registry, view(), view("limits"), services=(service(view("limits"), name="other"),))
    models.link("scorer", "1", "fraud")
    models.link("scorer", "2", "fraud")
    told = in_use(registry, 30)
    assert told["activity:count"] == ["feature service fraud (model scorer/1, scorer/2)"]
    assert told["limits:count"] == ["feature service fraud (model scorer/1, scorer/2)", "feature service other"]
