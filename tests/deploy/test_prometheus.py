"""A real Prometheus scrapes a real worker and server, and answers every query of the dashboard and of the alerts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from featurestore.client import FeatureStoreClient
from featurestore.examples.transactions import TransactionStream
from tests.conftest import TopicAt
from tests.deploy.test_dashboard import DEPLOY, PANELS, expressions
from tests.integration.project import Project
from tests.integration.road import send
from tests.integration.test_road import SHAPE

# What has no data where every event has a key and nothing came late: counters that were never counted up.
MAY_BE_EMPTY = {
    "sum by (view) (rate(featurestore_beyond_retention_total[5m]))",
    "sum by (view) (rate(featurestore_null_key_total[5m]))",
}


@pytest.fixture
def programs() -> None:
    """Prometheus and promtool, as Debian's package prometheus brings them."""
    if shutil.which("prometheus") and shutil.which("promtool"):
        return
    if os.environ.get("FEATURESTORE_REQUIRE_PROMETHEUS") == "1":
        pytest.fail("prometheus and promtool are not installed")
    pytest.skip("prometheus and promtool are not installed")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.2)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_finds_nothing_wrong(arguments: list[str]):
    command, what, *rest = arguments
    done = subprocess.run(
        ["promtool", command, what, *rest], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A server of its own, asked over HTTP."""

    def __init__(self, folder: Path, port: int, targets: dict[str, str]) -> None:
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOY / "prometheus/alerts.yml")]
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._url = f"http://127.0.0.1:{port}"
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=out,
                stderr=out,
            )

    def ask(self, path: str, **parameters: str) -> Any:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def up(self) -> int:
        return len([target for target in self.ask("targets")["activeTargets"] if target["health"] == "up"])


@pytest.fixture
def running(any_topic: TopicAt, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Prometheus, TopicAt]]:
    """Worker, server and Prometheus on a topic with events, too-late ones and dead letters in it."""
    metrics_port, port, prometheus_port = free_ports(3)
    project = Project.create(tmp_path, any_topic.bootstrap_servers, any_topic.topic)
    config = project.folder / "featurestore.toml"
    config.write_text(config.read_text().replace("metrics_port = 0", f"metrics_port = {metrics_port}"))
    events = list(TransactionStream(SHAPE, seed=6))
    send(any_topic, events[:3_000])
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(project.start("run", "pipelines/transactions.py", "--apply", log=tmp_path / "run.log"))
        started.append(project.start("serve", "--port", str(port), "--processes", "2", log=tmp_path / "serve.log"))
        targets = {"featurestore-worker": f"127.0.0.1:{metrics_port}", "featurestore-server": f"127.0.0.1:{port}"}
        prometheus = Prometheus(tmp_path, prometheus_port, targets)
        started.append(prometheus.process)
        wait_until(prometheus.is_ready, 30, "Prometheus is ready")
        wait_until(lambda: prometheus.up() == 2, 40, "both are scraped")
        time.sleep(3.0)  # a rate needs what came between two scrapes
        send(any_topic, events[3_000:])
        with FeatureStoreClient(f"http://127.0.0.1:{port}") as client:
            for _ in range(20):
                client.get_online_features(
                    features=["card_activity:count_24h", "merchant_activity:count_1h"],
                    entities={"card_id": ["card_000001", "nobody"], "merchant_id": ["merchant_0001", "nobody"]},
                )
                time.sleep(0.1)
        yield prometheus, any_topic
    finally:
        codes = []
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            codes.append(process.wait(30))
    assert codes == [0] * len(started)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("any_topic", ["embedded"], indirect=True)
def test_every_query_is_answered_by_a_real_prometheus(
    programs: None, running: tuple[Prometheus, TopicAt], tmp_path: Path
):
    prometheus, _ = running
    shown = [target["expr"] for panel in PANELS for target in panel["targets"]]

    def empty() -> list[str]:
        return [
            expression
            for expression in shown
            if expression not in MAY_BE_EMPTY and not prometheus.ask("query", query=expression)["result"]
        ]

    wait_until(lambda: not empty(), 20, "panels have data")
    for expression in expressions():
        assert prometheus.ask("query", query=expression)["resultType"] == "vector"
    read = prometheus.ask("query", query="sum(featurestore_events_read_total)")["result"][0]["value"][1]
    assert int(read) == SHAPE.events
    rules = prometheus.ask("rules")["groups"][0]["rules"]
    assert {rule["health"] for rule in rules} == {"ok"}
    down = [rule for rule in rules if rule["name"] == "FeaturestoreDown"]
    assert [rule["state"] for rule in down] == ["inactive"]
