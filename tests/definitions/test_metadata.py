"""What definitions say about themselves: its checks, its place in specs, owners, deprecated features."""

from __future__ import annotations

from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import (
    SLO,
    BatchFeatureView,
    Deprecated,
    Entity,
    FeatureService,
    Field,
    FileSource,
    KafkaSource,
    StreamFeatureView,
    agg,
)
from featurestore.definitions.discover import Definitions, load_definitions
from featurestore.definitions.governance import check_replacements, deprecation_notes, require_owners
from featurestore.definitions.resolve import ResolvedDefinitions, fingerprint, resolve_all
from featurestore.definitions.resolve_batch import resolve_batch_view
from featurestore.definitions.specs import DeprecatedSpec, FeatureMetadataSpec, SLOSpec
from featurestore.errors import DefinitionError

ROOT = Path(__file__).resolve().parents[2]
CARD = Entity("card", join_keys={"card_id": pl.String}, owner="cards@example.com", tags={"domain": "cards"})
PAYMENTS = KafkaSource(
    "payments", topic="p", schema="schemas/transaction.avsc", event_time="ts", owner="bus", tags={"a": "b"}
)


def stream(*features: agg.Aggregation, **more: Any) -> StreamFeatureView:
    return StreamFeatureView("cards", PAYMENTS, [CARD], list(features) or [agg.count(over="1h")], **more)


def batch(*fields: Field, **more: Any) -> BatchFeatureView:
    made = list(fields) or [Field("credit", pl.Float64)]
    return BatchFeatureView("limits", FileSource("limits.parquet", event_time="at"), [CARD], made, **more)


def resolved(
    view: StreamFeatureView, *batch_views: BatchFeatureView, services: tuple[FeatureService, ...] = ()
) -> ResolvedDefinitions:
    found = Definitions(
        {CARD.name: CARD},
        {PAYMENTS.name: PAYMENTS},
        {view.name: view},
        {one.name: one for one in batch_views},
        {one.name: one for one in services},
    )
    return resolve_all(found, ROOT)


def test_everything_that_is_said_is_in_the_specs() -> None:
    since = Deprecated(since="2026-11-01", replacement="cards:amount_sum_1h")
    count = agg.count(over=["10m", "1h"]).describe("Payments.", unit="payments", pii="none", deprecated=since)
    total = agg.sum("amount", over="1h").describe(unit="EUR", valid_range=(0, None))
    slo = SLO(freshness="5m", latency_ms=10, availability=0.999)
    found = resolved(stream(count, total, criticality="high", slo=slo))
    view = found.views["cards"]
    said = FeatureMetadataSpec(
        description="Payments.",
        unit="payments",
        pii="none",
        deprecated=DeprecatedSpec(since="2026-11-01", replacement="cards:amount_sum_1h"),
    )
    assert [feature.metadata for feature in view.features] == [
        said,
        said,
        FeatureMetadataSpec(unit="EUR", valid_range=(0, None)),
    ]
    assert (view.criticality, view.slo) == (
        "high",
        SLOSpec(freshness_us=300_000_000, latency_ms=10.0, availability=0.999),
    )
    assert (view.entities[0].owner, view.entities[0].tags) == ("cards@example.com", {"domain": "cards"})
    assert (found.sources["payments"].owner, found.sources["payments"].tags) == ("bus", {"a": "b"})
    field = Field("credit", pl.Float64, default=0).describe(unit="EUR", pii="sensitive")
    spec = resolve_batch_view(batch(field, criticality="low", slo=SLO(freshness="1d")))
    assert (spec.features[0].metadata.pii, spec.features[0].default, spec.criticality) == ("sensitive", 0.0, "low")
    assert spec.slo == SLOSpec(freshness_us=86_400_000_000)


def test_describe_goes_with_alias_in_either_order() -> None:
    one = agg.max("amount", over="1h").alias("biggest").describe(unit="EUR")
    assert one == agg.max("amount", over="1h").describe(unit="EUR").alias("biggest")


