"""Features towards their consumers: who reads what is gone is named."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from featurestore.contracts.baseline import Baseline, Snapshot
from featurestore.contracts.evolution import feature_changes
from featurestore.contracts.gather import Project, gather
from featurestore.definitions.specs import EntitySpec, JoinKeySpec, ViewSpec

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project() -> Project:
    return gather(["pipelines/transactions.py"], ROOT)


def failed(project: Project, old: ViewSpec, **options: object) -> list[tuple[str, str]]:
    baseline = Baseline("what was", Snapshot({}, {old.name: old}, {}))
    found = feature_changes(project, baseline, **options)  # type: ignore[arg-type]
    return [(one.subject, one.message) for one in found if one.level == "failed"]


def test_readers_of_a_feature_that_is_gone_are_named(project: Project):
    now = project.resolved.views["card_activity"]
    gone = msgspec.structs.replace(now.features[0], name="count_5m")
    old = msgspec.structs.replace(now, features=(gone, *now.features))
    consumers = {"card_activity:count_5m": ["fraud_model", "audit"], "card_activity:count_10m": ["other"]}
    assert failed(project, old, consumers=consumers) == [
        ("card_activity:count_5m", "it is gone; read by audit, fraud_model")
    ]
    assert failed(project, old) == [("card_activity:count_5m", "it is gone")]
    assert failed(project, old, accepted=["card_activity:count_5m"]) == []
    assert failed(project, old, accepted=["card_activity:count_10m"]) != []


def test_new_features_and_another_order_break_nobody(project: Project):
    now = project.resolved.views["card_activity"]
    assert failed(project, msgspec.structs.replace(now, features=now.features[:0:-1])) == []


def test_other_join_keys_break_a_view(project: Project):
    key = JoinKeySpec(name="card_id", dtype="Int64")
    old = msgspec.structs.replace(
        project.resolved.views["card_activity"], entities=(EntitySpec(name="card", join_keys=(key,)),)
    )
    assert failed(project, old) == [
        ("view card_activity", "its join keys were card_id (Int64) and are card_id (String)")
    ]


def test_a_view_of_another_module_is_not_gone(project: Project):
    old = msgspec.structs.replace(project.resolved.views["card_activity"], name="of_another_module")
    assert not project.whole
    assert failed(project, old) == []
