"""The wire as Feast's SDK speaks and reads it, over a real server and a real store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from featurestore.serving import FeatureService
from featurestore.serving.metrics import ServingMetrics
from tests.factories import MINUTE
from tests.serving.support import NOON, SECOND, event, register, served, write_store

EVENTS = [
    event("c1", amount=1.5, merchant="shop", at_us=NOON - 30 * SECOND),
    event("c1", amount=2.5, merchant="café", at_us=NOON - 5 * SECOND + 250_000),
    event("nan", amount=float("nan"), at_us=NOON - 10 * SECOND),
    event("inf", amount=float("-inf"), account=7, region="us|~", at_us=NOON - 10 * SECOND),
    event("null", amount=None, at_us=NOON - 10 * SECOND),
    event("quiet", amount=3.0, at_us=NOON - 20 * MINUTE),
    event("old", amount=3.0, at_us=NOON - 61 * MINUTE),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data_dir: Path = tmp_path_factory.mktemp("data")
    register(data_dir)
    write_store(data_dir, EVENTS)
    service = FeatureService(data_dir, now_us=lambda: NOON, observe=ServingMetrics().read)
    service.refresh(check=True)
    with served(service) as address:
        yield address


def post(url: str, body: object) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body)
    return httpx.post(f"{url}/get-online-features", content=content)


def read(url: str, features: list[str], entities: dict[str, list[Any]], **options: object) -> dict[str, Any]:
    response = post(url, {"features": features, "entities": entities, **options})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_the_answer_has_feasts_shape_join_keys_first(url: str) -> None:
    answer = read(
        url,
        ["card_activity:merchant_last", "card_activity:count_10m"],
        {"card_id": ["c1", "nobody"]},
        full_feature_names=False,
        include_feature_view_version_metadata=False,
    )
    epoch = "1970-01-01T00:00:00Z"
    assert answer == {
        "metadata": {"feature_names": ["card_id", "merchant_last", "count_10m"]},
        "results": [
            {
                "values": ["c1", "nobody"],
                "statuses": ["PRESENT", "PRESENT"],
                "event_timestamps": [epoch, epoch],
            },
            {
                "values": ["café", None],
                "statuses": ["PRESENT", "NOT_FOUND"],
                "event_timestamps": ["2026-11-23T11:59:55Z", epoch],
            },
            {
                "values": [2, None],
                "statuses": ["PRESENT", "NOT_FOUND"],
                "event_timestamps": ["2026-11-23T11:59:55Z", epoch],
            },
        ],
    }


def test_floats_keep_their_point_and_what_json_lacks_is_text(url: str) -> None:
    response = post(
        url,
        {
            "features": ["card_activity:amount_sum_10m"],
            "entities": {"card_id": ["c1", "nan", "inf", "null", "quiet"]},
        },
    )
    assert b'"values":[4.0,"NaN","-Infinity",0.0,0.0]' in response.content


def test_statuses_tell_absent_null_and_expired_apart(url: str) -> None:
    answer = read(
        url,
        ["card_activity:amount_max_10m"],
        {"card_id": ["c1", "null", "quiet", "old", "nobody", None]},
    )
    column = answer["results"][1]
    assert column["statuses"] == [
        "PRESENT",
        "NULL_VALUE",
        "NULL_VALUE",
        "OUTSIDE_MAX_AGE",
        "NOT_FOUND",
        "NOT_FOUND",
    ]
    assert column["values"] == [2.5, None, None, None, 0.0, 0.0]
    assert isinstance(column["values"][4], float), "a default is sent in the feature's own type"


def test_full_names_versions_and_types_come_when_asked_for(url: str) -> None:
    answer = read(
        url,
        ["card_activity:count_10m", "account_activity:count_10m"],
        {"card_id": ["inf"], "account": [7], "region": ["us|~"]},
        full_feature_names=True,
        include_feature_view_version_metadata=True,
        include_feature_types=True,
    )
    assert answer["metadata"] == {
        "feature_names": [
            "card_id",
            "account",
            "region",
            "card_activity__count_10m",
            "account_activity__count_10m",
        ],
        "feature_view_metadata": [
            {"name": "card_activity", "version": 1},
            {"name": "account_activity", "version": 1},
        ],
        "feature_types": ["String", "Int64", "String", "Int64", "Int64"],
    }
    assert [column["values"] for column in answer["results"]] == [["inf"], [7], ["us|~"], [1], [1]]


def test_columns_that_no_view_needs_are_ignored(url: str) -> None:
    answer = read(url, ["card_activity:count_10m"], {"card_id": ["c1"], "basket_value": [12.5]})
    assert answer["metadata"]["feature_names"] == ["card_id", "count_10m"]


@pytest.mark.parametrize(
    ("as_of", "count"),
    [
        ("2026-11-23T12:00:00Z", 2),
        ("2026-11-23T13:09:30+01:00", 2),
        ("2026-11-23T12:09:45Z", 1),
        ("2026-11-23T12:30:00Z", 0),
        ("latest", 2),
    ],
)
def test_as_of_moves_the_window(url: str, as_of: str, count: int) -> None:
    answer = read(url, ["card_activity:count_10m"], {"card_id": ["c1"]}, as_of=as_of)
    assert answer["results"][1]["values"] == [count]


def test_no_entities_give_empty_columns(url: str) -> None:
    answer = read(url, ["card_activity:count_10m"], {"card_id": []})
    assert [column["values"] for column in answer["results"]] == [[], []]


def test_a_large_read_agrees_with_small_ones(url: str) -> None:
    features = [f"card_activity:{name}" for name in ("count_10m", "amount_sum_10m", "merchant_last")]
    cards = ["c1", "nan", "inf", "null", "quiet", "old", "nobody"]
    large = read(url, features, {"card_id": cards * 140})
    for row, card in enumerate(cards):
        small = read(url, features, {"card_id": [card]})
        for many, one in zip(large["results"], small["results"]):
            assert many["values"][row::7] == one["values"] * 140
            assert many["statuses"][row::7] == one["statuses"] * 140


@pytest.mark.parametrize(
    ("body", "status", "feast_class", "told"),
    [
        (b"{", 422, "FeastError", "is not JSON"),
        (b"[]", 422, "FeastError", "Expected `object`"),
        (b"\xff\xfe", 422, "FeastError", "is not JSON"),
        ({"features": ["card_activity:count_10m"]}, 422, "FeastError", "entities"),
        ({"entities": {"card_id": ["c1"]}}, 422, "FeastError", "neither features nor a feature_service"),
        ({"features": [], "entities": {}}, 422, "FeastError", "neither features nor a feature_service"),
        ({"features": "card_activity:count_10m", "entities": {}}, 422, "FeastError", "$.features"),
        ({"features": ["count_10m"], "entities": {}}, 422, "FeastError", "view:feature"),
        (
            {"features": ["card_activiti:count_10m"], "entities": {}},
            404,
            "FeatureViewNotFoundException",
            "did you mean 'card_activity' or",
        ),
        (
            {"features": ["card_activity:count_10"], "entities": {}},
            404,
            "SpecifiedFeaturesNotPresentError",
            "did you mean 'count_10m' or",
        ),
        (
            {"feature_service": "fraud", "entities": {}},
            404,
            "FeatureServiceNotFoundException",
            "feature service 'fraud'",
        ),
        (
            {"features": ["card_activity:count_10m"], "entities": {"card": ["c1"]}},
            422,
            "FeastError",
            "entity column 'card_id' is missing",
        ),
        (
            {"features": ["card_activity:count_10m"], "entities": {"card_id": "c1"}},
            422,
            "FeastError",
            "$.entities",
        ),
        (
            {"features": ["card_activity:count_10m"], "entities": {"card_id": ["c1", "c2"], "x": [1]}},
            422,
            "FeastError",
            "'card_id' has 2, 'x' has 1",
        ),
        (
            {"features": ["card_activity:count_10m"], "entities": {"card_id": [1]}},
            422,
            "FeastError",
            "'card_id' is String, but row 0 holds 1",
        ),
        (
            {"features": ["account_activity:count_10m"], "entities": {"account": [True], "region": ["eu"]}},
            422,
            "FeastError",
            "'account' is Int64, but row 0 holds True",
        ),
        (
            {"features": ["account_activity:count_10m"], "entities": {"account": [1.0], "region": ["eu"]}},
            422,
            "FeastError",
            "'account' is Int64, but row 0 holds 1.0",
        ),
        (
            {"features": ["card_activity:count_10m"], "entities": {"card_id": ["c1"]}, "as_of": "yesterday"},
            422,
            "FeastError",
            "as_of: 'yesterday'",
        ),
        (
            {
                "features": ["card_activity:count_10m"],
                "entities": {"card_id": ["c1"]},
                "as_of": "2026-11-23T12:00:00",
            },
            422,
            "FeastError",
            "zone",
        ),
        (
            {
                "features": ["card_activity:count_10m", "account_activity:count_10m"],
                "entities": {"card_id": ["c1"], "account": [1], "region": ["eu"]},
            },
            422,
            "FeatureNameCollisionError",
            "full_feature_names",
        ),
        (
            {"features": ["card_activity:count_10m"] * 2, "entities": {"card_id": ["c1"]}},
            422,
            "FeatureNameCollisionError",
            "asked for twice",
        ),
    ],
)
def test_a_callers_mistake_is_named_in_a_body_that_feasts_sdk_raises(
    url: str, body: object, status: int, feast_class: str, told: str
) -> None:
    response = post(url, body)
    assert response.status_code == status, response.text
    text = response.json()
    assert isinstance(text, str)
    detail = json.loads(text)
    assert (detail["module"], detail["class"]) == ("feast.errors", feast_class)
    assert told in detail["message"]


def test_paths_and_methods_that_are_not_there_answer_json(url: str) -> None:
    missing, wrong = httpx.get(f"{url}/nope"), httpx.get(f"{url}/get-online-features")
    assert (missing.status_code, wrong.status_code) == (404, 405)
    for response in (missing, wrong):
        assert "message" in json.loads(response.json())


def test_metrics_count_what_was_served_without_naming_entities(url: str) -> None:
    read(url, ["card_activity:count_10m"], {"card_id": ["c1", "a-very-private-card"]})
    text = httpx.get(f"{url}/metrics").text
    assert 'featurestore_feature_statuses_total{status="NOT_FOUND",view="card_activity"}' in text
    assert "featurestore_request_duration_seconds_bucket" in text
    assert "featurestore_read_duration_seconds_bucket" in text
    assert 'featurestore_freshness_seconds{view="card_activity"}' in text
    assert "a-very-private-card" not in text
