"""How large a request may be, and what is said to one that is larger."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from featurestore.client import FeatureStoreClient
from featurestore.errors import RequestTooLargeError
from featurestore.serving import FeatureService
from featurestore.serving.app import DISCARDED_BYTES_MAX
from featurestore.serving.limits import Limits
from tests.serving.support import NOON, SECOND, event, register, serve_command, served, write_store

CARDS = 500
LIMITS = Limits(max_body_bytes=100_000, max_entities=1_000, max_features=3)
COUNT, ACCOUNTS = "card_activity:count_10m", "account_activity:count_10m"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("data")
    register(path)
    write_store(path, [event(f"c{n}", account=n % 7, at_us=NOON - SECOND) for n in range(CARDS)])
    return path


@pytest.fixture(scope="module")
def url(data_dir: Path) -> Iterator[str]:
    service = FeatureService(data_dir, now_us=lambda: NOON)
    service.refresh(check=True)
    with served(service, limits=LIMITS) as address:
        yield address


def refused(response: httpx.Response) -> dict[str, Any]:
    detail: dict[str, Any] = json.loads(response.json())
    return detail


def asking(entities: int, features: list[str]) -> dict[str, Any]:
    return {"features": features, "entities": {"card_id": [f"c{n}" for n in range(entities)]}}


@pytest.mark.parametrize("entities", [1, 7, 100, 1_000])
def test_as_many_entities_as_allowed_over_several_views_in_one_request(url: str, entities: int) -> None:
    columns = {
        "card_id": [f"c{n}" for n in range(entities)],
        "account": [n % 9 for n in range(entities)],
        "region": ["eu"] * entities,
    }
    answer = httpx.post(
        f"{url}/get-online-features",
        json={"features": [COUNT, "card_activity:merchant_last", ACCOUNTS], "entities": columns}
        | {"full_feature_names": True},
    )
    assert answer.status_code == 200, answer.text
    counts, merchants, accounts = (column["values"] for column in answer.json()["results"][3:])
    assert counts == [1 if n < CARDS else None for n in range(entities)]
    assert merchants == ["m1" if n < CARDS else None for n in range(entities)]
    events_of = [sum(1 for n in range(CARDS) if n % 7 == account) for account in range(7)]
    assert accounts == [events_of[n % 9] if n % 9 < 7 else None for n in range(entities)]


def test_more_entities_than_allowed_are_refused_by_the_limits_name(url: str) -> None:
    response = httpx.post(f"{url}/get-online-features", json=asking(1_001, [COUNT]))
    assert response.status_code == 422
    detail = refused(response)
    assert "1,001 entities" in detail["message"]
    assert "1,000 (max_entities)" in detail["message"]
    assert "[serving] max_entities" in detail["hint"]


def test_more_features_than_allowed_are_refused_by_the_limits_name(url: str) -> None:
    response = httpx.post(f"{url}/get-online-features", json=asking(1, [COUNT] * 4))
    assert response.status_code == 422
    assert "4 features, the server takes 3 (max_features)" in refused(response)["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_larger_than_allowed_is_answered_with_413(url: str, chunked: bool) -> None:
    body = b" " * (LIMITS.max_body_bytes + 1)
    content = iter([body[:50_000], body[50_000:]]) if chunked else body
    response = httpx.post(f"{url}/get-online-features", content=content)
    assert response.status_code == 413
    assert "100,000 bytes that the server takes (max_body_bytes)" in refused(response)["message"]
    assert response.headers["connection"] == "close"


def test_a_body_of_just_the_allowed_size_is_read(url: str) -> None:
    body = json.dumps(asking(1, [COUNT])).encode()
    response = httpx.post(f"{url}/get-online-features", content=body.ljust(LIMITS.max_body_bytes))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("size", "expects"),
    [(LIMITS.max_body_bytes + 1, True), (DISCARDED_BYTES_MAX + 1, False)],
    ids=["the client waits for leave to send", "far too large to be read and dropped"],
)
def test_a_body_announced_too_large_is_refused_unread(url: str, size: int, expects: bool) -> None:
    parsed = httpx.URL(url)
    expect = "expect: 100-continue\r\n" if expects else ""
    with socket.create_connection((parsed.host, parsed.port or 0), timeout=5) as connection:
        head = f"POST /get-online-features HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n{expect}\r\n"
        connection.sendall(head.encode())
        answer = connection.makefile("rb").read()  # to its end: the connection is closed
    assert answer.startswith(b"HTTP/1.1 413")


def test_the_client_raises_it_as_an_error_of_its_own(url: str) -> None:
    with FeatureStoreClient(url) as client, pytest.raises(RequestTooLargeError, match="1,001 entities"):
        client.get_online_features([COUNT], {"card_id": ["c1"] * 1_001})
    with FeatureStoreClient(url) as client, pytest.raises(RequestTooLargeError, match="max_body_bytes"):
        client.get_online_features([COUNT], {"card_id": ["c" * LIMITS.max_body_bytes]})


def test_the_settings_reach_the_server(data_dir: Path) -> None:
    settings = {
        "FEATURESTORE_SERVING__MAX_ENTITIES": "2",
        "FEATURESTORE_SERVING__MAX_FEATURES": "1",
        "FEATURESTORE_SERVING__MAX_BODY_BYTES": "200",
    }
    with serve_command(data_dir, **settings) as (_, url):
        told = [
            httpx.post(f"{url}/get-online-features", json=asked).text
            for asked in (asking(3, [COUNT]), asking(1, [COUNT] * 2), asking(100, [COUNT]))
        ]
    assert "takes 2 (max_entities)" in told[0]
    assert "takes 1 (max_features)" in told[1]
    assert "200 bytes" in told[2]


def test_a_body_that_ends_early_costs_its_request_alone(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as half:
        half.sendall(b"POST /get-online-features HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
    assert httpx.post(f"{url}/get-online-features", json=asking(1, [COUNT])).status_code == 200


@pytest.mark.parametrize("entities", [1, 2, 31, 32, 33, 100, 1_000])
def test_one_to_a_thousand_entities_over_two_views_agree_with_single_reads(tmp_path: Path, entities: int) -> None:
    register(tmp_path)
    write_store(tmp_path, [event(f"c{n % 40}", account=n % 7, amount=n / 3, at_us=NOON + n) for n in range(200)])
    service = FeatureService(tmp_path, clock="event")
    service.refresh(check=True)
    features = ["card_activity:amount_sum_10m", "card_activity:merchant_last", "account_activity:count_10m"]
    cards, accounts = [f"c{n % 50}" for n in range(entities)], [n % 9 for n in range(entities)]
    regions = ["eu"] * entities
    with served(service) as url, FeatureStoreClient(url) as client:
        entity = {"card_id": cards, "account": accounts, "region": regions}
        many = client.get_online_features(features=features, entities=entity)
        assert len(many) == entities
        for row in {0, entities // 2, entities - 1}:
            alone = {name: [values[row]] for name, values in entity.items()}
            one = client.get_online_features(features=features, entities=alone)
            assert one.to_pylist() == [many.to_pylist()[row]]
            assert [one.statuses[name][0] for name in one.names] == [many.statuses[name][row] for name in many.names]
            times = [one.event_timestamps[name][0] for name in one.names]
            assert times == [many.event_timestamps[name][row] for name in many.names]
