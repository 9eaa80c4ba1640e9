"""Feature services: what they may hold, how they are found, and what no read could give."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import (
    BatchFeatureView,
    Entity,
    FeatureService,
    Field,
    FileSource,
    KafkaSource,
    StreamFeatureView,
    agg,
)
from featurestore.definitions.discover import load_definitions
from featurestore.definitions.resolve import fingerprint, resolve_all
from featurestore.errors import DefinitionError

CARD = Entity("card", join_keys={"card_id": pl.String})
PAYMENTS = KafkaSource("payments", topic="payments", schema="schemas/transaction.avsc", event_time="ts")


def stream(name: str = "cards", entity: Entity = CARD, **changes: Any) -> StreamFeatureView:
    features = changes.pop("features", [agg.count(over=["10m", "1h"]), agg.sum("amount", over="1h")])
    return StreamFeatureView(name, source=PAYMENTS, entities=[entity], features=features, **changes)


def batch(name: str = "limits", *fields: str) -> BatchFeatureView:
    made = [Field(field, pl.Float64) for field in fields or ("credit", "tier")]
    return BatchFeatureView(name, FileSource("limits.parquet", event_time="at"), [CARD], made)


def test_a_view_stands_for_all_its_features_and_a_selection_for_some_in_its_order() -> None:
    service = FeatureService("fraud", features=[stream()[["amount_sum_1h", "count_10m"]], batch()])
    assert service.references == ("cards:amount_sum_1h", "cards:count_10m", "limits:credit", "limits:tier")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("count_10m", r"no list of features\nHint: write cards\[\[\"count_10m\"\]\]"),
        ([], "no list of features"),
        (["count_10"], r"no feature 'count_10'\nHint: did you mean 'count_10m'"),
        ([3], "no feature 3"),
        (["count_1h", "count_1h"], "selected 2 times"),
    ],
)
def test_a_wrong_selection_is_told(names: Any, told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        stream()[names]


def test_a_view_can_not_be_gone_through() -> None:
    for view in (stream(), batch()):
        with pytest.raises(TypeError):
            list(view)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "fraud v3"}, "not a valid name"),
        ({"features": []}, "not a list with something in it"),
        ({"features": stream()}, "not a list with something in it"),
        ({"features": ["cards:count_10m"]}, "features holds 'cards:count_10m'"),
        ({"features": [stream()[["count_10m"]], stream()[["count_1h"]]]}, "view 'cards' is named 2 times"),
        ({"owner": None}, "owner is None"),
        ({"tags": {"tier": 1}}, "names and values are text"),
        (
            {"features": [stream(), stream("other", Entity("number", join_keys={"card_id": pl.Int64}))]},
            "join key 'card_id' is String in view 'cards', Int64 in 'other'",
        ),
        (
            {"features": [batch("a", "b__c"), batch("a__b", "c")]},
            "'a__b:c' and 'a:b__c' are both named 'a__b__c'",
        ),
        (
            {"features": [batch("a", "b"), stream("c", Entity("odd", join_keys={"a__b": pl.String}))]},
            "'a:b' and a join key are both named 'a__b'",
        ),
    ],
)
def test_a_wrong_service_is_told(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        FeatureService(**{"name": "fraud", "features": [stream()], **changes})


def test_two_features_of_one_name_are_allowed_for_their_full_names_differ() -> None:
    service = FeatureService("fraud", features=[stream()[["count_1h"]], stream("other")[["count_1h"]]])
    assert service.references == ("cards:count_1h", "other:count_1h")


def test_what_was_passed_can_not_change_it() -> None:
    parts, tags = [stream()], {"tier": "1"}
    service = FeatureService("fraud", features=parts, tags=tags)
    parts.clear()
    tags.clear()
    assert (len(service.references), service.tags) == (3, {"tier": "1"})


MODULE = """
import polars as pl
from featurestore import Entity, FeatureService, KafkaSource, StreamFeatureView, agg

card = Entity("card", join_keys={"card_id": pl.String})
payments = KafkaSource("payments", topic="payments", schema="payments.avsc", event_time="ts")
cards = StreamFeatureView("cards", source=payments, entities=[card], features=[agg.count(over=["10m", "1h"])])
"""
SCHEMA = """{"type": "record", "name": "p", "fields": [
{"name": "card_id", "type": "string"}, {"name": "ts", "type": "long"}]}"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "of_service_test").mkdir()
    (tmp_path / "of_service_test" / "views.py").write_text(MODULE)
    (tmp_path / "payments.avsc").write_text(SCHEMA)
    for name in [name for name in sys.modules if name.startswith("of_service_test")]:
        del sys.modules[name]
    return tmp_path


def test_a_module_of_services_brings_their_views_and_what_these_need(project: Path) -> None:
    text = (
        "from featurestore import FeatureService\nfrom of_service_test import views\n"
        'fraud = FeatureService("fraud", features=[views.cards[["count_1h"]]], owner="risk", tags={"tier": "1"})\n'
    )
    (project / "of_service_test" / "services.py").write_text(text)
    found = load_definitions(["of_service_test.services"], project)
    assert (list(found.views), list(found.sources), list(found.entities)) == (["cards"], ["payments"], ["card"])
    resolved = resolve_all(found, project)
    spec = resolved.feature_services["fraud"]
    assert (spec.references, spec.owner, spec.tags) == (("cards:count_1h",), "risk", {"tier": "1"})
    assert [(view.version, view.fingerprint) for view in spec.views] == [(0, fingerprint(resolved.views["cards"]))]


def test_two_services_of_one_name_are_refused(project: Path) -> None:
    text = MODULE + "from featurestore import FeatureService\n"
    text += 'a = FeatureService("fraud", features=[cards])\nb = FeatureService("fraud", features=[cards])\n'
    (project / "of_service_test" / "views.py").write_text(text)
    with pytest.raises(DefinitionError, match="feature service 'fraud' is defined twice"):
        load_definitions(["of_service_test.views"], project)
