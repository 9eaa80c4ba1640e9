"""A source's lateness is changed: what was decided stays, whoever reads it again, killed on its way or not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from featurestore.offline import read_events, read_late
from featurestore.offline.archive_reader import archived_generations
from featurestore.registry import Registry, registry_file
from tests.conftest import ON_KAFKA, TopicAt
from tests.faults.support import change_pipeline
from tests.integration.project import Project, log_events, read_stores
from tests.integration.road import send

MODULE = "pipelines/transactions.py"
START_MS = 1_790_000_000_000
MINUTE_MS = 60_000


def payments(first_minute: int, count: int) -> list[tuple[bytes | None, bytes]]:
    """One a second, and every tenth one half an hour behind."""
    messages: list[tuple[bytes | None, bytes]] = []
    for number in range(count):
        behind = 30 * MINUTE_MS if number % 10 == 9 else 0
        event = {"transaction_id": f"t{first_minute}-{number}", "card_id": f"c{number % 7}", "status": "approved"}
        event |= {"merchant_id": f"m{number % 3}", "amount": 1.0, "currency": "EUR", "fx_rate": 1.0, "country": None}
        event |= {"ts": START_MS + first_minute * MINUTE_MS + number * 1_000 - behind}
        messages.append((None, json.dumps(event).encode()))
    return messages


@ON_KAFKA
@pytest.mark.timeout(200)
def test_a_new_lateness_decides_from_where_it_took_effect(any_topic: TopicAt, tmp_path: Path) -> None:
    project = Project.create(
        tmp_path / "project", any_topic.bootstrap_servers, any_topic.topic, data_dir=tmp_path / "data"
    )
    offline = project.data_dir / "offline"
    send(any_topic, payments(0, 6_000))
    project.run_until_end()
    late = read_late(offline, "transactions").height
    accepted = read_events(offline, "transactions").height
    assert late > 500
    assert late + accepted == 6_000

    # Both views are computed anew from the topic's beginning: what was too late is so for them as well.
    change_pipeline(project, 'allowed_lateness="10m"', 'allowed_lateness="2h"')
    for view in ("card_activity", "merchant_activity"):
        done = project.call("view", "reset", view, "--yes")
        assert done.returncode == 0, done.stderr
    send(any_topic, payments(100, 2_000))
    log = tmp_path / "run.log"
    for commits in (1, 5):
        worker = project.start("--log-level", "debug", "run", MODULE, "--apply", log=log)
        deadline = time.monotonic() + 30
        while len(log_events(log, "commit")) < commits and worker.poll() is None:
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.01)
        worker.kill()
        worker.wait()
    project.run_until_end()
    assert read_late(offline, "transactions").height == late, "nothing of the new ones is too late"
    assert read_events(offline, "transactions").height == accepted + 2_000
    read_stores(project)  # the counters of each view add up to what is archived

    registry = Registry.open(registry_file(project.data_dir), create=False)
    (archived,) = archived_generations(offline, "transactions")
    first, second = registry.source_changes.of("transactions", archived.generation)
    registry.close()
    assert (first.spec.allowed_lateness_us, second.spec.allowed_lateness_us) == (600_000_000, 7_200_000_000)
    assert sum(second.offsets.values()) == 6_000

    # The same again: a third version of the views reads all of it, by both definitions.
    for view in ("card_activity", "merchant_activity"):
        assert project.call("view", "reset", view, "--yes").returncode == 0
    project.run_until_end()
    read_stores(project)
