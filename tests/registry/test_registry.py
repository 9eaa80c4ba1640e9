"""The registry: versions, plans, and what happens when two apply at once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from featurestore.definitions.resolve import ResolvedDefinitions, fingerprint
from featurestore.definitions.specs import (
    ColumnSpec,
    EntitySpec,
    FeatureSpec,
    JoinKeySpec,
    SourceSpec,
    ViewSpec,
    WindowSpec,
)
from featurestore.errors import RegistryError, UnknownViewError
from featurestore.registry import Change, FieldChange, Plan, Registry

HOUR = 3_600_000_000
CARD = EntitySpec(name="card", join_keys=(JoinKeySpec(name="card_id", dtype="String"),))
SOURCE = SourceSpec(
    name="payments",
    topic="payments",
    schema="payments.avsc",
    format="json",
    event_time="ts",
    max_out_of_orderness_us=0,
    allowed_lateness_us=0,
    idle_timeout_us=1,
    max_future_us=1,
    columns=(ColumnSpec(name="card_id", dtype="String"), ColumnSpec(name="ts", dtype="Datetime", unit="ms")),
)


def count(hours: int = 1) -> FeatureSpec:
    window = WindowSpec(kind="sliding", size_us=hours * HOUR)
    return FeatureSpec(name=f"count_{hours}h", function="count", window=window, output_dtype="Int64")


def view(name: str = "activity", **changes: Any) -> ViewSpec:
    fields: dict[str, Any] = {"source": "payments", "entities": (CARD,), "features": (count(),)}
    return ViewSpec(name=name, **{**fields, **changes})


def resolved(*views: ViewSpec, source: SourceSpec = SOURCE) -> ResolvedDefinitions:
    return ResolvedDefinitions({source.name: source}, {view.name: view for view in views})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry" / "registry.db"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    opened = Registry.open(path)
    yield opened
    opened.close()


def apply(registry: Registry, *views: ViewSpec, source: SourceSpec = SOURCE) -> Plan:
    plan = registry.plan(resolved(*views, source=source))
    registry.apply(plan, promote=True)
    return plan


def keys(changes: Sequence[Change]) -> list[tuple[str, str]]:
    return [(change.kind, change.name) for change in changes]


# Applying


def test_what_was_applied_is_read_back(registry: Registry) -> None:
    before = datetime.now(timezone.utc)
    apply(registry, view(where='col("ok")', derive=(("x", "lit(1)"),), tags={"tier": "1"}))
    found = registry.view("activity")
    assert found.spec == view(where='col("ok")', derive=(("x", "lit(1)"),), tags={"tier": "1"})
    assert (found.version, found.fingerprint) == (1, fingerprint(found.spec))
    assert before - timedelta(seconds=1) <= found.applied_at <= datetime.now(timezone.utc)
    assert found.applied_by
    assert registry.views() == [found]
    assert registry.source("payments") == SOURCE


def test_it_survives_being_closed_and_may_be_named_by_text(registry: Registry, path: Path) -> None:
    apply(registry, view())
    registry.close()
    again = Registry.open(str(path), create=False)
    assert [found.spec.name for found in again.views()] == ["activity"]
    again.close()


def test_applying_the_same_again_changes_nothing(registry: Registry) -> None:
    apply(registry, view())
    first = registry.view("activity")
    plan = apply(registry, view())
    assert (plan.has_changes, plan.changes) == (False, ())
    assert plan.unchanged == (("entity", "card"), ("source", "payments"), ("view", "activity"))
    assert registry.view("activity") == first


def test_every_change_of_what_is_computed_is_a_new_version_but_back_to_one_that_is_computed_still(
    registry: Registry,
) -> None:
    for expected, hours in ((1, 1), (2, 2), (1, 1), (2, 2)):
        apply(registry, view(features=(count(hours),)))
        assert registry.view("activity").version == expected
    registry.versions.retire("activity", 1)
    apply(registry, view(features=(count(1),)))
    assert registry.view("activity").version == 3


METADATA: list[dict[str, Any]] = [
    {"owner": "risk@example.com"},
    {"description": "Text."},
    {"tags": {"tier": "critical"}},
    {"entities": (msgspec.structs.replace(CARD, description="A card."),)},
    {"derive": (("b", "lit(2)"), ("a", "lit(1)"))},
]


@pytest.mark.parametrize("changes", METADATA)
def test_a_change_of_what_is_told_about_a_view_keeps_its_version_and_rows(
    registry: Registry, changes: dict[str, Any]
) -> None:
    # A new version begins empty: a better description must not cost its features.
    derive = (("a", "lit(1)"), ("b", "lit(2)"))
    apply(registry, view(derive=derive))
    plan = apply(registry, view(**{"derive": derive, **changes}))
    assert ("view", "activity") in keys(plan.changed)
    found = registry.view("activity")
    assert (found.version, found.spec) == (1, view(**{"derive": derive, **changes}))


def test_features_in_another_order_are_a_new_version(registry: Registry) -> None:
    # Stored rows hold their fields in the order of the features: read in another one they would be wrong numbers.
    apply(registry, view(features=(count(1), count(2))))
    (change,) = apply(registry, view(features=(count(2), count(1)))).changed
    assert change.new_version == 2
    assert change.fields == (FieldChange("features.order", ["count_1h", "count_2h"], ["count_2h", "count_1h"]),)


def test_a_views_id_is_its_own_for_good(registry: Registry) -> None:
    apply(registry, view("a"), view("b"))
    ids = {found.spec.name: found.view_id for found in registry.views()}
    apply(registry, view("a", features=(count(2),)), view("c"))
    after = {found.spec.name: found.view_id for found in registry.views()}
    assert len(set(after.values())) == 3
    assert ids.items() <= after.items()


def test_apply_never_drops_a_view(registry: Registry) -> None:
    apply(registry, view("a"), view("b"))
    plan = apply(registry, view("b"))
    assert keys(plan.absent) == [("view", "a")]
    assert plan.has_changes is False
    assert [found.spec.name for found in registry.views()] == ["a", "b"]


def test_a_version_that_was_reset_begins_where_it_was_told_and_the_next_as_its_definition_says(
    registry: Registry, path: Path
) -> None:
    apply(registry, view(start="earliest"))
    assert registry.view("activity").start == "earliest"
    registry.versions.begin_anew("activity", "latest")
    assert registry.view("activity").start == "latest"
    assert registry.view("activity").spec.start == "earliest"
    assert [found.start for found in registry.views()] == ["latest"]
    apply(registry, view(features=(count(2),), start="earliest"))
    found = registry.view("activity")
    assert (found.version, found.start) == (3, "earliest")
    registry.versions.begin_anew("activity")
    assert registry.view("activity").start == "earliest"


def test_a_watermark_reset_is_kept_with_who_when_and_why(registry: Registry, path: Path) -> None:
    apply(registry, view("a"), view("b"))
    assert registry.watermark_resets("a") == []
    registry.record_watermark_reset(registry.view("a"), 9 * HOUR, -HOUR, "a wrong clock")
    registry.record_watermark_reset(registry.view("b"), 1, 0, "other")
    registry.versions.begin_anew("a")
    registry.record_watermark_reset(registry.view("a"), 8 * HOUR, HOUR, "again")
    first, second = registry.watermark_resets("a")
    assert (first.version, first.from_us, first.to_us, first.reason) == (1, 9 * HOUR, -HOUR, "a wrong clock")
    assert (second.version, second.reason) == (2, "again")
    assert first.by == registry.view("a").applied_by
    assert timedelta(0) <= datetime.now(timezone.utc) - first.at < timedelta(minutes=1)


# Plans


def test_a_plan_writes_nothing(registry: Registry) -> None:
    plan = registry.plan(resolved(view()))
    assert keys(plan.added) == [("entity", "card"), ("source", "payments"), ("view", "activity")]
    assert plan.has_changes
    assert registry.views() == []


def test_a_plan_tells_changes_field_by_field(registry: Registry) -> None:
    apply(registry, view(derive=(("a", "lit(1)"),)))
    late = msgspec.structs.replace(SOURCE, allowed_lateness_us=5)
    changed = view(features=(count(), count(2)), derive=(("a", "lit(2)"),), ttl_us=HOUR)
    source_change, view_change = registry.plan(resolved(changed, source=late)).changed
    assert source_change.fields == (FieldChange("allowed_lateness_us", 0, 5),)
    paths = {field.path: (field.before, field.after) for field in view_change.fields}
    assert paths["derive.a"] == ("lit(1)", "lit(2)")
    assert paths["ttl_us"] == (0, HOUR)
    assert paths["features.count_2h.window.size_us"] == (None, 2 * HOUR)
    assert not any(path.startswith("features.count_1h") for path in paths)


def test_a_plan_as_text_has_a_line_for_each_definition_and_field(registry: Registry) -> None:
    apply(registry, view("old"), view("kept"))
    text = registry.plan(resolved(view("kept", owner="risk"), view("new"))).render()
    assert text.splitlines() == [
        "  ~ view kept version 1",
        '      owner: "" -> "risk"',
        "  + view new version 1",
        "    view old (deployed, not in these modules; left as it is)",
    ]
    assert registry.plan(resolved(view("old"), view("kept"))).render() == "  no changes"


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([view(features=(count(3),))], id="another change"),
        # After the way back the definition is what it was, but version 2 is taken.
        pytest.param([view(features=(count(3),)), view()], id="a change and its reversal"),
    ],
)
def test_a_plan_that_no_longer_fits_is_refused(registry: Registry, others: list[ViewSpec]) -> None:
    apply(registry, view())
    stale = registry.plan(resolved(view(features=(count(2),))))
    for other in others:
        apply(registry, other)
    with pytest.raises(RegistryError, match="view 'activity' changed since the plan was made"):
        registry.apply(stale)
    assert registry.view("activity").spec == others[-1]


def test_a_plan_whose_source_changed_meanwhile_is_refused(registry: Registry) -> None:
    # The view was checked against the source as it was.
    apply(registry, view())
    stale = registry.plan(resolved(view(features=(count(2),))))
    apply(registry, view(), source=msgspec.structs.replace(SOURCE, topic="other"))
    with pytest.raises(RegistryError, match="source 'payments' changed"):
        registry.apply(stale)


def test_a_refused_plan_writes_nothing_of_itself(registry: Registry) -> None:
    stale = registry.plan(resolved(view("a"), view("b")))
    apply(registry, view("b", features=(count(2),)))
    with pytest.raises(RegistryError):
        registry.apply(stale)
    assert [found.spec.name for found in registry.views()] == ["b"]


def test_the_same_definitions_applied_from_many_places_at_once_are_one_version(path: Path) -> None:
    Registry.open(path).close()
    errors: list[BaseException] = []
    start = threading.Barrier(6)

    def work() -> None:
        registry = Registry.open(path)
        try:
            plan = registry.plan(resolved(view("a"), view("b")))
            start.wait(30)
            registry.apply(plan)
        except BaseException as error:
            errors.append(error)
            raise
        finally:
            registry.close()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    registry = Registry.open(path, create=False)
    assert [(found.spec.name, found.version) for found in registry.views()] == [("a", 1), ("b", 1)]
    registry.close()


def test_different_changes_applied_at_once_have_one_winner(path: Path) -> None:
    registry = Registry.open(path)
    apply(registry, view())
    plans = [registry.plan(resolved(view(features=(count(hours),)))) for hours in range(2, 8)]
    refused: list[RegistryError] = []

    def work(plan: Plan) -> None:
        mine = Registry.open(path)
        try:
            mine.apply(plan, promote=True)
        except RegistryError as error:
            refused.append(error)
        finally:
            mine.close()

    threads = [threading.Thread(target=work, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == len(plans) - 1
    assert registry.view("activity").version == 2
    registry.close()


# Reading, and what can go wrong


def test_an_unknown_view_is_told_with_the_nearest(registry: Registry) -> None:
    apply(registry, view())
    with pytest.raises(UnknownViewError, match="no view 'activty'") as caught:
        registry.view("activty")
    assert "activity" in (caught.value.hint or "")
    with pytest.raises(UnknownViewError):
        registry.view("quite different")


def test_an_unknown_source_is_told(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="no source 'payments'"):
        registry.source("payments")


def test_a_registry_that_is_not_there_is_told_with_the_way_out(path: Path) -> None:
    with pytest.raises(RegistryError, match="no registry") as caught:
        Registry.open(path, create=False)
    assert "featurestore apply" in (caught.value.hint or "")
    assert not path.parent.exists()


def test_a_file_that_is_no_registry_is_told(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(b"not a database, but long enough to look at" * 40)
    for create in (True, False):
        with pytest.raises(RegistryError, match=r"registry\.db"):
            Registry.open(path, create=create).views()


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "registry").write_text("a file")
    with pytest.raises(RegistryError, match="can't be made"):
        Registry.open(tmp_path / "registry" / "deeper" / "registry.db")


def test_a_definition_that_can_not_be_read_is_told(registry: Registry, path: Path) -> None:
    apply(registry, view())
    with sqlite3.connect(path) as database:
        database.execute("UPDATE view_versions SET spec = '{\"name\": 1}'")
    database.close()
    with pytest.raises(RegistryError, match="a definition that can't be read"):
        registry.views()


def test_a_reader_does_not_wait_for_a_writer(registry: Registry, path: Path) -> None:
    apply(registry, view())
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        reader = Registry.open(path, create=False)
        assert [found.spec.name for found in reader.views()] == ["activity"]
        reader.close()
    finally:
        writer.close()


def test_a_user_without_a_name_can_apply(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nameless)
    apply(registry, view())
    assert registry.view("activity").applied_by.startswith("uid ")


def test_a_view_is_paused_and_resumed_once(registry: Registry) -> None:
    apply(registry, view())
    assert registry.paused() == {}
    assert (registry.pause("activity"), registry.pause("activity")) == (True, False)
    assert list(registry.paused()) == ["activity"]
    assert registry.paused()["activity"].tzinfo is not None
    assert (registry.resume("activity"), registry.resume("activity")) == (True, False)
    assert registry.paused() == {}
    with pytest.raises(UnknownViewError, match="activty"):
        registry.pause("activty")


def test_a_view_begun_anew_keeps_id_and_definition_under_the_next_version(registry: Registry) -> None:
    apply(registry, view())
    before = registry.view("activity")
    registry.versions.begin_anew("activity")
    after = registry.view("activity")
    assert (after.view_id, after.version, after.spec) == (before.view_id, before.version + 1, before.spec)
    assert not registry.plan(resolved(view())).has_changes


def test_a_registry_that_is_being_made_is_none_yet(tmp_path: Path) -> None:
    """SQLite makes the file before its first transaction ends."""
    (tmp_path / "registry.db").touch()
    with pytest.raises(RegistryError, match="there is no registry"):
        Registry.open(tmp_path / "registry.db", create=False)
    Registry.open(tmp_path / "registry.db").close()
    assert Registry.open(tmp_path / "registry.db", create=False).views() == []
