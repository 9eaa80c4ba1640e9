"""Sources and views: what is refused when they are built, with the view and field named."""

from __future__ import annotations

import re
from typing import Any

import polars as pl
import pytest

from featurestore import Entity, KafkaSource, StreamFeatureView, agg, hopping, lifetime, sliding, tumbling
from featurestore.definitions.source import DefinitionWarning
from featurestore.errors import DefinitionError

CARD = Entity("card", join_keys={"card_id": pl.String})


def source(**changes: Any) -> KafkaSource:
    fields = {"name": "payments", "topic": "payments", "schema": "payments.avsc", "event_time": "ts"}
    return KafkaSource(**{**fields, **changes})


def view(**changes: Any) -> StreamFeatureView:
    fields: dict[str, Any] = {
        "name": "activity",
        "source": source(),
        "entities": [CARD],
        "features": [agg.count(over="1h")],
    }
    return StreamFeatureView(**{**fields, **changes})


def test_a_view_keeps_what_it_was_given() -> None:
    derive = {"double": pl.col("amount") * 2}
    made = view(derive=derive, ttl="7d", tags={"tier": "critical"})
    derive.clear()
    assert made.entities == (CARD,)
    assert list(made.derive) == ["double"]
    assert view().derive == {}
    assert (made.snapshot_every, made.start) == ("1m", "earliest")


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": "card activity"}, "view: 'card activity' is not a valid name"),
    "namespace alone": ({"name": "risk/"}, "view: 'risk/' is not a valid name"),
    "namespace in a namespace": ({"name": "bank/risk/activity"}, "view: 'bank/risk/activity' is not a valid name"),
    "default namespace": ({"name": "default/activity"}, "'default/activity' names the default namespace"),
    "source": ({"source": "payments"}, "view 'activity': source"),
    "no features": ({"features": []}, "view 'activity': features"),
    "no aggregate": ({"features": ["count"]}, "view 'activity': features"),
    "no entities": ({"entities": []}, "view 'activity': entities"),
    "no entity": ({"entities": ["card"]}, "view 'activity': entities"),
    "same join key": ({"entities": [CARD, CARD]}, "join key 'card_id'"),
    "same feature": ({"features": [agg.count(over="1h"), agg.count(over="1h")]}, "feature 'count_1h'"),
    "join key as feature": ({"features": [agg.count(over="1h").alias("card_id")]}, "feature 'card_id'"),
    "reserved": ({"features": [agg.count(over="1h").alias("event_timestamp")]}, "'event_timestamp'"),
    "bad feature name": ({"features": [agg.sum("a b", over="1h")]}, "'a b_sum_1h' is not a valid name"),
    "empty window": ({"features": [agg.count(over="0s")]}, "view 'activity', feature 'count_0s'"),
    "empty tumbling": ({"features": [agg.count(over=tumbling("0s"))]}, "feature 'count_tumbling_0s'"),
    "empty hop": ({"features": [agg.count(over=hopping("1m", "0s"))]}, "`every` must be longer than 0"),
    "hop too long": ({"features": [agg.count(over=hopping("1m", "2m"))]}, "longer than the window"),
    "hop does not divide": ({"features": [agg.count(over=hopping("10m", "3m"))]}, "not a multiple"),
    "shorter than tile": ({"features": [agg.count(over=sliding("1m", tile="5m"))]}, "shorter than its tile"),
    "tiles": (
        {"features": [agg.count(over=[sliding("1h", tile="2m"), sliding("2h", tile="3m")])]},
        "tile 2m does not divide tile 3m",
    ),
    "snapshot_every": ({"snapshot_every": "0s"}, "view 'activity': snapshot_every"),
    "ttl": ({"ttl": "soon"}, "view 'activity': ttl: 'soon' is not a duration"),
    "start": ({"start": "now"}, "view 'activity': start"),
    "where": ({"where": pl.col("a").shift(1) > 0}, "view 'activity', where: 'shift'"),
    "where is text": ({"where": "a > 1"}, "view 'activity', where"),
    "derive": ({"derive": {"x": pl.col("a").cum_sum()}}, "view 'activity', derive 'x': 'cum_sum'"),
    "derived name": ({"derive": {"a b": pl.col("a")}}, "'a b' is not a valid name"),
    "entity alone": ({"entities": CARD}, "view 'activity': entities"),
    "aggregate alone": ({"features": agg.count(over="1h")}, "view 'activity': features"),
    "derive as a list": ({"derive": [pl.col("a")]}, "view 'activity': derive"),
    "tags that are no text": ({"tags": {"tier": 1}}, "view 'activity': tags"),
    "owner": ({"owner": None}, "view 'activity': owner"),
    "long ttl": ({"ttl": "1000000000d"}, "view 'activity': ttl"),
    "derived as the store's own": ({"derive": {"_tile_start": pl.col("a")}}, "'_tile_start'"),
    "derived reserved": ({"derive": {"_offset": pl.col("a")}}, "'_offset'"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_view_is_refused_when_it_is_built(case: str) -> None:
    changes, message = CASES[case]
    with pytest.raises(DefinitionError, match=re.escape(message)) as caught:
        view(**changes)
    assert caught.value.hint


@pytest.mark.parametrize("windows", [[tumbling("1m"), hopping("10m", "10m")], [lifetime(), sliding("1h", tile="1m")]])
def test_windows_that_can_be_computed_are_taken(windows: list[Any]) -> None:
    view(features=[agg.count(over=windows)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "my source"}, "not a valid name"),
        ({"topic": ""}, "source 'payments': topic"),
        ({"event_time": None}, "source 'payments': event_time"),
        ({"format": "xml"}, "source 'payments': unknown format 'xml'"),
        ({"allowed_lateness": "late"}, "source 'payments': allowed_lateness"),
        ({"max_out_of_orderness": -1}, "source 'payments': max_out_of_orderness"),
        ({"idle_timeout": "0s"}, "source 'payments': idle_timeout"),
    ],
)
def test_a_wrong_source_is_refused_when_it_is_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        source(**changes)


def test_a_source_that_trusts_the_future_more_than_lateness_allows_warns() -> None:
    with pytest.warns(DefinitionWarning, match="max_future 1h exceeds"):
        source(max_future="1h", allowed_lateness="10m")


def test_a_source_warns_neither_by_default_nor_of_what_lateness_forgives() -> None:
    # Warnings are errors in tests.
    source()
    source(max_future="5m", max_out_of_orderness="1m", allowed_lateness="4m")
