"""Counts of reads in the registry, on both databases; and what they say is unused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from featurestore.errors import RegistryError
from featurestore.registry import Registry
from featurestore.registry.database import Database
from featurestore.registry.served import DefinitionsFollower
from featurestore.registry.unused import find_unused
from featurestore.registry.usage import FeatureReads, FeatureUse, ReadCount, record_reads
from tests.postgres import PostgresServer
from tests.registry.support import apply, count, service, view

MONDAY = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    running = PostgresServer()
    yield running
    running.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "sqlite":
        return tmp_path / "registry.db"
    server: PostgresServer = request.getfixturevalue("server")
    server.empty()
    return server.url


@pytest.fixture
def registry(place: Path | str) -> Iterator[Registry]:
    opened = Registry.open(place)
    apply(opened, view())
    yield opened
    opened.close()


def read(reads: int = 1, at: datetime = MONDAY, *, feature: str = "count", consumer: str = "a", version: int = 1):
    return ReadCount("activity", version, feature, consumer, reads, at)


def test_reads_add_up_over_versions_and_days_and_the_last_one_stands(registry: Registry) -> None:
    reads = FeatureReads(registry.database)
    reads.add([read(2, MONDAY + HOUR), read(3, consumer="b")])
    reads.add([read(5, MONDAY)])  # written later, of before
    reads.add([read(7, MONDAY + 24 * HOUR), read(11, version=2)])
    reads.add([])
    assert reads.uses() == reads.uses("activity", "count")
    assert reads.uses() == [
        FeatureUse("activity", "count", "a", 25, MONDAY + 24 * HOUR),
        FeatureUse("activity", "count", "b", 3, MONDAY),
    ]
    assert reads.uses("other") == []
    assert reads.last_reads() == {("activity", "count"): MONDAY + 24 * HOUR}


def test_a_later_read_of_the_same_day_is_not_taken_back_by_an_earlier_one(registry: Registry) -> None:
    reads = FeatureReads(registry.database)
    reads.add([read(at=MONDAY + HOUR)])
    reads.add([read(at=MONDAY)])
    assert reads.last_reads() == {("activity", "count"): MONDAY + HOUR}


def test_recording_began_with_the_first_day_that_is_not_forgotten(registry: Registry) -> None:
    reads = FeatureReads(registry.database)
    assert reads.recorded_since() is None
    reads.add([read(), read(at=MONDAY - 24 * HOUR)])
    assert reads.recorded_since() == date(2026, 11, 22)
    reads.forget(date(2026, 11, 23))
    assert reads.recorded_since() == date(2026, 11, 23)
    assert reads.uses() == [FeatureUse("activity", "count", "a", 1, MONDAY)]


def test_no_read_is_lost_among_writers_at_once(registry: Registry, place: Path | str) -> None:
    def write(number: int) -> None:
        database = Database.open(place, create=False)
        # In another order each, as two servers would have it.
        features = [f"f{one}" for one in range(20)]
        rows = [read(feature=name) for name in (features if number % 2 else reversed(features))]
        for _ in range(10):
            FeatureReads(database).add(rows)
        database.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    uses = FeatureReads(registry.database).uses()
    assert [use.reads for use in uses] == [40] * 20


def test_reads_wake_no_follower_and_a_change_does(registry: Registry, place: Path | str) -> None:
    follower = DefinitionsFollower(place)
    assert follower.poll() is not None
    FeatureReads(registry.database).add([read()])
    assert follower.poll() is None, "its views would be compiled again, every time that somebody reads"
    apply(registry, view(hours=2))
    seen = follower.poll()
    assert seen is not None
    assert len(seen.views) == 2
    follower.close()


def test_a_registry_that_is_away_or_not_to_be_written_fails_no_reader(tmp_path: Path) -> None:
    record_reads(tmp_path / "nothing.db", "training", [("activity", 1, "count")])
    assert not (tmp_path / "nothing.db").exists()
    record_reads("postgresql://nobody@127.0.0.1:1/nothing", "training", [("activity", 1, "count")])


def test_a_registry_that_may_only_be_read_answers_and_counts_nothing(server: PostgresServer) -> None:
    server.empty()
    registry = Registry.open(server.url)
    apply(registry, view())
    registry.close()
    server.execute("DROP ROLE IF EXISTS looker", "CREATE ROLE looker LOGIN", "GRANT pg_read_all_data TO looker")
    url = server.url.replace("reader:word", "looker")
    record_reads(url, "training", [("activity", 1, "count")])
    database = Database.open(url, create=False)
    with pytest.raises(RegistryError, match="permission denied"):
        FeatureReads(database).add([read()])
    assert FeatureReads(database).uses() == []
    database.close()


class TestUnused:
    """Views `read`, `held`, `idle` and one that is younger; nobody reads but the first."""

    @pytest.fixture
    def registry(self, tmp_path: Path) -> Iterator[Registry]:
        opened = Registry.open(tmp_path / "registry.db")
        both = {"features": (count(), with_name(2, "count_2h"))}
        apply(opened, view("read", **both), view("held", **both), view("idle", **both), services=(held(both),))
        yield opened
        opened.close()

    def test_nothing_is_said_before_any_read_was_recorded(self, registry: Registry) -> None:
        found = find_unused(registry.database, soon())
        assert (found.recorded_since, found.views, found.is_covered) == (None, (), False)

    def test_unused_is_what_nobody_reads_and_no_service_holds(self, registry: Registry) -> None:
        long_ago, lately = soon() - 48 * HOUR, soon() + HOUR
        FeatureReads(registry.database).add(
            [
                ReadCount("read", 1, "count", "a", 1, lately),
                ReadCount("idle", 1, "count", "a", 1, long_ago),
            ]
        )
        found = find_unused(registry.database, soon())
        assert {one.view.name: dict(one.features) for one in found.views} == {
            "read": {"count_2h": None},
            "held": {"count_2h": None},
            "idle": {"count": long_ago, "count_2h": None},
        }
        assert {one.view.name: one.whole for one in found.views} == {"read": False, "held": False, "idle": True}
        assert found.is_covered
        assert not find_unused(registry.database, soon() - 72 * HOUR).is_covered

    def test_what_was_applied_later_is_no_news(self, registry: Registry) -> None:
        FeatureReads(registry.database).add([ReadCount("read", 1, "count", "a", 1, soon())])
        before_all = datetime.now(timezone.utc) - HOUR
        assert find_unused(registry.database, before_all).views == ()

    def test_a_new_version_makes_its_features_no_younger(self, registry: Registry) -> None:
        since = datetime.now(timezone.utc)
        FeatureReads(registry.database).add([ReadCount("read", 1, "count", "a", 1, since)])
        apply(registry, view("idle", features=(count(9), with_name(3, "count_3h"))))
        idle = next(one for one in find_unused(registry.database, since).views if one.view.name == "idle")
        assert list(idle.features) == ["count"], "count_3h came later"


def with_name(hours: int, name: str):
    import msgspec

    return msgspec.structs.replace(count(hours), name=name)


def held(both: dict[str, object]):
    return service(view("held", **both))


def soon() -> datetime:
    """After everything that a test applies."""
    return datetime.now(timezone.utc) + timedelta(minutes=1)
