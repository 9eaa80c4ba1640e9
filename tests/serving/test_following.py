"""What the server sees of the registry and the stores while they change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from featurestore.errors import MalformedRequestError, RegistryError, ServerUnavailableError, UnknownViewError
from featurestore.serving import FeatureService, OnlineRequest
from tests.factories import MINUTE
from tests.serving.support import (
    ACCOUNT,
    CARD,
    NOON,
    ROOT,
    SECOND,
    Writer,
    event,
    eventually,
    register,
    served,
    write_store,
)

COUNT = OnlineRequest(features=["card_activity:count_10m"], entities={"card_id": ["c1"]})


def count_of(service: FeatureService, **options: object) -> object:
    request = OnlineRequest(features=COUNT.features, entities=COUNT.entities, **options)  # type: ignore[arg-type]
    return service.answer(request).results[1].values[0]


def test_without_a_registry_it_is_not_ready_and_says_what_to_do(tmp_path: Path) -> None:
    service = FeatureService(tmp_path)
    service.refresh(check=True)
    with served(service) as url:
        ready = httpx.get(f"{url}/ready")
        answer = httpx.post(f"{url}/get-online-features", content=b'{"features": ["v:f"], "entities": {}}')
        health = httpx.get(f"{url}/health")
    assert health.json() == {"status": "ok"}
    assert (ready.status_code, answer.status_code) == (503, 503)
    assert "there is no registry" in ready.json()["reason"]
    assert json.loads(answer.json())["hint"] == "apply definitions: featurestore apply MODULE"


def test_without_a_store_it_is_not_ready_and_becomes_so_when_a_worker_has_run(tmp_path: Path) -> None:
    register(tmp_path)
    service = FeatureService(tmp_path, now_us=lambda: NOON)
    service.refresh(check=True)
    assert service.readiness().missing_stores == ["events"]
    with pytest.raises(ServerUnavailableError, match="'events' has no online store yet"):
        service.answer(COUNT)
    write_store(tmp_path, [event(at_us=NOON - SECOND)])
    service.refresh(check=True)
    assert service.readiness().ready
    assert count_of(service) == 1
    service.close()


def test_a_view_that_has_never_run_finds_nothing(tmp_path: Path) -> None:
    register(tmp_path, [CARD])
    write_store(tmp_path, [event(at_us=NOON - SECOND)])
    register(tmp_path, [CARD, ACCOUNT])
    service = FeatureService(tmp_path, clock="event")
    service.refresh(check=True)
    answer = service.answer(
        OnlineRequest(features=["account_activity:count_10m"], entities={"account": [1], "region": ["eu"]})
    )
    assert answer.results[2].statuses == ["NOT_FOUND"]
    assert "account_activity" not in service.latest_us()
    service.close()


def test_a_view_applied_later_is_served_without_a_restart(tmp_path: Path) -> None:
    register(tmp_path, [CARD])
    write_store(tmp_path, [])
    service = FeatureService(tmp_path)
    service.refresh(check=True)
    request = OnlineRequest(features=["account_activity:count_10m"], entities={"account": [1], "region": ["eu"]})
    with pytest.raises(UnknownViewError, match="'account_activity' does not exist"):
        service.answer(request)
    register(tmp_path, [CARD, ACCOUNT])
    service.refresh(check=True)
    assert service.answer(request).results[2].statuses == ["NOT_FOUND"]
    service.close()


def test_a_commit_is_seen_within_the_refresh_interval(tmp_path: Path) -> None:
    register(tmp_path)
    write_store(tmp_path, [event(at_us=NOON - MINUTE)])
    service = FeatureService(tmp_path, now_us=lambda: NOON)
    service.refresh(check=True)
    writer = Writer(tmp_path)
    with served(service, refresh_s=0.05):
        for expected in range(2, 7):
            writer.commit([event(at_us=NOON - MINUTE + expected)])
            committed = time.monotonic()
            eventually(lambda expected=expected: count_of(service) == expected)  # type: ignore[misc]
            # Generous for a busy machine; a reader that waits for a second check would take longer.
            assert time.monotonic() - committed < 0.8
    writer.close()


def test_the_event_clock_reads_just_after_the_newest_event_of_the_source(tmp_path: Path) -> None:
    register(tmp_path)
    write_store(tmp_path, [event(at_us=NOON - 9 * MINUTE), event("other", at_us=NOON)])
    service = FeatureService(tmp_path, clock="event")
    service.refresh(check=True)
    assert service.latest_us() == {"card_activity": NOON + 1, "account_activity": NOON + 1}
    assert count_of(service) == 1
    assert count_of(service, as_of="2026-11-23T12:30:00Z") == 0
    writer = Writer(tmp_path)
    writer.commit([event("other", at_us=NOON + 5 * MINUTE)])
    writer.close()
    service.refresh()
    assert count_of(service) == 0, "time went on although no event of the card came"
    service.close()


def test_a_store_made_anew_is_followed(tmp_path: Path) -> None:
    register(tmp_path)
    write_store(tmp_path, [event(at_us=NOON - SECOND), event(at_us=NOON - SECOND)])
    service = FeatureService(tmp_path, now_us=lambda: NOON)
    service.refresh(check=True)
    assert count_of(service) == 2
    shutil.rmtree(tmp_path / "online" / "events")
    write_store(tmp_path, [event(at_us=NOON - SECOND)])
    service.refresh(check=True)
    assert count_of(service) == 1
    service.close()


def test_what_a_worker_wrote_just_before_it_ended_is_seen_after_its_restart(tmp_path: Path) -> None:
    # The restart moves the log, whose last record was never read here, into a table.
    register(tmp_path)
    writer = Writer(tmp_path)
    writer.commit([event(at_us=NOON - SECOND)])
    service = FeatureService(tmp_path, now_us=lambda: NOON)
    service.refresh(check=True)
    writer.commit([event(at_us=NOON - SECOND)])
    writer.close()
    Writer(tmp_path).close()
    service.refresh()
    assert count_of(service) == 2
    service.close()


def test_reads_go_on_while_the_worker_is_killed_and_starts_again(tmp_path: Path) -> None:
    register(tmp_path)
    write_store(tmp_path, [event("c1", at_us=NOON)])
    service = FeatureService(tmp_path, clock="event")
    service.refresh(check=True)
    command = [sys.executable, "-m", "tests.serving.writer_process", str(tmp_path), "c1"]
    with served(service) as url, httpx.Client() as http:
        for _ in range(3):
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
            assert worker.stdout is not None
            for _ in range(10):
                assert worker.stdout.readline() == b"committed\n"
            worker.kill()
            worker.communicate()
            writer = Writer(tmp_path)
            stored = writer.events_of("c1")
            writer.close()

            def seen(expected: int = stored) -> bool:
                answer = http.post(
                    f"{url}/get-online-features",
                    json={"features": COUNT.features, "entities": COUNT.entities},
                )
                assert answer.status_code == 200, answer.text
                return bool(answer.json()["results"][1]["values"] == [expected])

            eventually(seen)


def test_a_registry_that_breaks_leaves_the_last_views_served(tmp_path: Path) -> None:
    register(tmp_path)
    write_store(tmp_path, [event(at_us=NOON - SECOND)])
    service = FeatureService(tmp_path, now_us=lambda: NOON)
    service.refresh(check=True)

    path = tmp_path / "registry" / "registry.db"
    whole = path.read_bytes()
    path.write_bytes(b"not a database, but long enough to look at" * 40)
    with pytest.raises(RegistryError, match="not a database"):
        service.refresh(check=True)
    assert count_of(service) == 1
    path.write_bytes(whole)
    service.refresh(check=True)
    assert count_of(service) == 1
    service.close()


def test_a_wrong_type_is_the_callers_mistake_even_for_a_null_store(tmp_path: Path) -> None:
    register(tmp_path)
    write_store(tmp_path, [])
    service = FeatureService(tmp_path)
    service.refresh(check=True)
    with pytest.raises(MalformedRequestError, match="'card_id' is String"):
        service.answer(OnlineRequest(features=COUNT.features, entities={"card_id": [5]}))
    service.close()
