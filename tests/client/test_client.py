"""The client: against a real server for what it reads, against a scripted one for what goes wrong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from featurestore.client import FeatureStoreClient
from featurestore.errors import (
    FeatureStoreError,
    MalformedRequestError,
    ServerUnavailableError,
    UnknownFeatureError,
    UnknownViewError,
)
from featurestore.serving import FeatureService
from featurestore.serving.server import bind, url_of
from tests.serving.support import NOON, ROOT, SECOND, event, register, served, write_store

EVENTS = [
    event("c1", amount=2.5, at_us=NOON - 5 * SECOND),
    event("nan", amount=float("nan"), at_us=NOON - 5 * SECOND),
    event("inf", amount=float("inf"), at_us=NOON - 5 * SECOND),
]
FEATURES = ["card_activity:count_10m", "card_activity:amount_max_10m"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data_dir: Path = tmp_path_factory.mktemp("data")
    register(data_dir)
    write_store(data_dir, EVENTS)
    service = FeatureService(data_dir, now_us=lambda: NOON)
    service.refresh(check=True)
    with served(service) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[FeatureStoreClient]:
    with FeatureStoreClient(url) as client:
        yield client


def test_an_answer_reads_as_columns_as_rows_and_as_arrow(client: FeatureStoreClient) -> None:
    answer = client.get_online_features(features=FEATURES, entities={"card_id": ["c1", "nobody"]})
    columns = {"card_id": ["c1", "nobody"], "count_10m": [1, None], "amount_max_10m": [2.5, 0.0]}
    assert answer.to_dict() == columns
    assert answer.to_pylist() == [
        {"card_id": "c1", "count_10m": 1, "amount_max_10m": 2.5},
        {"card_id": "nobody", "count_10m": None, "amount_max_10m": 0.0},
    ]
    table = answer.to_arrow()
    assert table.to_pydict() == columns
    assert table.schema == pa.schema(
        [("card_id", pa.string()), ("count_10m", pa.int64()), ("amount_max_10m", pa.float64())]
    )
    assert answer.statuses["count_10m"] == ["PRESENT", "NOT_FOUND"]
    assert answer.event_timestamps["count_10m"] == ["2026-11-23T11:59:55Z", "1970-01-01T00:00:00Z"]
    assert len(answer) == 2


def test_arrow_columns_keep_their_type_when_all_values_are_null(client: FeatureStoreClient) -> None:
    answer = client.get_online_features(FEATURES, {"card_id": ["nobody"]})
    assert answer.to_arrow().schema.field("count_10m").type == pa.int64()


def test_nan_and_infinity_come_back_as_floats(client: FeatureStoreClient) -> None:
    answer = client.get_online_features(FEATURES, {"card_id": ["nan", "inf"]})
    values = answer.to_dict()["amount_max_10m"]
    assert math.isnan(values[0])
    assert values[1] == math.inf


@pytest.mark.parametrize("as_of", ["2026-11-23T12:30:00Z", datetime(2026, 11, 23, 12, 30, tzinfo=timezone.utc)])
def test_as_of_is_a_text_or_a_datetime(client: FeatureStoreClient, as_of: str | datetime) -> None:
    answer = client.get_online_features(FEATURES[:1], {"card_id": ["c1"]}, as_of=as_of)
    assert answer.to_dict()["count_10m"] == [0]


@pytest.mark.parametrize(
    ("features", "entities", "kind", "told"),
    [
        (["card_activiti:count_10m"], {"card_id": ["c1"]}, UnknownViewError, "did you mean 'card_activity'"),
        (["card_activity:count_10"], {"card_id": ["c1"]}, UnknownFeatureError, "did you mean 'count_10m'"),
        (FEATURES, {}, MalformedRequestError, '"card_id"'),
        (FEATURES, {"card_id": [1]}, MalformedRequestError, "send a JSON string"),
    ],
)
def test_a_mistake_is_raised_with_the_servers_message_and_hint(
    client: FeatureStoreClient,
    features: list[str],
    entities: dict[str, list[Any]],
    kind: type[FeatureStoreError],
    told: str,
) -> None:
    with pytest.raises(kind) as caught:
        client.get_online_features(features, entities)
    assert told in (caught.value.hint or "")
    assert "Hint" not in caught.value.message


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "object"),
        (b"c1", "bytes"),
        (1.0, "float"),
        (math.nan, "float"),
        (datetime(2026, 11, 23, tzinfo=timezone.utc), "datetime.datetime"),
        (date(2026, 11, 23), "datetime.date"),
        (np.int64(1), "numpy.int64"),
    ],
)
def test_a_value_that_is_no_key_is_told_before_it_is_sent(client: FeatureStoreClient, value: object, kind: str) -> None:
    with pytest.raises(MalformedRequestError, match=f"'card_id': row 1 holds a {kind}, which is no key"):
        client.get_online_features(FEATURES, {"card_id": ["c1", value]})


@pytest.mark.parametrize("text", [b"view:feature", "\ud800"])
def test_what_json_lacks_is_the_callers_mistake(client: FeatureStoreClient, text: object) -> None:
    with pytest.raises(MalformedRequestError):
        client.get_online_features([text], {"card_id": ["c1"]})  # type: ignore[list-item]
    with pytest.raises(MalformedRequestError):
        client.get_online_features(FEATURES, {"card_id": [text]})


def test_a_time_without_a_zone_is_refused(client: FeatureStoreClient) -> None:
    with pytest.raises(MalformedRequestError, match="has no zone"):
        client.get_online_features(FEATURES, {"card_id": ["c1"]}, as_of=datetime(2026, 11, 23))  # noqa: DTZ001


def test_nobody_listening_is_told_with_the_way_out() -> None:
    with bind("127.0.0.1", 0) as holder:
        address = url_of(holder)
    with (
        FeatureStoreClient(address, retries=1, backoff_s=0) as client,
        pytest.raises(ServerUnavailableError, match="can't reach a feature server") as caught,
    ):
        client.get_online_features(FEATURES, {"card_id": ["c1"]})
    assert caught.value.hint == "start one: featurestore serve"
    assert caught.value.retryable


def test_no_answer_in_time_is_told_and_not_tried_again() -> None:
    with (
        bind("127.0.0.1", 0) as silent,
        FeatureStoreClient(url_of(silent), timeout=0.05) as client,
        pytest.raises(ServerUnavailableError, match="does not answer in time"),
    ):
        client.get_online_features(FEATURES, {"card_id": ["c1"]})


Script = list[Callable[[httpx.Request], httpx.Response]]


def scripted(script: Script, **options: Any) -> tuple[FeatureStoreClient, list[float]]:
    """A client whose server answers by the script, and the pauses that it makes."""
    steps = iter(script)
    pauses: list[float] = []
    transport = httpx.MockTransport(lambda request: next(steps)(request))
    client = FeatureStoreClient("http://test", transport=transport, sleep=pauses.append, **options)
    return client, pauses


def answer(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"metadata": {"feature_names": []}, "results": []})


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def unavailable(request: httpx.Request) -> httpx.Response:
    detail = {"module": "feast.errors", "class": "FeastError", "message": "no store\nHint: run it"}
    body = {**detail, "error": "ServerUnavailableError", "hint": "run it"}
    return httpx.Response(503, json=json.dumps(body))


def too_many(request: httpx.Request) -> httpx.Response:
    return httpx.Response(429)


def a_page(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text="<html>")


def test_it_tries_again_after_a_refusal_a_503_and_a_429() -> None:
    client, pauses = scripted([refuse, unavailable, too_many, answer], retries=3, backoff_s=0.1)
    client.get_online_features(FEATURES, {"card_id": []})
    assert pauses == pytest.approx([0.1, 0.2, 0.4])


def test_the_last_503_is_raised_with_its_hint() -> None:
    client, pauses = scripted([unavailable, unavailable], retries=1)
    with pytest.raises(ServerUnavailableError) as caught:
        client.get_online_features(FEATURES, {"card_id": []})
    assert (caught.value.message, caught.value.hint) == ("no store", "run it")
    assert len(pauses) == 1


@pytest.mark.parametrize("script", [[a_page], [lambda request: httpx.Response(502, text="bad gateway")]])
def test_another_server_at_the_address_is_told(script: Script) -> None:
    client, _ = scripted(script)
    with pytest.raises(ServerUnavailableError, match="http://test"):
        client.get_online_features(FEATURES, {"card_id": []})


def test_an_address_that_is_no_url_is_told() -> None:
    with FeatureStoreClient("localhost:6566") as client, pytest.raises(MalformedRequestError, match="no URL"):
        client.get_online_features(FEATURES, {"card_id": []})


def test_the_client_needs_httpx_and_msgspec_alone() -> None:
    code = """
import sys
heavy = ("polars", "numpy", "pyarrow", "rocksdict", "starlette", "sqlalchemy", "typer", "pydantic")
for name in heavy:
    sys.modules[name] = None
from featurestore.client import FeatureStoreClient
FeatureStoreClient("http://127.0.0.1:1").close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
