"""Reads by the name of a feature service: over HTTP as Feast 0.67 asks, by the client, from the shell."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from featurestore.client import FeatureStoreClient
from featurestore.definitions.resolve import ResolvedDefinitions, fingerprint
from featurestore.definitions.specs import FeatureServiceSpec, ServiceViewSpec, ViewSpec
from featurestore.errors import (
    MalformedRequestError,
    RequestTooLargeError,
    UnknownFeatureServiceError,
)
from featurestore.registry import Registry, registry_file
from featurestore.serving import FeatureService
from featurestore.serving.limits import Limits
from tests.commands import run_command
from tests.factories import sliding
from tests.serving.support import (
    ACCOUNT,
    CARD,
    NOON,
    ROOT,
    SECOND,
    SOURCE,
    event,
    register,
    served,
    write_store,
)


def of(name: str, *parts: tuple[ViewSpec, tuple[str, ...]]) -> FeatureServiceSpec:
    views = (ServiceViewSpec(name=v.name, features=features, fingerprint=fingerprint(v)) for v, features in parts)
    return FeatureServiceSpec(name=name, views=tuple(views))


FRAUD = of("fraud_v3", (CARD, ("amount_sum_10m", "count_10m")))
BOTH = of("both", (CARD, ("count_10m",)), (ACCOUNT, ("count_10m",)))
KEYS = {"card_id": ["c1"], "account": [1], "region": ["eu"]}


def apply(data_dir: Path, views: tuple[ViewSpec, ...], *services: FeatureServiceSpec) -> None:
    registry = Registry.open(data_dir / "registry" / "registry.db")
    by_name = {view.name: view for view in views}
    resolved = ResolvedDefinitions({SOURCE.name: SOURCE}, by_name, {}, {one.name: one for one in services})
    registry.apply(registry.plan(resolved))
    registry.close()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("data")
    apply(path, (CARD, ACCOUNT), FRAUD, BOTH)
    write_store(path, [event("c1", amount=2.5, at_us=NOON - SECOND), event("c2", at_us=NOON - SECOND)])
    return path


@pytest.fixture(scope="module")
def url(data_dir: Path) -> Iterator[str]:
    service = FeatureService(data_dir, now_us=lambda: NOON)
    service.refresh(check=True)
    with served(service, limits=Limits(max_features=2)) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[FeatureStoreClient]:
    with FeatureStoreClient(url) as client:
        yield client


def test_the_request_that_feast_sends_is_answered_with_the_features_in_the_services_order(url: str) -> None:
    # As feast 0.67's feature server takes it: every field of its GetOnlineFeaturesRequest.
    body = {
        "entities": {"card_id": ["c1", "nobody"]},
        "feature_service": "fraud_v3",
        "features": [],
        "full_feature_names": False,
        "include_feature_view_version_metadata": True,
    }
    answer = httpx.post(f"{url}/get-online-features", json=body).json()
    assert answer["metadata"] == {
        "feature_names": ["card_id", "amount_sum_10m", "count_10m"],
        "feature_view_metadata": [{"name": "card_activity", "version": 1}],
    }
    assert [column["values"] for column in answer["results"]] == [["c1", "nobody"], [2.5, None], [1, None]]


def test_the_client_reads_by_service_what_it_reads_by_features(client: FeatureStoreClient) -> None:
    by_name = client.get_online_features(feature_service="fraud_v3", entities={"card_id": ["c1", "nobody"]})
    by_features = client.get_online_features(list(FRAUD.references), {"card_id": ["c1", "nobody"]})
    assert by_name.to_dict() == by_features.to_dict() != {}
    assert by_name.statuses == by_features.statuses


def test_features_of_one_name_need_full_names(client: FeatureStoreClient) -> None:
    with pytest.raises(MalformedRequestError, match="set full_feature_names"):
        client.get_online_features(feature_service="both", entities=KEYS)
    answer = client.get_online_features(feature_service="both", entities=KEYS, full_feature_names=True)
    assert answer.to_dict() == {
        **KEYS,
        "card_activity__count_10m": [1],
        "account_activity__count_10m": [2],
    }


@pytest.mark.parametrize(
    ("request_", "error", "told"),
    [
        ({"feature_service": "fraud_v2", "entities": {}}, UnknownFeatureServiceError, "did you mean 'fraud_v3'"),
        ({"feature_service": "fraud_v3", "entities": {}}, MalformedRequestError, "entity column 'card_id' is missing"),
        ({"feature_service": "fraud_v3", "features": ["card_activity:count_10m"]}, MalformedRequestError, "and a fea"),
        ({}, MalformedRequestError, "neither features nor a feature_service"),
    ],
)
def test_a_mistake_is_told(client: FeatureStoreClient, request_: dict[str, Any], error: type, told: str) -> None:
    with pytest.raises(error, match=told):
        client.get_online_features(**request_)


def test_an_unknown_service_is_feasts_own_error(url: str) -> None:
    answer = httpx.post(f"{url}/get-online-features", json={"feature_service": "x", "entities": {}})
    assert (answer.status_code, json.loads(answer.json())["class"]) == (404, "FeatureServiceNotFoundException")


def test_a_service_counts_with_its_features_against_the_limit(data_dir: Path) -> None:
    service = FeatureService(data_dir, now_us=lambda: NOON)
    service.refresh(check=True)
    told = pytest.raises(RequestTooLargeError, match="asks for 2 features")
    with served(service, limits=Limits(max_features=1)) as url, FeatureStoreClient(url) as client, told:
        client.get_online_features(feature_service="fraud_v3", entities={"card_id": ["c1"]})


def test_a_service_reads_the_version_it_pins_until_it_is_moved(tmp_path: Path) -> None:
    apply(tmp_path, (CARD, ACCOUNT), FRAUD)
    write_store(tmp_path, [event("c1", at_us=NOON - SECOND)])
    service = FeatureService(tmp_path, now_us=lambda: NOON)
    service.refresh(check=True)
    first, *others = CARD.features
    other = msgspec.structs.replace(CARD, features=(msgspec.structs.replace(first, window=sliding(20)), *others))
    ask: dict[str, Any] = {"feature_service": "fraud_v3", "entities": {"card_id": ["c1"]}}
    registry = Registry.open(registry_file(tmp_path))
    with served(service) as url, FeatureStoreClient(url) as client:
        assert client.get_online_features(**ask).to_dict()["count_10m"] == [1]
        apply(tmp_path, (other, ACCOUNT))
        registry.versions.promote("card_activity", 2)
        service.refresh(check=True)
        by_name = client.get_online_features(["card_activity:count_10m"], {"card_id": ["c1"]})
        assert by_name.to_dict()["count_10m"] == [None], "version 2 has no rows yet"
        assert client.get_online_features(**ask).to_dict()["count_10m"] == [1]
        registry.versions.promote("card_activity", 2, services=["fraud_v3"])
        service.refresh(check=True)
        assert client.get_online_features(**ask).to_dict()["count_10m"] == [None]
    registry.close()


def get(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(["get", *arguments], ROOT, os.environ, 60)


def test_from_the_shell_keys_take_their_type_and_a_table_has_a_line_a_feature(data_dir: Path, url: str) -> None:
    asked = ["--service", "both", "--full-feature-names", "-e", "card_id=c1", "-e", "region=eu"]
    local = get(*asked, "-e", "account=1", "--as-of", "latest", "--data-dir", str(data_dir))
    assert local.returncode == 0, local.stderr
    lines = [line.split() for line in local.stdout.splitlines()]
    assert ["c1", "1", "eu", "card_activity__count_10m", "1", "PRESENT", "2026-11-23T11:59:59Z"] in lines
    assert ["c1", "1", "eu", "account_activity__count_10m", "2", "PRESENT", "2026-11-23T11:59:59Z"] in lines
    remote = get(*asked, "-e", "account:=1", "--as-of", "latest", "--url", url)
    assert remote.stdout == local.stdout
    neither, both = get("-e", "a=1"), get("a:b", "--service", "both", "-e", "a=1")
    assert (neither.returncode, both.returncode) == (2, 2)


def test_a_registry_of_before_has_no_services_and_serves_its_views(tmp_path: Path) -> None:
    register(tmp_path)
    write_store(tmp_path, [event("c1", at_us=NOON - SECOND)])
    service = FeatureService(tmp_path, now_us=lambda: NOON)
    service.refresh(check=True)
    told = pytest.raises(UnknownFeatureServiceError, match="there is none")
    with served(service) as url, FeatureStoreClient(url) as client, told:
        client.get_online_features(feature_service="fraud_v3", entities={"card_id": ["c1"]})
