"""A feature is changed in production: applied, backfilled, tried on some of the reads, promoted, taken back.

On a live stream, with a server that is asked all the time: no read fails, and none has rows of two versions.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.sources.produce import MessageSender
from tests.conftest import ON_KAFKA, TopicAt
from tests.faults.support import change_pipeline
from tests.integration.project import Project, assert_same_stores, read_stores
from tests.integration.road import free_port

MODULE = "pipelines/transactions.py"
OLD = 'derive={"amount_eur": pl.col("amount") * pl.col("fx_rate")},\n    features=[\n        agg.count(over=["10m"'
NEW = OLD.replace('pl.col("fx_rate")', 'pl.col("fx_rate") * -1.0')
"""The new version's sums are below zero: a value tells which version it is of."""
CARDS = 200
SUM = "card_activity:amount_eur_sum_24h"


class Load(threading.Thread):
    """Payments at a steady pace."""

    def __init__(self, topic: TopicAt) -> None:
        super().__init__(daemon=True)
        self._topic = topic
        self._stopped = threading.Event()
        stream = TransactionStream(Shape(events=400_000, cards=CARDS, duration_s=300_000.0), seed=11)
        self.cards: set[str] = set()
        self._messages = iter(stream)

    def run(self) -> None:
        sender = MessageSender(self._topic.address, self._topic.topic, {})
        number = 0
        while not self._stopped.wait(0.1):
            for _ in range(100):
                key, value = next(self._messages)
                if key is not None:
                    self.cards.add(key.decode())
                sender.send(value, key, partition=number % self._topic.partitions)
                number += 1
        sender.flush()

    def stop(self) -> None:
        self._stopped.set()
        self.join(60)
        assert not self.is_alive()


class Readers(threading.Thread):
    """Asks for a sum of several cards again and again, and holds every answer against the version that it names."""

    def __init__(self, url: str, cards: list[str]) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._cards = cards
        self._stopped = threading.Event()
        self.versions: Counter[int] = Counter()
        self.last = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            number = 0
            while not self._stopped.is_set():
                number += 1
                cards = [self._cards[(number * 7 + place) % len(self._cards)] for place in range(1 + number % 20)]
                try:
                    version, values = read(client, cards)
                except (httpx.HTTPError, KeyError, ValueError) as error:
                    self.wrong.append(f"{type(error).__name__}: {error}")
                    continue
                signs = {value > 0 for value in values if value}
                if not signs <= {version == 1}:
                    self.wrong.append(f"version {version}: {values}")
                self.versions[version] += 1
                self.last = version
                # Back to back, reads would take a core from all that they are to see.
                self._stopped.wait(0.02)

    def stop(self) -> None:
        self._stopped.set()
        self.join(60)
        assert not self.is_alive()


def read(client: httpx.Client, cards: list[str]) -> tuple[int, list[float | None]]:
    body: dict[str, Any] = {"features": [SUM], "entities": {"card_id": cards}}
    answer = client.post("/get-online-features", json=body | {"include_feature_view_version_metadata": True})
    answer.raise_for_status()
    document = answer.json()
    (view,) = document["metadata"]["feature_view_metadata"]
    return view["version"], document["results"][1]["values"]


def eventually(condition: Callable[[], object], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)


@contextmanager
def running(project: Project, *arguments: str, log: Path) -> Iterator[None]:
    process = project.start(*arguments, log=log)
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-3000:]
    finally:
        process.kill()
        process.wait()


