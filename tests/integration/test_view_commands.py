"""`featurestore view pause | resume | reset` around real runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from featurestore.examples.transactions import TransactionStream
from featurestore.offline import read_snapshots
from featurestore.online.source_store import lock_source
from tests.conftest import ON_KAFKA, TopicAt
from tests.integration.project import Project, assert_same_stores, read_stores
from tests.integration.road import send
from tests.integration.test_road import SHAPE, other_data_dir

MESSAGES = list(TransactionStream(SHAPE, seed=9))[:2_000]


def say(project: Project, *arguments: str) -> dict[str, object]:
    done = project.call(*arguments, "--json")
    assert done.returncode == 0, done.stderr[-2_000:]
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@ON_KAFKA
@pytest.mark.timeout(180)
def test_a_paused_view_stands_still_and_catches_up_when_it_is_resumed(any_topic: TopicAt, tmp_path: Path):
    project = Project.create(tmp_path, any_topic.bootstrap_servers, any_topic.topic)
    send(any_topic, MESSAGES[:1_000])
    project.run_until_end()
    before = read_stores(project)
    assert say(project, "view", "pause", "merchant_activity") == {
        "view": "merchant_activity",
        "paused": True,
        "changed": True,
    }
    assert say(project, "view", "pause", "merchant_activity")["changed"] is False
    send(any_topic, MESSAGES[1_000:])
    done = project.call("run", "pipelines/transactions.py", "--until-end")
    assert done.returncode == 0, done.stderr[-2_000:]
    assert '"view_paused"' in done.stderr
    status = say(project, "status")
    views = {view["name"]: view for view in status["views"]}  # type: ignore[index, attr-defined]
    assert views["merchant_activity"]["applied"] == before.counts["merchant_activity"].applied
    assert views["card_activity"]["applied"] > before.counts["card_activity"].applied
    assert views["merchant_activity"]["paused_since"]
    assert status["sources"][0]["lag"] == 0  # type: ignore[index]
    assert "featurestore view resume merchant_activity" in project.call("status").stdout

    assert say(project, "view", "resume", "merchant_activity")["changed"] is True
    project.run_until_end()
    at_once = Project.create(
        tmp_path / "other", any_topic.bootstrap_servers, any_topic.topic, data_dir=other_data_dir(any_topic, tmp_path)
    )
    at_once.run_until_end()
    assert_same_stores(read_stores(project), read_stores(at_once))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("any_topic", ["embedded"], indirect=True)
def test_a_view_that_was_reset_is_computed_again_beside_what_it_was(any_topic: TopicAt, tmp_path: Path):
    project = Project.create(tmp_path, any_topic.bootstrap_servers, any_topic.topic)
    send(any_topic, MESSAGES)
    project.run_until_end()
    before = read_stores(project)
    done = project.call("view", "reset", "card_activity")
    assert done.returncode == 1
    assert "say --yes" in done.stderr
    assert say(project, "view", "reset", "card_activity", "--yes") == {
        "view": "card_activity",
        "version": 2,
        "before": 1,
        "from": "earliest",
    }
    project.run_until_end()
    assert_same_stores(before, read_stores(project))
    offline = project.data_dir / "offline"
    keys = ["card_id"]
    for window in ("sliding", "tumbling_1m"):
        old, new = (read_snapshots(offline, "card_activity", version, window, keys) for version in (1, 2))
        assert old.height == new.height > 0


def test_what_can_not_be_done_is_told(tmp_path: Path):
    from featurestore.sources.embedded import EmbeddedBroker

    with EmbeddedBroker(tmp_path / "data") as broker:
        assert broker.address is not None
        topic = TopicAt("embedded", "embedded", broker.address.bootstrap_servers, "t", 4)
        send(topic, MESSAGES[:50])
        project = Project.create(tmp_path, "embedded", "t")
        project.run_until_end()
        unknown = project.call("view", "pause", "card_activty")
        assert unknown.returncode == 1
        assert "did you mean card_activity" in unknown.stderr
        for view in ("card_activity", "merchant_activity"):
            say(project, "view", "pause", view)
        nothing = project.call("run", "pipelines/transactions.py", "--until-end")
        assert nothing.returncode == 1
        assert "every view of these modules is paused" in nothing.stderr
        lock = lock_source(project.data_dir, "transactions")
        try:
            held = project.call("view", "reset", "card_activity", "--yes")
        finally:
            lock.release()
        assert held.returncode == 1
        assert "is being run by process" in held.stderr
