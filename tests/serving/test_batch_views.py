"""Batch views are served as stream views are: in one request with them, by their statuses and times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import polars as pl
import pytest

from featurestore.batch.materialize import Materializer
from featurestore.client import FeatureStoreClient
from featurestore.compile.batch import CompiledBatchView
from featurestore.definitions.batch import BatchFeatureView, Field, FileSource
from featurestore.definitions.entity import Entity
from featurestore.definitions.resolve import ResolvedDefinitions
from featurestore.definitions.resolve_batch import resolve_batch_view
from featurestore.errors import UnknownFeatureError
from featurestore.registry import Registry
from featurestore.serving import FeatureService, OnlineRequest
from tests.factories import MINUTE
from tests.serving.support import NOON, SECOND, event, eventually, register, served, write_store

HOUR = 60 * MINUTE
LIMITS = resolve_batch_view(
    BatchFeatureView(
        "card_limits",
        source=FileSource("limits/*.parquet", event_time="at"),
        entities=[Entity("card", join_keys={"card_id": pl.String})],
        features=[Field("credit", pl.Float64, default=0), Field("tier", pl.String), Field("number", pl.Int64)],
        ttl="24h",
    )
)
FEATURES = ["card_limits:credit", "card_limits:tier", "card_activity:count_10m", "card_limits:number"]

Row = tuple[str, float | None, str | None, int | None, int]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Stream views with a store, and a batch view that is applied and not materialized."""
    data = tmp_path / "data"
    register(data)
    registry = Registry.open(data / "registry" / "registry.db")
    registry.apply(registry.plan(ResolvedDefinitions({}, {}, {LIMITS.name: LIMITS})))
    registry.close()
    write_store(data, [event("c1", at_us=NOON - SECOND), event("c2", at_us=NOON - SECOND)])
    return data


def materialize(data_dir: Path, name: str, rows: Sequence[Row], *, now_us: int = NOON, version: int = 1) -> None:
    """Add a file of rows (card, credit, tier, number, event time in µs) and materialize."""
    folder = data_dir.parent / "limits"
    folder.mkdir(exist_ok=True)
    columns = {"card_id": pl.String, "credit": pl.Float64, "tier": pl.String, "number": pl.Int64, "at": pl.Int64}
    frame = pl.DataFrame(rows, columns, orient="row").with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))
    frame.write_parquet(folder / f"{name}.parquet")
    registry = Registry.open(data_dir / "registry" / "registry.db")
    (view,) = (one for one in registry.live_batch_views() if one.version == version)
    registry.close()
    runs = Materializer(data_dir, data_dir.parent, now_us=lambda: now_us)
    runs.run(CompiledBatchView(view.view_id, view.version, view.spec))


def ask(url: str, cards: Sequence[str | None], **more: Any) -> dict[str, Any]:
    """The answer by feature."""
    body = {"features": FEATURES, "entities": {"card_id": list(cards)}, **more}
    answer = httpx.post(f"{url}/get-online-features", json=body)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    return dict(zip(document["metadata"]["feature_names"], document["results"], strict=True))


def test_both_kinds_of_views_in_one_request(data_dir: Path):
    rows: list[Row] = [
        ("c1", 100.0, "gold", 7, NOON - HOUR),
        ("c2", None, None, 2**53 + 1, NOON - HOUR + 500_000),
        ("old", 5.0, "x", 1, NOON - 25 * HOUR),
    ]
    materialize(data_dir, "1", rows)
    with served(FeatureService(data_dir, now_us=lambda: NOON)) as url:
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 200)
        answer = ask(url, ["c1", "c2", "old", "nobody", None])
    assert answer["credit"] == {
        "values": [100.0, None, None, 0.0, 0.0],
        "statuses": ["PRESENT", "NULL_VALUE", "OUTSIDE_MAX_AGE", "NOT_FOUND", "NOT_FOUND"],
        "event_timestamps": [
            "2026-11-23T11:00:00Z",
            "2026-11-23T11:00:00Z",
            "2026-11-22T11:00:00Z",
            "1970-01-01T00:00:00Z",
            "1970-01-01T00:00:00Z",
        ],
    }
    assert answer["tier"]["values"] == ["gold", None, None, None, None]
    assert answer["number"]["values"] == [7, 2**53 + 1, None, None, None]
    assert answer["count_10m"]["values"][:2] == [1, 1]
    assert answer["count_10m"]["event_timestamps"][0] == "2026-11-23T11:59:59Z"


def test_an_instant_before_the_newest_row_does_not_know_it(data_dir: Path):
    materialize(data_dir, "1", [("c1", 1.0, "a", 1, NOON - 2 * HOUR), ("c1", 2.0, "b", 2, NOON - HOUR)])
    with served(FeatureService(data_dir, now_us=lambda: NOON)) as url:
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 200)
        told = {
            as_of: ask(url, ["c1"], as_of=as_of)["tier"]
            for as_of in ("2026-11-23T11:00:00Z", "2026-11-23T11:00:00.000001Z", "latest")
        }
    assert told["2026-11-23T11:00:00Z"] == {
        "values": [None],
        "statuses": ["NOT_FOUND"],
        "event_timestamps": ["1970-01-01T00:00:00Z"],
    }
    assert told["2026-11-23T11:00:00.000001Z"]["values"] == ["b"]
    assert told["latest"]["values"] == ["b"]