def say(project: Project, *arguments: str) -> dict[str, Any]:
    done = project.call(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def roles(project: Project) -> dict[int, str]:
    return {found["version"]: found["role"] for found in say(project, "versions", "card_activity")["versions"]}


def undisturbed(project: Project, folder: Path, *, changed: bool) -> Project:
    """The definitions as they are, or as they were, on the same topic from its beginning."""
    (folder / "data").mkdir(parents=True)
    for file in project.data_dir.glob("*"):
        if file.is_file():
            shutil.copy(file, folder / "data")
    other = Project.create(folder, project.servers, project.topic, data_dir=folder / "data")
    if changed:
        change_pipeline(other, OLD, NEW)
    other.run_until_end()
    return other


@ON_KAFKA
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_feature_is_changed_while_it_is_read(any_topic: TopicAt, tmp_path: Path) -> None:
    project = Project.create(
        tmp_path / "project", any_topic.bootstrap_servers, any_topic.topic, data_dir=tmp_path / "data"
    )
    worker_log, server_log = tmp_path / "worker.log", tmp_path / "server.log"
    say(project, "apply", MODULE)
    load, port = Load(any_topic), free_port()
    load.start()
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
    with running(project, "serve", "--port", str(port), "--clock", "event", log=server_log):
        with running(project, "run", MODULE, log=worker_log):
            eventually(lambda: b"serving" in server_log.read_bytes(), 30, server_log)
            eventually(lambda: client.get("/ready").status_code == 200, 30, server_log)
            eventually(lambda: len(load.cards) > CARDS * 0.9, 30, worker_log)
            readers = Readers(f"http://127.0.0.1:{port}", sorted(load.cards))
            readers.start()
            eventually(lambda: readers.versions[1] > 20, 30, server_log)
            archive = project.data_dir / "offline" / "events"
            eventually(lambda: any(archive.rglob("*.parquet")), 60, worker_log)

            change_pipeline(project, OLD, NEW)
            (change,) = say(project, "plan", MODULE)["changes"]
            assert (change["name"], change["new_version"]) == ("card_activity", 2)
            say(project, "apply", MODULE)
            assert roles(project) == {1: "served", 2: "shadow"}
            (filled,) = say(project, "backfill", MODULE, "--view", "card_activity@2")["sources"]
            assert (filled["finished"], filled["taken_in"]) == (True, False), "the worker holds the source"
        with running(project, "run", MODULE, log=worker_log):
            eventually(lambda: b"backfill_taken_in" in worker_log.read_bytes(), 30, worker_log)

            def of_both(card: str) -> list[float | None]:
                asked = [f"card_activity@{version}:amount_eur_sum_24h" for version in (1, 2)]
                body = {"features": asked, "entities": {"card_id": [card]}, "full_feature_names": True}
                answer = client.post("/get-online-features", json=body).json()
                return [column["values"][0] for column in answer["results"][1:]]

            some = sorted(load.cards)[0]
            eventually(lambda: (of_both(some)[1] or 0) < 0 < (of_both(some)[0] or 0), 30, worker_log)
            assert set(readers.versions) == {1}, "nobody reads the shadow"

            def share_equal(feature: str) -> float:
                report = project.call("compare", "card_activity@2", "--json")
                features = json.loads(report.stdout)["comparison"]["features"]
                return next(one["equal_share"] for one in features if one["feature"] == feature)

            # Once the new version has caught up with the events since its backfill.
            eventually(lambda: share_equal("count_24h") == 1.0, 30, worker_log)
            assert share_equal("amount_eur_sum_24h") < 0.1

            say(project, "canary", "card_activity@2", "--share", "0.1")
            eventually(lambda: readers.versions[2], 30, server_log)
            cards = sorted(load.cards)
            drawn = [{card: read(client, [card])[0] for card in cards} for _ in range(2)]
            assert drawn[0] == drawn[1], "an entity stays with its version"
            assert 0.02 < Counter(drawn[0].values())[2] / len(cards) < 0.25

            began = time.monotonic()
            say(project, "promote", "card_activity@2")
            eventually(lambda: {read(client, [card])[0] for card in cards[:50]} == {2}, 10, server_log)
            took = time.monotonic() - began
            assert roles(project) == {1: "previous", 2: "served"}
            say(project, "rollback", "card_activity")
            eventually(lambda: {read(client, [card])[0] for card in cards[:50]} == {1}, 10, server_log)
            load.stop()
        readers.stop()
    client.close()
    assert readers.wrong == []
    assert readers.versions[1] > 100
    assert readers.versions[2] > 1
    assert took < 10

    project.run_until_end()
    before = undisturbed(project, tmp_path / "before", changed=False)
    assert_same_stores(read_stores(project), read_stores(before))
    say(project, "promote", "card_activity@2")
    after = undisturbed(project, tmp_path / "after", changed=True)
    assert_same_stores(read_stores(project), read_stores(after))

    say(project, "retire", "card_activity@1", "--yes")
    project.run_until_end()
    (removed,) = say(project, "view", "purge", "card_activity", "--yes")["removed"]
    assert removed["version"] == 1
    assert_same_stores(read_stores(project), read_stores(after))
