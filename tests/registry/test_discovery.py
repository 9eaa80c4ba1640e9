"""Finding what is deployed: filters, and the ranking of a search."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest

from featurestore.definitions.specs import DeprecatedSpec, FeatureMetadataSpec, FeatureSpec, WindowSpec
from featurestore.registry.discovery import Definition, Filter, window_text
from featurestore.registry.plan import Kind, Spec
from featurestore.registry.search import nearest_words, search
from tests.registry.support import CARD, HOUR, SOURCE, count, service, view

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)


def of(kind: Kind, spec: Spec) -> Definition:
    return Definition(kind, spec.name, 1, spec, NOW, "me", NOW, "me", None)


def feature(name: str, **told: Any) -> FeatureSpec:
    return msgspec.structs.replace(count(), name=name, metadata=FeatureMetadataSpec(**told))


AMOUNTS = view(
    "amounts",
    features=(
        feature("amount_sum", description="What a card spent.", pii="direct"),
        feature("biggest", description="The largest amount."),
    ),
    owner="risk@example.com",
    tags={"tier": "1", "reviewed": ""},
    description="Money.",
    where='Gt(col("fee"), lit(0))',
)
OLD = view("old", features=(feature("rows", deprecated=DeprecatedSpec(since="2026-11-01")),), owner="data@example.com")
ALL = [
    of("entity", CARD),
    of("source", SOURCE),
    of("view", AMOUNTS),
    of("view", OLD),
    of("feature_service", service(view("old"), name="amount_model")),
]


@pytest.mark.parametrize(
    ("wanted", "features"),
    [
        (Filter(), ["amounts:amount_sum", "amounts:biggest", "old:rows"]),
        (Filter(owner="risk@example.com"), ["amounts:amount_sum", "amounts:biggest"]),
        (Filter(tag="tier"), ["amounts:amount_sum", "amounts:biggest"]),
        (Filter(tag="tier=1", pii="direct"), ["amounts:amount_sum"]),
        (Filter(tag="tier=2"), []),
        (Filter(tag="reviewed="), ["amounts:amount_sum", "amounts:biggest"]),
        (Filter(deprecated=True), ["old:rows"]),
        (Filter(deprecated=True, pii="direct"), []),
    ],
)
def test_features_by_what_is_said_of_them(wanted: Filter, features: list[str]) -> None:
    assert [one.reference for one in wanted.features(ALL)] == features
    views = {name.partition(":")[0] for name in features}
    assert {one.name for one in ALL if one.kind == "view" and wanted.accepts(one.spec)} == views


def found(*words: str) -> list[str]:
    return [one.name for one in search(ALL, words)]


def test_a_name_comes_before_columns_and_these_before_descriptions() -> None:
    assert found("amount") == ["amount_model", "amounts:amount_sum", "amounts", "amounts:biggest"]
    assert found("amounts")[0] == "amounts"
    assert found("fee") == ["amounts"], "by the column that it is filtered by"


def test_every_word_counts_in_any_order_and_case() -> None:
    assert found("sum", "SPENT") == found("spent sum") == ["amounts:amount_sum"]
    assert found("sum", "nothing") == []
    assert found() == []


def test_owners_tags_and_columns_are_found() -> None:
    assert set(found("risk@example.com")) == {"amounts", "amounts:amount_sum", "amounts:biggest"}
    assert "amounts" in found("tier=1")
    assert {"card", "payments", "old"} <= set(found("card_id"))


def test_the_nearest_words_are_those_that_were_mistaken() -> None:
    assert "biggest" in nearest_words(ALL, ["bigest"])
    assert nearest_words(ALL, ["biggest"]) == []


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (WindowSpec(kind="sliding", size_us=HOUR), "sliding 1h"),
        (WindowSpec(kind="hopping", size_us=HOUR, every_us=60_000_000), "hopping 1h every 1m"),
        (WindowSpec(kind="tumbling", size_us=HOUR, offset_us=60_000_000), "tumbling 1h offset 1m"),
        (WindowSpec(kind="lifetime"), "lifetime"),
    ],
)
def test_windows_in_words(window: WindowSpec, text: str) -> None:
    assert window_text(window) == text
