"""Feature services in the registry: plans field by field, and the versions that they pin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from featurestore.definitions.resolve import ResolvedDefinitions, fingerprint
from featurestore.definitions.specs import FeatureServiceSpec, ServiceViewSpec, ViewSpec
from featurestore.errors import PinnedVersionError, RegistryError, UnknownFeatureServiceError
from featurestore.registry import Change, FieldChange, Plan, Registry
from featurestore.registry.services import check_pin, find_service
from tests.factories import sliding, source_spec
from tests.serving.support import ACCOUNT, CARD

SOURCE = source_spec()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry.open(tmp_path / "registry.db")
    yield opened
    opened.close()


def service(*views: ViewSpec, name: str = "fraud", features: int = 1, **more: Any) -> FeatureServiceSpec:
    parts = (
        ServiceViewSpec(
            name=view.name,
            features=tuple(feature.name for feature in view.features[:features]),
            fingerprint=fingerprint(view),
        )
        for view in views
    )
    return FeatureServiceSpec(name=name, views=tuple(parts), **more)


def resolved(*views: ViewSpec, services: tuple[FeatureServiceSpec, ...] = ()) -> ResolvedDefinitions:
    by_name = {view.name: view for view in views}
    return ResolvedDefinitions({SOURCE.name: SOURCE}, by_name, {}, {one.name: one for one in services})


def apply(registry: Registry, *views: ViewSpec, services: tuple[FeatureServiceSpec, ...] = ()) -> Plan:
    plan = registry.plan(resolved(*views, services=services))
    registry.apply(plan)
    return plan


def changed(view: ViewSpec) -> ViewSpec:
    """It computes something else."""
    first, *others = view.features
    return msgspec.structs.replace(view, features=(msgspec.structs.replace(first, window=sliding(20)), *others))


def versions(registry: Registry) -> dict[str, int]:
    return {view.name: view.version for view in registry.feature_services()["fraud"].spec.views}


def test_a_service_is_added_with_the_versions_of_its_views_and_again_changes_nothing(registry: Registry) -> None:
    apply(registry, CARD)
    apply(registry, changed(CARD))
    wanted = service(changed(CARD), ACCOUNT, owner="risk")
    plan = apply(registry, changed(CARD), ACCOUNT, services=(wanted,))
    assert Change("add", "feature_service", "fraud") in plan.added
    assert "+ feature service fraud" in plan.render()
    assert versions(registry) == {"card_activity": 2, "account_activity": 1}
    found = registry.feature_services()["fraud"]
    assert (found.spec.owner, found.spec.references) == ("risk", wanted.references)
    assert found.applied_by
    assert not apply(registry, changed(CARD), ACCOUNT, services=(wanted,)).has_changes


def test_what_changes_is_told_field_by_field(registry: Registry) -> None:
    apply(registry, CARD, services=(service(CARD),))
    plan = apply(registry, CARD, services=(service(CARD, features=2, owner="risk"),))
    assert plan.changed == (
        Change(
            "change",
            "feature_service",
            "fraud",
            (
                FieldChange("owner", "", "risk"),
                FieldChange("views.card_activity.features", ("count_10m",), ("count_10m", "amount_sum_10m")),
            ),
        ),
    )


def test_a_service_keeps_what_its_model_was_trained_with_when_a_view_changes(registry: Registry) -> None:
    apply(registry, CARD, services=(service(CARD),))
    plan = apply(registry, changed(CARD), services=(service(changed(CARD)),))
    assert [(change.kind, change.name) for change in plan.changed] == [("view", "card_activity")]
    assert versions(registry) == {"card_activity": 1}


def test_a_service_that_asks_for_other_features_pins_the_version_to_come(registry: Registry) -> None:
    apply(registry, CARD, services=(service(CARD),))
    wider = service(changed(CARD), features=2)
    plan = apply(registry, changed(CARD), services=(wider,))
    (change,) = (change for change in plan.changed if change.kind == "feature_service")
    assert FieldChange("views.card_activity.version", 1, 2) in change.fields
    assert versions(registry) == {"card_activity": 2}


def test_a_version_that_was_begun_anew_changes_no_service(registry: Registry) -> None:
    apply(registry, CARD, services=(service(CARD),))
    registry.versions.begin_anew(CARD.name)
    view = registry.view(CARD.name)
    assert not apply(registry, CARD, services=(service(CARD),)).has_changes
    pin = registry.feature_services()["fraud"].spec.views[0]
    assert (pin.version, view.version) == (1, 2)
    check_pin("fraud", pin, view.version, view.fingerprint)


def test_a_pin_on_what_is_no_longer_deployed_is_told() -> None:
    pin = ServiceViewSpec(name="cards", features=("a",), fingerprint="old", version=3)
    check_pin("fraud", pin, 3, "old")
    with pytest.raises(PinnedVersionError, match=r"'fraud' reads version 3 of view 'cards', deployed is version 4"):
        check_pin("fraud", pin, 4, "new")


def test_a_service_that_is_not_in_the_modules_is_left_and_told(registry: Registry) -> None:
    apply(registry, CARD, services=(service(CARD),))
    plan = apply(registry, CARD)
    assert plan.absent == (Change("absent", "feature_service", "fraud"),)
    assert not plan.has_changes
    assert list(registry.feature_services()) == ["fraud"]


def test_a_service_may_have_the_name_of_a_view_and_takes_no_version_of_it(registry: Registry) -> None:
    plan = apply(registry, CARD, services=(service(CARD, name=CARD.name),))
    assert Change("add", "feature_service", CARD.name) in plan.added
    assert registry.view(CARD.name).version == 1


def test_a_plan_of_before_is_refused_when_a_view_of_the_service_changed_meanwhile(registry: Registry) -> None:
    apply(registry, CARD)
    plan = registry.plan(resolved(CARD, services=(service(CARD),)))
    apply(registry, changed(CARD))
    with pytest.raises(RegistryError, match="changed since the plan was made"):
        registry.apply(plan)
    assert registry.feature_services() == {}


def test_an_unknown_service_is_told_with_the_nearest() -> None:
    services = {"fraud_v3": service(CARD, name="fraud_v3")}
    assert find_service(services, "fraud_v3").name == "fraud_v3"
    with pytest.raises(UnknownFeatureServiceError, match="did you mean 'fraud_v3'"):
        find_service(services, "fraud_v2")
