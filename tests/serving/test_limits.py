"""What one request may ask for, and requests of many entities over several views."""

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
from featurestore.serving.limits import Limits
from featurestore.serving.service import FeatureService
from tests.serving.support import NOON, event, register, served, write_store

LIMITS = Limits(max_body_bytes=2_000, max_entities=20, max_features=2)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    register(tmp_path)
    write_store(tmp_path, [event(at_us=NOON)])
    service = FeatureService(tmp_path, clock="event")
    service.refresh(check=True)
    with served(service, limits=LIMITS) as address:
        yield address


def body(entities: int, features: int = 1, padding: int = 0) -> dict[str, Any]:
    names = ["card_activity:count_10m", "card_activity:amount_sum_10m", "card_activity:merchant_last"][:features]
    return {"features": names, "entities": {"card_id": [f"c{n}" for n in range(entities)]}, "ignored": "x" * padding}


def test_what_is_within_the_limits_is_answered(url: str) -> None:
    answer = httpx.post(f"{url}/get-online-features", json=body(20, 2))
    assert answer.status_code == 200
    assert len(answer.json()["results"][2]["values"]) == 20


@pytest.mark.parametrize(
    ("entities", "features", "says", "setting"),
    [
        (21, 1, "21 entities, the server takes 20", "max_entities"),
        (1, 3, "3 features, the server takes 2", "max_features"),
    ],
)
def test_more_than_allowed_is_refused_naming_the_limit(
    url: str, entities: int, features: int, says: str, setting: str
) -> None:
    answer = httpx.post(f"{url}/get-online-features", json=body(entities, features))
    assert answer.status_code == 422
    detail = json.loads(answer.json())
    assert says in detail["message"]
    assert setting in detail["hint"]


@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_longer_body_than_allowed_is_refused_before_it_is_read_whole(url: str, in_chunks: bool) -> None:
    content = json.dumps(body(1, padding=3_000)).encode()
    chunks = iter([content[:1_000], content[1_000:2_500], content[2_500:]])
    answer = httpx.post(f"{url}/get-online-features", content=chunks if in_chunks else content)
    assert answer.status_code == 413
    assert "2,000" in json.loads(answer.json())["message"]
    assert "max_body_bytes" in answer.text
    assert httpx.post(f"{url}/get-online-features", json=body(1)).status_code == 200


def test_the_client_raises_it_as_the_callers_mistake(url: str) -> None:
    with FeatureStoreClient(url) as client, pytest.raises(RequestTooLargeError, match="41 entities"):
        client.get_online_features(
            features=["card_activity:count_10m"], entities={"card_id": [str(n) for n in range(41)]}
        )


def test_a_body_that_ends_early_costs_its_request_alone(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as half:
        half.sendall(b"POST /get-online-features HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
    assert httpx.post(f"{url}/get-online-features", json=body(1)).status_code == 200


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
