"""What a change asks of others: its class, field by field, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert

from featurestore.definitions.resolve import ResolvedDefinitions
from featurestore.definitions.specs import (
    ColumnSpec,
    EntitySpec,
    FeatureServiceSpec,
    FeatureSpec,
    JoinKeySpec,
    ServiceViewSpec,
    SLOSpec,
    SourceSpec,
    ViewSpec,
)
from featurestore.errors import BreakingChangeError
from featurestore.registry import Registry
from featurestore.registry.changes import Judgement, judge_changes
from featurestore.registry.plan import Change, Plan, Spec, field_changes, needs_new_version
from featurestore.registry.review import review
from featurestore.registry.tables import FEATURE_READS
from tests.registry.support import HOUR, SOURCE, apply, count, resolved, service, view

AMOUNT = ColumnSpec(name="amount", dtype="Float64")
PAID = msgspec.structs.replace(SOURCE, columns=(*SOURCE.columns, AMOUNT, ColumnSpec(name="note", dtype="String")))
TOTAL = FeatureSpec(
    name="total",
    function="sum",
    window=count().window,
    column="amount",
    input_dtype="Float64",
    output_dtype="Float64",
)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry.open(tmp_path / "registry.db")
    yield opened
    opened.close()


def with_total(**changes: Any) -> ViewSpec:
    return view(features=(count(), msgspec.structs.replace(TOTAL, **changes)))


def judged(registry: Registry, wanted: ResolvedDefinitions, days: int = 30) -> dict[str, Judgement]:
    """By "kind.field" of what a plan changes."""
    found = review(registry, registry.plan(wanted), days)
    return {
        f"{one.change.kind}.{field.path}": judgement
        for one in found.changes
        for field, judgement in zip(one.change.fields, one.fields, strict=False)
        if one.change.action == "change"
    }


OTHER_KEY = EntitySpec(name="card", join_keys=(JoinKeySpec(name="card_number", dtype="String"),))
OF_A_VIEW: list[tuple[ViewSpec, str, str]] = [
    (view(owner="risk"), "owner", "compatible"),
    (view(description="x"), "description", "compatible"),
    (view(tags={"tier": "1"}), "tags.tier", "compatible"),
    (view(criticality="critical"), "criticality", "compatible"),
    (with_total(), "features.total.window.size_us", "compatible"),
    (view(hours=2), "features.count.window.size_us", "re-aggregating"),
    (view(where='col("ok")'), "where", "re-aggregating"),
    (view(derive=(("a", "lit(1)"),)), "derive.a", "re-aggregating"),
    (view(ttl_us=HOUR), "ttl_us", "re-aggregating"),
    (view(snapshot_every_us=HOUR), "snapshot_every_us", "re-aggregating"),
    (view(start="latest"), "start", "re-aggregating"),
    (view(entities=(OTHER_KEY,)), "entities.card.join_keys.card_number.dtype", "breaking"),
    (
        view(features=(msgspec.structs.replace(count(), output_dtype="Float64"),)),
        "features.count.output_dtype",
        "breaking",
    ),
    (
        view(features=(msgspec.structs.replace(count(), default=0),)),
        "features.count.default",
        "re-aggregating",
    ),
]


@pytest.mark.parametrize(("after", "path", "severity"), OF_A_VIEW, ids=[path for _, path, _ in OF_A_VIEW])
def test_the_class_of_each_field_of_a_view(registry: Registry, after: ViewSpec, path: str, severity: str) -> None:
    apply(registry, view())
    found = judged(registry, resolved(after))
    assert found[f"view.{path}"].severity == severity
    assert found[f"view.{path}"].reason


def source(**changes: Any) -> SourceSpec:
    return msgspec.structs.replace(PAID, **changes)


OF_A_SOURCE: list[tuple[SourceSpec, str, str]] = [
    (source(owner="risk"), "owner", "compatible"),
    (source(allowed_lateness_us=7), "allowed_lateness_us", "compatible"),
    (source(max_out_of_orderness_us=7), "max_out_of_orderness_us", "compatible"),
    (source(topic="other"), "topic", "breaking"),
    (source(event_time="booked"), "event_time", "breaking"),
    (source(columns=(*PAID.columns, ColumnSpec(name="new", dtype="String"))), "columns.new.dtype", "compatible"),
    (source(columns=PAID.columns[:-1]), "columns.note.dtype", "compatible"),
    (
        source(columns=(*PAID.columns[:2], ColumnSpec(name="amount", dtype="Int64"), PAID.columns[3])),
        "columns.amount.dtype",
        "breaking",
    ),
    (source(columns=(*PAID.columns[:2], PAID.columns[3])), "columns.amount.dtype", "breaking"),
]


@pytest.mark.parametrize(("after", "path", "severity"), OF_A_SOURCE)
def test_the_class_of_each_field_of_a_source(registry: Registry, after: SourceSpec, path: str, severity: str) -> None:
    registry.apply(registry.plan(resolved(with_total(), source=PAID)))
    # The view that reads the column is not in the modules that change it.
    found = judged(registry, ResolvedDefinitions({after.name: after}, {}, {}, {}))
    assert found[f"source.{path}"].severity == severity
    if path.startswith("columns") and severity == "breaking":
        assert "activity:total" in found[f"source.{path}"].reason


def test_a_feature_that_goes_is_breaking_while_a_service_has_it(registry: Registry) -> None:
    apply(registry, with_total())
    assert judged(registry, resolved(view()))["view.features.total.function"].severity == "re-aggregating"
    wanted = service(with_total())
    part = msgspec.structs.replace(wanted.views[0], features=("total",))
    apply(registry, with_total(), services=(msgspec.structs.replace(wanted, views=(part,)),))
    found = judged(registry, resolved(view()))["view.features.total.function"]
    assert found.severity == "breaking"
    assert found.reason == "feature activity:total goes, which is in use: feature service fraud"


def test_a_feature_that_goes_is_breaking_for_some_days_after_it_was_read(registry: Registry) -> None:
    apply(registry, with_total())
    row: dict[str, Any] = {"view": "activity", "feature": "total", "consumer": "fraud-api", "version": 1, "reads": 5}
    at = datetime.now(timezone.utc) - timedelta(days=9)
    with registry.database.transaction(write=True) as connection:
        connection.execute(insert(FEATURE_READS).values(**row, day=f"{at:%Y-%m-%d}", last_read_at=at))
    found = judged(registry, resolved(view()), days=10)["view.features.total.function"]
    assert found.severity == "breaking"
    assert f"read by fraud-api on {at:%Y-%m-%d}" in found.reason
    assert judged(registry, resolved(view()), days=8)["view.features.total.function"].severity == "re-aggregating"


def test_a_service_that_loses_a_feature_is_breaking_and_one_that_gains_is_not(registry: Registry) -> None:
    both = service(with_total())
    wide = msgspec.structs.replace(both, views=(msgspec.structs.replace(both.views[0], features=("count", "total")),))
    apply(registry, with_total(), services=(both,))
    assert (
        judged(registry, resolved(with_total(), services=(wide,)))["feature_service.views.activity.features"].severity
        == "compatible"
    )
    apply(registry, with_total(), services=(wide,))
    found = judged(registry, resolved(with_total(), services=(both,)))["feature_service.views.activity.features"]
    assert (found.severity, "activity:total" in found.reason) == ("breaking", True)


def test_what_breaks_is_refused_with_each_reason(registry: Registry) -> None:
    apply(registry, with_total(), view("other"), services=(service(view("other")),))
    wanted = resolved(
        with_total(output_dtype="Int64"), view("other", entities=(OTHER_KEY,)), services=(service(view("other")),)
    )
    found = review(registry, registry.plan(wanted), 30)
    with pytest.raises(BreakingChangeError) as caught:
        found.refuse_breaking()
    assert "the type of feature activity:total changes from Float64 to Int64" in caught.value.message
    assert "the join keys of view other change" in caught.value.message
    assert "--allow-breaking" in (caught.value.hint or "")
    assert "breaking: the type of feature" in found.render()


def test_a_plan_of_nothing_and_of_new_things_breaks_nothing(registry: Registry) -> None:
    found = review(registry, registry.plan(resolved(view())), 30)
    assert (found.breaking, {one.severity for one in found.changes}) == ((), {"compatible"})
    apply(registry, view())
    assert review(registry, registry.plan(resolved(view())), 30).render() == "  no changes"


def severities(before: Spec, after: Spec, readers: dict[str, tuple[str, ...]] | None = None) -> dict[str, str]:
    """By path, without a registry."""
    fields = field_changes(before, after)
    change = Change("change", "view", before.name, fields)
    plan = Plan((change,), {("view", before.name): after}, (), {("view", before.name): (1, before)})
    (judged,) = judge_changes(plan, {}, readers or {})
    return {field.path: judgement.severity for field, judgement in zip(fields, judged.fields, strict=True)}


DERIVED = view(derive=(("a", "lit(1)"), ("b", "lit(2)")))
PAYER = msgspec.structs.replace(view().entities[0], name="payer")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (view(), view(entities=(PAYER,))),
        (view(), view(entities=(msgspec.structs.replace(view().entities[0], tags={"team": "a"}),))),
        (view(), view(entities=(msgspec.structs.replace(view().entities[0], owner="risk"),))),
        (DERIVED, msgspec.structs.replace(DERIVED, derive=DERIVED.derive[::-1])),
        (view(), DERIVED),
        (view(), view(ttl_us=HOUR)),
        (view(), view(slo=SLOSpec(freshness_us=HOUR))),
    ],
)
def test_only_what_makes_no_version_is_compatible_a_new_feature_aside(before: ViewSpec, after: ViewSpec) -> None:
    found = set(severities(before, after).values())
    assert (found == {"compatible"}) == (not needs_new_version(before, after))


def test_a_column_of_another_unit_changes_values_where_it_is_read() -> None:
    ts = next(column for column in PAID.columns if column.unit == "ms")
    finer = tuple(msgspec.structs.replace(one, unit="us") if one is ts else one for one in PAID.columns)
    path = f"columns.{ts.name}.unit"
    assert severities(PAID, source(columns=finer))[path] == "compatible"
    readers = {f"{PAID.name}.{ts.name}": ("activity:total",)}
    assert severities(PAID, source(columns=finer), readers)[path] == "re-aggregating"


@pytest.mark.parametrize(
    ("features", "severity"),
    [
        (("a", "b", "new"), "compatible"),
        (("a", "new", "b"), "compatible"),
        (("b", "a"), "breaking"),
        (("a",), "breaking"),
    ],
)
def test_a_service_keeps_its_features_and_their_order(features: tuple[str, ...], severity: str) -> None:
    part = ServiceViewSpec(name="activity", features=("a", "b"), fingerprint="x", version=1)
    before = FeatureServiceSpec(name="fraud", views=(part,))
    after = msgspec.structs.replace(before, views=(msgspec.structs.replace(part, features=features),))
    assert severities(before, after) == {"views.activity.features": severity}
