"""Aggregates, windows, entities: names, and what is refused when they are built."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from featurestore import Entity, agg, hopping, lifetime, sliding, tumbling
from featurestore.errors import DefinitionError

MINUTE = 60_000_000


def names(aggregation: agg.Aggregation) -> list[str]:
    return [name for name, _ in aggregation.features()]


def test_a_feature_is_named_after_column_function_and_window() -> None:
    windows = ["10m", "24h", tumbling("1m"), hopping("10m", "1m"), lifetime()]
    assert names(agg.count(over=windows)) == [
        "count_10m",
        "count_24h",
        "count_tumbling_1m",
        "count_hopping_10m_1m",
        "count",
    ]
    assert names(agg.sum("amount", over=[sliding("1h"), timedelta(days=7)])) == [
        "amount_sum_1h",
        "amount_sum_7d",
    ]
    assert names(agg.max("a", over=tumbling("1h", offset="5m"))) == ["a_max_tumbling_1h_offset_5m"]


def test_first_last_and_count_are_of_all_time_unless_told() -> None:
    for aggregation in (agg.first("a"), agg.last("a"), agg.count()):
        assert [window.kind for _, window in aggregation.features()] == ["lifetime"]
    assert names(agg.last("merchant_id")) == ["merchant_id_last"]
    assert names(agg.last("merchant_id", over="1h")) == ["merchant_id_last_1h"]


def test_windows_are_in_microseconds() -> None:
    assert sliding("10m", tile="1m").spec.size_us == 10 * MINUTE
    assert sliding("10m", tile="1m").spec.tile_us == MINUTE
    spec = hopping("10m", "1m", offset="30s").spec
    assert (spec.kind, spec.size_us, spec.every_us, spec.offset_us) == (
        "hopping",
        10 * MINUTE,
        MINUTE,
        MINUTE // 2,
    )


def test_an_alias_names_one_feature_only() -> None:
    assert names(agg.max("a", over="24h").alias("biggest")) == ["biggest"]
    with pytest.raises(DefinitionError, match="2 features"):
        agg.max("a", over=["1h", "24h"]).alias("biggest")
    with pytest.raises(DefinitionError, match="not a valid name"):
        agg.count(over="1h").alias("largest purchase")


@pytest.mark.parametrize("over", ["10 minutes", "", [], 10, None, "-1h"])
def test_what_is_no_window_is_refused_by_function_and_column(over: object) -> None:
    with pytest.raises(DefinitionError, match=r"agg.sum\('a'\)") as caught:
        agg.sum("a", over=over)  # type: ignore[arg-type]
    assert caught.value.hint


@pytest.mark.parametrize("default", [float("nan"), float("-inf"), 2**63, -(2**63) - 1, [0]])
def test_a_default_that_can_not_be_stored_is_refused(default: object) -> None:
    with pytest.raises(DefinitionError, match=r"agg.sum\('a'\): default") as caught:
        agg.sum("a", over="1h", default=default)  # type: ignore[arg-type]
    assert caught.value.hint


@pytest.mark.parametrize("default", [0, -(2**63), 1e300, True, "none", None])
def test_a_default_is_a_number_text_or_truth_value(default: Any) -> None:
    assert agg.last("a", default=default).default is default


def test_a_span_that_would_overflow_is_refused() -> None:
    with pytest.raises(DefinitionError, match="longer than a hundred years"):
        agg.count(over="1000000000d")


def test_an_expression_as_column_is_refused() -> None:
    with pytest.raises(DefinitionError, match="the column must be a name"):
        agg.sum(pl.col("a"), over="1h")  # type: ignore[arg-type]


def test_join_keys_are_text_integers_or_truth_values() -> None:
    dtypes = {"a": pl.String, "b": pl.Int32, "c": pl.Int64(), "d": pl.Boolean, "e": pl.UInt32}
    assert [key.dtype for key in Entity("x", join_keys=dtypes).spec.join_keys] == [
        "String",
        "Int64",
        "Int64",
        "Boolean",
        "Int64",
    ]
    for dtype in (pl.Float64, pl.Datetime("us"), pl.UInt64, str, "String"):
        with pytest.raises(DefinitionError, match="entity 'x': join key 'a'"):
            Entity("x", join_keys={"a": dtype})


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("my card", {"a": pl.String}),
        ("1card", {"a": pl.String}),
        ("card", {}),
        ("card", {"a b": pl.String}),
        ("card", {"event_timestamp": pl.String}),
        ("card\n", {"a": pl.String}),
        ("kårt", {"a": pl.String}),
    ],
)
def test_a_bad_entity_is_refused(name: str, keys: dict[str, object]) -> None:
    with pytest.raises(DefinitionError):
        Entity(name, join_keys=keys)


def test_importing_the_package_brings_no_polars() -> None:
    code = "import sys, featurestore; assert 'polars' not in sys.modules; featurestore.tumbling"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_the_package_does_not_export_is_no_attribute() -> None:
    import featurestore

    assert not hasattr(featurestore, "nonsense")
    assert {"Entity", "KafkaSource", "StreamFeatureView", "agg"} <= set(featurestore.__all__)
