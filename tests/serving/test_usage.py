"""Who read which features: counted in the server, written to the registry, whatever becomes of that."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest

from featurestore.client import FeatureStoreClient
from featurestore.definitions.resolve import fingerprint
from featurestore.definitions.specs import FeatureServiceSpec, ServiceViewSpec
from featurestore.errors import MalformedRequestError, RegistryError, UnknownFeatureError
from featurestore.registry import Registry
from featurestore.registry.database import Database
from featurestore.registry.usage import FeatureReads
from featurestore.serving import FeatureService, OnlineRequest
from featurestore.serving import usage as usage_module
from featurestore.serving.usage import Usage
from tests.serving.support import (
    CARD,
    NOON,
    SECOND,
    event,
    eventually,
    serve_command,
    served,
    write_store,
)
from tests.serving.test_feature_services import apply

NOW = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
PARTS = (ServiceViewSpec(name=CARD.name, features=("merchant_last",), fingerprint=fingerprint(CARD)),)
FRAUD = FeatureServiceSpec(name="fraud", views=PARTS)
COUNT, SUM = "card_activity:count_10m", "card_activity:amount_sum_10m"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    apply(tmp_path, (CARD,), FRAUD)
    write_store(tmp_path, [event("c1", at_us=NOON - SECOND)])
    return tmp_path


@pytest.fixture
def place(data_dir: Path) -> Path:
    return data_dir / "registry" / "registry.db"


@pytest.fixture
def usage(place: Path) -> Usage:
    return Usage(place, now=lambda: NOW)


@pytest.fixture
def service(data_dir: Path, usage: Usage) -> Iterator[FeatureService]:
    made = FeatureService(data_dir, now_us=lambda: NOON, usage=usage)
    made.refresh(check=True)
    yield made
    made.close()


def ask(service: FeatureService, *features: str, consumer: bytes = b"", times: int = 1) -> None:
    for _ in range(times):
        service.answer(OnlineRequest(entities={"card_id": ["c1"]}, features=list(features)), consumer)


def recorded(place: Path) -> dict[tuple[str, str], int]:
    """Reads by (feature, consumer)."""
    database = Database.open(place, create=False)
    try:
        return {(use.feature, use.consumer): use.reads for use in FeatureReads(database).uses()}
    finally:
        database.close()


def test_requests_are_counted_by_feature_and_consumer(service: FeatureService, usage: Usage, place: Path) -> None:
    ask(service, COUNT, SUM, consumer=b"checkout", times=3)
    ask(service, COUNT, consumer=b"checkout")
    ask(service, COUNT)
    service.answer(OnlineRequest(entities={"card_id": ["c1", "c2"]}, feature_service="fraud"))
    service.answer(OnlineRequest(entities={"card_id": ["c1"]}, feature_service="fraud"), b"checkout")
    usage.flush()
    wanted = {
        ("count_10m", "checkout"): 4,
        ("amount_sum_10m", "checkout"): 3,
        ("count_10m", "unnamed"): 1,
        ("merchant_last", "fraud"): 1,
        ("merchant_last", "checkout"): 1,
    }
    assert recorded(place) == wanted
    usage.flush()
    assert recorded(place) == wanted, "what is written is not written again"


def test_what_is_refused_is_no_read(service: FeatureService, usage: Usage, place: Path) -> None:
    with pytest.raises(UnknownFeatureError):
        ask(service, COUNT, "card_activity:nothing", consumer=b"a")
    usage.flush()
    assert recorded(place) == {}


def test_the_version_that_answered_is_counted(
    service: FeatureService, usage: Usage, data_dir: Path, place: Path
) -> None:
    ask(service, COUNT)
    registry = Registry.open(place)
    registry.versions.begin_anew(CARD.name)
    registry.close()
    service.refresh(check=True)
    ask(service, COUNT, "card_activity@2:amount_sum_10m")
    usage.flush()
    database = Database.open(place, create=False)
    with database.transaction() as connection:
        rows = connection.exec_driver_sql("SELECT feature, version, reads FROM feature_reads ORDER BY 1, 2").all()
    database.close()
    assert [tuple(row) for row in rows] == [("amount_sum_10m", 2, 1), ("count_10m", 1, 1), ("count_10m", 2, 1)]


def test_counts_stay_while_the_registry_is_away_and_are_written_later(
    service: FeatureService, usage: Usage, place: Path
) -> None:
    away = place.with_name("away.db")
    ask(service, COUNT, consumer=b"a")
    place.rename(away)
    for _ in range(2):
        with pytest.raises(RegistryError):
            usage.flush()
    ask(service, COUNT, consumer=b"a")
    away.rename(place)
    usage.flush()
    assert recorded(place) == {("count_10m", "a"): 2}


def test_what_is_kept_is_bounded(
    service: FeatureService, usage: Usage, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_module, "CONSUMERS_MAX", 2)
    monkeypatch.setattr(usage_module, "PENDING_MAX", 2)
    for number in range(5):
        ask(service, COUNT, consumer=b"made-up-%d" % number)
    usage.flush()
    assert recorded(place) == {("count_10m", "made-up-0"): 1, ("count_10m", "made-up-1"): 1}, "others did not fit"
    ask(service, COUNT, consumer=b"made-up-9", times=2)
    usage.flush()
    assert recorded(place)["count_10m", "others"] == 2


def test_names_of_consumers_are_printable_and_not_too_long(service: FeatureService, usage: Usage, place: Path) -> None:
    for name in (b"x" * 1000, b" a\tb\x00 ", b"\xff\xfe", b"   "):
        ask(service, COUNT, consumer=name)
    usage.flush()
    assert {consumer for _, consumer in recorded(place)} == {"x" * 100, "ab", "ÿþ", "unnamed"}


def test_names_are_told_apart_anew_each_day(
    service: FeatureService, place: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_module, "CONSUMERS_MAX", 1)
    clock = [NOW]
    usage = Usage(place, now=lambda: clock[0])
    other = FeatureService(data_dir, now_us=lambda: NOON, usage=usage)
    other.refresh(check=True)
    ask(other, COUNT, consumer=b"a")
    usage.flush()
    clock[0] += timedelta(days=1)
    ask(other, COUNT, consumer=b"a")
    usage.flush()
    ask(other, COUNT, consumer=b"b")
    usage.flush()
    other.close()
    assert recorded(place) == {("count_10m", "a"): 2, ("count_10m", "b"): 1}


def test_no_read_is_lost_between_threads_and_writes(service: FeatureService, usage: Usage, place: Path) -> None:
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            usage.flush()

    readers = [threading.Thread(target=ask, args=(service, COUNT), kwargs={"times": 200}) for _ in range(3)]
    writer = threading.Thread(target=write)
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    done.set()
    writer.join()
    usage.flush()
    assert recorded(place) == {("count_10m", "unnamed"): 600}


def test_a_large_read_in_a_thread_and_the_client_say_who_asks(
    service: FeatureService, usage: Usage, place: Path
) -> None:
    with served(service) as url, FeatureStoreClient(url, consumer="checkout") as client:
        client.get_online_features([COUNT], {"card_id": ["c1"]})
        client.get_online_features([COUNT, SUM, "card_activity:merchant_last"], {"card_id": ["c1"] * 900})
        raw = {"features": [COUNT], "entities": {"card_id": ["c1"]}}
        assert httpx.post(f"{url}/get-online-features", json=raw).status_code == 200
    usage.flush()
    assert recorded(place) == {
        ("count_10m", "checkout"): 2,
        ("amount_sum_10m", "checkout"): 1,
        ("merchant_last", "checkout"): 1,
        ("count_10m", "unnamed"): 1,
    }


def test_a_consumer_that_is_no_header_is_refused() -> None:
    for name in ("naïve", "two\nlines"):
        with pytest.raises(MalformedRequestError, match="no name"):
            FeatureStoreClient("http://127.0.0.1:1", consumer=name)


def test_several_processes_write_what_they_counted_when_they_end(data_dir: Path, place: Path) -> None:
    with serve_command(data_dir, "--processes", "2", "--clock", "event") as (process, url):
        raw = {"features": [COUNT], "entities": {"card_id": ["c1"]}}

        def answered() -> bool:
            with suppress(httpx.TransportError):
                reply = httpx.post(f"{url}/get-online-features", json=raw, headers={"X-Consumer": "probe"})
                return reply.status_code == 200
            return False

        eventually(answered, within_s=30)
        for number in range(20):
            # A new connection each, so that both processes get some.
            reply = httpx.post(f"{url}/get-online-features", json=raw, headers={"X-Consumer": f"c{number % 2}"})
            assert reply.status_code == 200
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    reads = recorded(place)
    assert (reads["count_10m", "c0"], reads["count_10m", "c1"]) == (10, 10)
