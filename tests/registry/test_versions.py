"""Versions of a view side by side, in a SQLite file and in a real PostgreSQL: promote, roll back, retire, canary."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from featurestore.errors import RegistryError, UnknownViewError
from featurestore.registry import Registry
from featurestore.registry.history import history
from featurestore.registry.served import read_served
from tests.postgres import PostgresServer
from tests.registry.support import apply, resolved, service, view, with_owner


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    running = PostgresServer()
    yield running
    running.close()


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "file":
        return tmp_path / "registry.db"
    server: PostgresServer = request.getfixturevalue("server")
    server.empty()
    return server.url


@pytest.fixture
def registry(place: Path | str) -> Iterator[Registry]:
    opened = Registry.open(place)
    yield opened
    opened.close()


def live(registry: Registry) -> list[str]:
    return [found.reference for found in registry.live_views()]


def roles(registry: Registry) -> dict[int, str]:
    return {version.version: version.role for version in registry.versions.of("activity")}


def test_a_new_version_is_computed_beside_the_one_that_is_served(registry: Registry) -> None:
    apply(registry, view(), revision="abc")
    plan = apply(registry, view(hours=2), revision="def")
    assert [change.new_version for change in plan.changed] == [2]
    assert live(registry) == ["activity@1", "activity@2"]
    assert registry.view("activity").version == 1
    assert registry.view("activity@2").spec == view(hours=2)
    assert [found.git_revision for found in registry.live_views()] == ["abc", "def"]
    assert roles(registry) == {1: "served", 2: "shadow"}


def test_promotion_and_the_way_back_and_forth_again(registry: Registry) -> None:
    apply(registry, view())
    apply(registry, view(hours=2))
    assert registry.versions.promote("activity", 2, note="looked at").served == 2
    assert registry.view("activity").version == 2
    assert roles(registry) == {1: "previous", 2: "served"}
    assert registry.versions.rollback("activity").served == 1
    assert roles(registry) == {1: "served", 2: "previous"}
    assert registry.versions.rollback("activity").served == 2
    told = [(entry.action, entry.version, entry.note) for entry in history(registry.database, "activity")]
    assert told[:3] == [("rollback", 2, None), ("rollback", 1, None), ("promote", 2, "looked at")]
    assert history(registry.database, "activity")[0].by


def test_without_a_version_before_there_is_no_way_back(registry: Registry) -> None:
    apply(registry, view())
    with pytest.raises(RegistryError, match="none before 1 is computed") as caught:
        registry.versions.rollback("activity")
    assert "featurestore versions activity" in (caught.value.hint or "")


def test_a_version_that_was_never_promoted_gives_way_to_the_next(registry: Registry) -> None:
    for hours in (1, 2, 3):
        apply(registry, view(hours=hours))
    assert live(registry) == ["activity@1", "activity@3"]
    assert roles(registry) == {1: "served", 2: "retired", 3: "shadow"}
    apply(registry, view(hours=1))
    assert roles(registry) == {1: "served", 2: "retired", 3: "retired"}
    apply(registry, view(hours=3))
    assert live(registry) == ["activity@1", "activity@4"], "a retired version never comes back"


def test_a_canary_and_a_version_before_are_kept_when_the_next_comes(registry: Registry) -> None:
    apply(registry, view())
    apply(registry, view(hours=2), promote=True)
    apply(registry, view(hours=3))
    registry.versions.set_canary("activity", 3, 0.25)
    apply(registry, view(hours=4))
    assert roles(registry) == {1: "previous", 2: "served", 3: "canary", 4: "shadow"}


def test_a_canary_needs_a_share_and_another_version_with_the_same_keys(registry: Registry) -> None:
    apply(registry, view())
    apply(registry, view(hours=2))
    for share in (0.0, 1.0, -1.0, 2.0):
        with pytest.raises(RegistryError, match="share"):
            registry.versions.set_canary("activity", 2, share)
    with pytest.raises(RegistryError, match="served to all already"):
        registry.versions.set_canary("activity", 1, 0.5)
    route = registry.versions.set_canary("activity", 2, 0.1)
    assert (route.served, route.canary, route.canary_share) == (1, 2, 0.1)
    with pytest.raises(RegistryError, match="is the canary"):
        registry.versions.retire("activity", 2)
    assert registry.versions.stop_canary("activity").canary is None
    with pytest.raises(RegistryError, match="has no canary"):
        registry.versions.stop_canary("activity")
    other = view(hours=3, entities=(type(view().entities[0])(name="card", join_keys=()),))
    apply(registry, other)
    with pytest.raises(RegistryError, match="other join keys"):
        registry.versions.set_canary("activity", 3, 0.1)


def test_promotion_ends_the_canary(registry: Registry) -> None:
    apply(registry, view())
    apply(registry, view(hours=2))
    registry.versions.set_canary("activity", 2, 0.1)
    route = registry.versions.promote("activity", 2)
    assert (route.served, route.previous, route.canary, route.canary_share) == (2, 1, None, None)


def test_what_is_read_is_not_retired(registry: Registry) -> None:
    apply(registry, view(), services=(service(view()),))
    apply(registry, view(hours=2), services=(service(view(hours=2)),), promote=True)
    with pytest.raises(RegistryError, match="is served"):
        registry.versions.retire("activity", 2)
    with pytest.raises(RegistryError, match="pinned by feature service fraud") as caught:
        registry.versions.retire("activity", 1)
    assert "--service fraud" in (caught.value.hint or "")
    registry.versions.promote("activity", 2, services=["fraud"])
    assert registry.feature_services()["fraud"].spec.views[0].version == 2
    registry.versions.check_retire("activity", 1)
    registry.versions.retire("activity", 1)
    assert live(registry) == ["activity@2"]
    assert not apply(registry, view(hours=2), services=(service(view(hours=2)),)).has_changes
    with pytest.raises(RegistryError, match="no version to go back to"):
        registry.versions.rollback("activity")
    with pytest.raises(UnknownViewError, match="version 1 of view 'activity' is retired"):
        registry.versions.promote("activity", 1)
    with pytest.raises(UnknownViewError, match="version 9 of view 'activity' does not exist") as unknown:
        registry.versions.promote("activity", 9)
    assert "activity@2" in (unknown.value.hint or "")


@pytest.mark.parametrize("name", ["other", "nothing"])
def test_a_promotion_with_a_service_that_does_not_fit_changes_nothing(registry: Registry, name: str) -> None:
    apply(registry, view(), view("b"), services=(service(view("b"), name="other"),))
    apply(registry, view(hours=2), view("b"), services=(service(view("b"), name="other"),))
    with pytest.raises(RegistryError, match=name):
        registry.versions.promote("activity", 2, services=[name])
    assert registry.view("activity").version == 1


def test_what_is_told_about_a_view_is_told_of_the_version_it_belongs_to(registry: Registry) -> None:
    apply(registry, view())
    apply(registry, view(hours=2))
    apply(registry, with_owner(view(hours=2), "risk"))
    assert [found.spec.owner for found in registry.live_views()] == ["", "risk"]
    assert live(registry) == ["activity@1", "activity@2"]


def test_every_step_grows_the_number_that_readers_follow(registry: Registry) -> None:
    seen = [registry.change_number()]
    apply(registry, view())
    seen.append(registry.change_number())
    apply(registry, view(hours=2))
    seen.append(registry.change_number())
    for step in (
        lambda: registry.versions.set_canary("activity", 2, 0.5),
        lambda: registry.versions.stop_canary("activity"),
        lambda: registry.versions.promote("activity", 2),
        lambda: registry.versions.rollback("activity"),
        lambda: registry.versions.retire("activity", 2),
    ):
        step()
        seen.append(registry.change_number())
    assert seen == sorted(set(seen))
    apply(registry, view(hours=1))
    assert registry.change_number() > seen[-1]
    assert read_served(registry.database).change_number == registry.change_number()


def test_promotions_applies_and_readers_at_once_see_whole_states(place: Path | str) -> None:
    """Two views change together in each apply: no reader sees one of them without the other."""
    first = Registry.open(place)
    apply(first, view("a"), view("b"))
    done = threading.Event()

    def write() -> None:
        mine = Registry.open(place)
        try:
            for hours in range(2, 12):
                mine.apply(mine.plan(resolved(view("a", hours), view("b", hours))), promote=True)
        finally:
            done.set()
            mine.close()

    def read() -> None:
        mine = Registry.open(place, create=False)
        while not done.is_set():
            served = read_served(mine.database)
            versions = {(one.spec.name, one.version): one.spec.features for one in served.views}
            routes = served.routes
            assert routes["a"].served == routes["b"].served
            assert versions["a", routes["a"].served] == versions["b", routes["b"].served]
        mine.close()

    with ThreadPoolExecutor() as pool:
        for running in [pool.submit(write), *(pool.submit(read) for _ in range(3))]:
            running.result(60)
    assert first.view("a").version == first.view("b").version == 11
    first.close()


def test_the_same_definitions_applied_from_many_places_at_once_are_one_version(place: Path | str) -> None:
    Registry.open(place).close()
    start = threading.Barrier(6)

    def work() -> None:
        mine = Registry.open(place)
        plan = mine.plan(resolved(view("a"), view("b")))
        start.wait(30)
        mine.apply(plan)
        mine.close()

    with ThreadPoolExecutor(6) as pool:
        for running in [pool.submit(work) for _ in range(6)]:
            running.result(60)
    registry = Registry.open(place, create=False)
    assert live(registry) == ["a@1", "b@1"]
    registry.close()


def killed_before_statement(at: int, place: Path | str, step: Callable[[Registry], object]) -> bool:
    """Take a step in a process of its own, which dies before its statement number `at`; False when it has no more."""
    child = os.fork()
    if not child:
        # Whatever happens in here, the tests must not go on twice.
        try:
            registry, seen = Registry.open(place, create=False), itertools.count(1)

            def die(*arguments: object) -> None:
                if next(seen) == at:
                    os.kill(os.getpid(), signal.SIGKILL)

            event.listen(Engine, "before_cursor_execute", die)
            step(registry)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == 0
    return False


@pytest.mark.parametrize("step", ["apply", "promote"])
def test_killed_in_the_middle_nothing_is_done_by_half(place: Path | str, step: str) -> None:
    registry = Registry.open(place)
    apply(registry, view(), view("b"), services=(service(view()),))
    if step == "promote":
        apply(registry, view(hours=2), view("b", 2))
    plan = registry.plan(resolved(view(hours=2), view("b", 2)))

    def act(own: Registry) -> None:
        if step == "apply":
            own.apply(plan)
        else:
            own.versions.promote("activity", 2, services=["fraud"])

    def state() -> object:
        served = read_served(registry.database)
        return served, registry.versions.of("activity"), registry.versions.of("b"), history(registry.database)

    before, at = state(), 1
    while killed_before_statement(at, place, act):
        assert state() == before, f"killed before statement {at}"
        at += 1
    assert at > 8
    assert state() != before
    registry.close()
