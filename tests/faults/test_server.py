"""kill -9 of the server again and again while a worker writes: clients try again, and never hear anything wrong."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from pathlib import Path

import pytest

from featurestore.client import FeatureStoreClient
from featurestore.errors import FeatureStoreError
from tests.faults.support import MODULE, Load, shorter_or, wait_for
from tests.faults.test_kills import kill_all
from tests.integration.project import Project, read_stores
from tests.integration.test_kill import committed_events
from tests.kafka_broker import KafkaBroker, free_ports

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]
KILLS = int(shorter_or(50, 3))
MERCHANTS = [f"merchant_{number:04d}" for number in range(12)]
FEATURES = ["merchant_activity:count", "merchant_activity:count_1h", "merchant_activity:amount_eur_sum_1h"]


class Reader(threading.Thread):
    """Reads by the client all the time: lifetime counts never fall, an hour has no more than a lifetime."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._ended = threading.Event()
        self.answers = 0
        self.counts = dict.fromkeys(MERCHANTS, 0)
        self.wrong: list[str] = []
        self.errors: list[str] = []

    def run(self) -> None:
        with FeatureStoreClient(self._url, retries=9, backoff_s=0.05) as client:
            while not self._ended.wait(0.002):
                try:
                    answer = client.get_online_features(features=FEATURES, entities={"merchant_id": MERCHANTS})
                except FeatureStoreError as error:
                    self.errors.append(str(error))
                    continue
                for row in answer.to_pylist():
                    self._look(row["merchant_id"], row["count"] or 0, row["count_1h"] or 0, row["amount_eur_sum_1h"])
                self.answers += 1

    def _look(self, merchant: str, ever: int, hour: int, amount: float | None) -> None:
        before = self.counts[merchant]
        if ever < before or hour > ever or (hour == 0 and amount):
            self.wrong.append(f"{merchant}: {ever} after {before}, {hour} in the hour, {amount}")
        self.counts[merchant] = ever

    def stop(self) -> None:
        self._ended.set()
        self.join(60)
        assert not self.is_alive()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_server_that_is_killed_gives_no_wrong_answer_and_its_clients_no_error(
    kafka_broker: KafkaBroker, tmp_path: Path, processes: int
) -> None:
    servers, chance = kafka_broker.bootstrap_servers, random.Random(processes)
    topic = kafka_broker.create_topic(f"served-{os.urandom(4).hex()}", 3)
    project = Project.create(tmp_path, servers, topic)
    (port,) = free_ports(1)
    log, server_log = tmp_path / "run.log", tmp_path / "server.log"
    serve = ("serve", "--port", str(port), "--clock", "event", "--processes", str(processes))
    load, reader = Load(servers, topic, 3, seed=31), Reader(f"http://127.0.0.1:{port}")
    load.start()
    worker = project.start("--log-level", "debug", "run", MODULE, "--apply", log=log)
    server: subprocess.Popen[bytes] | None = None
    try:
        wait_for(lambda: committed_events(log, 0) > 500, 60, log)
        server = project.start(*serve, log=server_log)
        reader.start()
        for _ in range(KILLS):
            answered = reader.answers
            wait_for(lambda answered=answered: reader.answers > answered + 30, 60, server_log)
            time.sleep(chance.random() * 0.3)
            kill_all(server)
            time.sleep(chance.random() * 0.5)
            server = project.start(*serve, log=server_log)
        load.stop()
        worker.terminate()
        assert worker.wait(60) == 0, log.read_text()[-3000:]
        online = read_stores(project).online["merchant_activity"]
        stored = {row["key"]: row["count"] for row in online.iter_rows(named=True)}
        expected = {merchant: stored.get(merchant, 0) for merchant in MERCHANTS}
        wait_for(lambda: reader.counts == expected, 30, server_log)
        reader.stop()
    finally:
        for process in (worker, server):
            if process is not None and process.poll() is None:
                kill_all(process)
    assert sum(reader.counts.values()) > 500
    assert reader.wrong == []
    assert reader.errors == []