def test_fingerprints_of_before_there_was_metadata_stand() -> None:
    found = resolve_all(load_definitions(["pipelines/transactions.py"], ROOT), ROOT)
    assert fingerprint(found.views["merchant_activity"]) == (
        "58675006adf2b71392dfa01be0b8e8ccdf70fae827445ec3a090897805482693"
    )
    assert fingerprint(found.views["card_activity"]) == (
        "8cf3ff6e556316a9d090cc6f46b0fcbe4249c74742955f80d9be20488b3cbfdd"
    )


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SLO(), "promises nothing"),
        (lambda: SLO(freshness="soon"), "SLO: freshness"),
        (lambda: SLO(freshness="0s"), "longer than 0"),
        (lambda: SLO(latency_ms=0), "latency_ms is 0"),
        (lambda: SLO(availability=99.9), "availability is 99.9"),
        (lambda: SLO(availability=True), "availability is True"),
        (lambda: Deprecated(since="last week"), "no day"),
        (lambda: Deprecated(since=20261101), "no day"),
        (lambda: Deprecated(since="2026-11-01", replacement="count_10m"), "name a feature"),
        (lambda: stream(criticality="very"), "unknown criticality 'very'"),
        (lambda: batch(criticality="very"), "unknown criticality 'very'"),
        (lambda: stream(slo="5m"), "slo is '5m'"),
        (lambda: Entity("card", {"card_id": pl.String}, owner=None), "entity 'card': owner is None"),
        (lambda: Entity("card", {"card_id": pl.String}, tags={"a": 1}), "entity 'card': tags"),
        (lambda: KafkaSource("p", "p", "p.avsc", "ts", tags=["a"]), "source 'p': tags"),
        (lambda: agg.count(over="1h").describe(3), "description is 3"),
        (lambda: agg.count(over="1h").describe(unit=""), "unit is ''"),
        (lambda: agg.count(over="1h").describe(pii="maybe"), "use none, indirect, direct, sensitive"),
        (lambda: agg.count(over="1h").describe(valid_range=(None, None)), "valid_range is"),
        (lambda: agg.count(over="1h").describe(valid_range=(2, 1)), "valid_range is"),
        (lambda: agg.count(over="1h").describe(valid_range=(0, float("nan"))), "valid_range is"),
        (lambda: agg.count(over="1h").describe(valid_range=5), "valid_range is"),
        (lambda: agg.count(over="1h").describe(deprecated="2026-11-01"), "deprecated is"),
        (lambda: Field("tier", pl.String).describe(valid_range=(0, 1)), "'tier' is String, it can have no valid_range"),
        (
            lambda: resolved(stream(agg.last("card_id").describe(valid_range=(0, 1)))),
            "'card_id_last' is String, it can have no valid_range",
        ),
    ],
)
def test_what_is_wrong_is_told(make: Any, told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        make()


@pytest.mark.parametrize("since", ["2026-11-01", date(2026, 11, 1), datetime(2026, 11, 1, 9, tzinfo=timezone.utc)])
def test_a_day_may_be_written_in_three_ways(since: Any) -> None:
    assert Deprecated(since).spec.since == "2026-11-01"


def test_deprecated_features_are_noted_with_the_services_that_read_them() -> None:
    old = agg.count(over="10m").describe(deprecated=Deprecated("2026-11-01", "cards:count_1h"))
    view = stream(old, agg.count(over="1h"))
    limits = batch(Field("credit", pl.Float64).describe(deprecated=Deprecated("2026-10-01")))
    reads = FeatureService("fraud", features=[view])
    not_reads = FeatureService("other", features=[view[["count_1h"]]])
    assert deprecation_notes(resolved(view, limits, services=(reads, not_reads))) == [
        "cards:count_10m is deprecated since 2026-11-01; use cards:count_1h; read by feature service fraud",
        "limits:credit is deprecated since 2026-10-01",
    ]
    assert deprecation_notes(resolved(stream())) == []


@pytest.mark.parametrize(
    ("replacement", "told"),
    [("cards:count_1h", "is replaced by itself"), ("cards:count_2h", "there is no 'cards:count_2h'")],
)
def test_a_replacement_that_is_none_is_told(replacement: str, told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        resolved(stream(agg.count(over="1h").describe(deprecated=Deprecated("2026-11-01", replacement))))


def test_a_replacement_in_a_view_of_other_modules_is_believed() -> None:
    found = resolved(stream(agg.count(over="1h").describe(deprecated=Deprecated("2026-11-01", "elsewhere:count"))))
    check_replacements(found.views)


def test_owners_can_be_required_of_views_and_services() -> None:
    view = stream(owner="risk")
    require_owners(resolved(view, batch(owner="risk"), services=(FeatureService("a", [view], owner="risk"),)))
    limits = batch()
    wanted = resolved(stream(), limits, services=(FeatureService("a", [limits]),))
    with pytest.raises(DefinitionError, match="view 'cards', view 'limits', feature service 'a' without an owner"):
        require_owners(wanted)
