"""A registry over the network that goes away: readers go on, a server starts from what it read last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.errors import NoRegistryError, RegistryError
from featurestore.registry import Registry
from featurestore.registry.served import DefinitionsFollower
from tests.postgres import PostgresServer
from tests.registry.support import apply, view


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    running = PostgresServer()
    yield running
    running.close()


@pytest.fixture
def url(server: PostgresServer) -> str:
    server.empty()
    return server.url


def test_a_follower_sees_changes_and_nothing_when_there_is_none(url: str, tmp_path: Path) -> None:
    registry = Registry.open(url)
    apply(registry, view())
    follower = DefinitionsFollower(url, tmp_path / "served.json")
    first = follower.poll()
    assert first is not None
    assert [one.spec for one in first.views] == [view()]
    assert follower.poll() is None
    apply(registry, view(hours=2))
    registry.versions.promote("activity", 2)
    second = follower.poll()
    assert second is not None
    assert (len(second.views), second.routes["activity"].served) == (2, 2)
    follower.close()
    registry.close()


def test_while_it_is_down_readers_are_told_and_a_new_one_has_what_was_read_last(
    server: PostgresServer, url: str, tmp_path: Path
) -> None:
    cache = tmp_path / "registry" / "served.json"
    registry = Registry.open(url)
    apply(registry, view())
    registry.close()
    follower = DefinitionsFollower(url, cache)
    seen = follower.poll()
    server.stop()
    try:
        with pytest.raises(RegistryError) as caught:
            follower.poll()
        assert "word" not in str(caught.value), "no password in a message"
        assert url.rpartition("@")[2] in str(caught.value)
        started_now = DefinitionsFollower(url, cache)
        assert started_now.poll() == seen
        with pytest.raises(RegistryError):
            started_now.poll()
        without = DefinitionsFollower(url, tmp_path / "nothing.json")
        with pytest.raises(RegistryError):
            without.poll()
        cache.write_text("{}")
        with pytest.raises(RegistryError):
            DefinitionsFollower(url, cache).poll()
    finally:
        server.start()
    assert follower.poll() is None
    registry = Registry.open(url)
    apply(registry, view(hours=2))
    for one in (follower, started_now):
        found = one.poll()
        assert found is not None
        assert len(found.views) == 2
        one.close()
    registry.close()


def test_an_empty_database_is_no_registry(url: str, tmp_path: Path) -> None:
    with pytest.raises(NoRegistryError, match="there is no registry"):
        Registry.open(url, create=False)
    follower = DefinitionsFollower(url)
    with pytest.raises(NoRegistryError):
        follower.poll()
    registry = Registry.open(url)
    apply(registry, view())
    found = follower.poll()
    assert found is not None
    follower.close()
    registry.close()


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("mysql://u:word@h/d", r"no registry is kept in mysql"),
        ("postgresql://u:word@127.0.0.1:1/d", r"postgresql://u:\*\*\*@127\.0\.0\.1:1/d"),
        ("postgresql://u:word@h:port/d", "no URL of a database"),
    ],
)
def test_a_place_that_is_none_is_told_without_its_password(place: str, told: str) -> None:
    with pytest.raises(RegistryError, match=told) as caught:
        Registry.open(place)
    assert "word" not in caught.value.message