def test_a_server_follows_materializations(data_dir: Path):
    with served(FeatureService(data_dir, clock="event")) as url:
        # A stream view is served while the batch view has no store, and asking for that is told.
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 200)
        assert httpx.get(f"{url}/ready").json()["missing_stores"] == ["batch-views/card_limits"]
        body = {"features": FEATURES, "entities": {"card_id": ["c1"]}}
        answer = httpx.post(f"{url}/get-online-features", json=body)
        assert answer.status_code == 503
        assert "batch view 'card_limits' has no online store yet" in answer.text
        for number in range(3):
            materialize(
                data_dir, str(number), [("c1", number, "a", number, NOON - HOUR + number)], now_us=NOON + number
            )
            eventually(lambda: httpx.get(f"{url}/ready").json()["missing_stores"] == [])
            eventually(lambda wanted=number: ask(url, ["c1"])["number"]["values"] == [wanted])


def test_the_client_reads_them_and_a_wrong_name_is_told(data_dir: Path):
    materialize(data_dir, "1", [("c1", 1.0, "a", 1, NOON - HOUR)])
    service = FeatureService(data_dir, now_us=lambda: NOON)
    service.refresh(check=True)
    with served(service) as url, FeatureStoreClient(url) as client:
        answer = client.get_online_features(features=FEATURES, entities={"card_id": ["c1"]})
        assert answer.to_pylist() == [{"card_id": "c1", "credit": 1.0, "tier": "a", "count_10m": 1, "number": 1}]
        with pytest.raises(UnknownFeatureError, match="did you mean 'credit'"):
            client.get_online_features(features=["card_limits:credits"], entities={"card_id": ["c1"]})
        metrics = httpx.get(f"{url}/metrics").text
    assert 'view="card_limits"' in metrics


def test_versions_by_name_by_canary_and_by_promotion(tmp_path: Path):
    data = tmp_path / "data"
    registry = Registry.open(data / "registry" / "registry.db")
    for spec in (LIMITS, msgspec.structs.replace(LIMITS, ttl_us=0)):
        registry.apply(registry.plan(ResolvedDefinitions({}, {}, {spec.name: spec})))
    cards = [f"c{number}" for number in range(50)]
    materialize(data, "1", [(card, 1.0, "a", 1, NOON - 25 * HOUR) for card in cards])
    service = FeatureService(data, now_us=lambda: NOON)

    def number(view: str, card: str = "c1") -> object:
        service.refresh(check=True)
        features = [f"{view}:number"]
        answer = service.answer(
            OnlineRequest(entities={"card_id": [card]}, features=features, include_feature_view_version_metadata=True)
        )
        assert answer.metadata.feature_view_metadata is not None
        return answer.results[1].statuses[0], answer.metadata.feature_view_metadata[0].version

    # The second version keeps a row for good; it is there for those who name it before any run has filled it.
    assert (number("card_limits"), number("card_limits@2")) == (("OUTSIDE_MAX_AGE", 1), ("NOT_FOUND", 2))
    materialize(data, "1", [(card, 1.0, "a", 1, NOON - 25 * HOUR) for card in cards], version=2)
    assert (number("card_limits"), number("card_limits@2")) == (("OUTSIDE_MAX_AGE", 1), ("PRESENT", 2))
    registry.versions.set_canary("card_limits", 2, 0.5)
    drawn = {card: number("card_limits", card) for card in cards}
    assert set(drawn.values()) == {("OUTSIDE_MAX_AGE", 1), ("PRESENT", 2)}
    assert drawn == {card: number("card_limits", card) for card in cards}
    registry.versions.promote("card_limits", 2)
    assert (number("card_limits"), number("card_limits@1")) == (("PRESENT", 2), ("OUTSIDE_MAX_AGE", 1))
    registry.versions.rollback("card_limits")
    assert number("card_limits") == ("OUTSIDE_MAX_AGE", 1)
    service.close()
    registry.close()


def test_batch_views_alone_make_a_server_ready(tmp_path: Path):
    data = tmp_path / "data"
    registry = Registry.open(data / "registry" / "registry.db")
    registry.apply(registry.plan(ResolvedDefinitions({}, {}, {LIMITS.name: LIMITS})))
    registry.close()
    service = FeatureService(data)
    service.refresh(check=True)
    assert not service.readiness().ready
    materialize(data, "1", [("c1", 1.0, "a", 1, NOON - HOUR)])
    service.refresh(check=True)
    assert service.readiness().ready
    service.close()
