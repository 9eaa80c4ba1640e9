"""Compaction and retention beside running workers: readers see every row once, a run resumes as if undisturbed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import duckdb
import polars as pl
import pytest
from confluent_kafka import Producer

from featurestore import FeatureStore
from featurestore.durations import parse_instant_us
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.offline import archive_counts, read_events
from featurestore.offline.layout import MAINTENANCE, is_compacted_segment
from featurestore.sources.embedded import EmbeddedBroker
from tests.integration.project import Project, assert_same_stores, log_events, read_stores

EVENTS, EVENTS_PER_S = 18_000, 600
SHAPE = Shape(events=EVENTS, cards=60, merchants=20, duration_s=40 * 3_600, too_late_share=0.01, broken_share=0.01)
PLACE = ["_partition", "_offset"]


def send_paced(servers: str) -> None:
    """Forty hours in half a minute; messages have the producer's timestamps, so that a segment ends each hour."""
    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "linger.ms": 5})
    start_ms, step_ms = parse_instant_us(SHAPE.start) // 1_000, SHAPE.duration_s * 1_000 / EVENTS
    began = time.monotonic()
    for number, (key, value) in enumerate(TransactionStream(SHAPE, seed=5)):
        producer.produce("transactions", value, key=key, timestamp=start_ms + int(number * step_ms))
        if number % 100 == 0:
            producer.flush()
            time.sleep(max(0.0, began + number / EVENTS_PER_S - time.monotonic()))
    assert producer.flush(30) == 0


class Reader(threading.Thread):
    """Reads what other programs read, over and over: nothing twice, and never less than before."""

    def __init__(self, project: Project) -> None:
        super().__init__(daemon=True)
        self._project = project
        self.stopped = threading.Event()
        self.looks = 0
        self.finished = False

    def run(self) -> None:
        while not self.stopped.wait(0.05):
            if (self._project.data_dir / "registry" / "registry.db").exists():
                self.look()
        self.finished = True  # it did not die of an error, which the test run shows

    def look(self) -> None:
        offline = self._project.data_dir / "offline"
        before = archive_counts(offline, "transactions")
        events = read_events(offline, "transactions")
        after = archive_counts(offline, "transactions")
        assert before.accepted <= events.height <= after.accepted, "rows were gone or there twice for a moment"
        assert before.late <= after.late
        if events.height:
            assert not events.select(PLACE).is_duplicated().any()
            rows = FeatureStore(self._project.folder).scan_snapshots("card_activity", window="tumbling_1m").collect()
            assert not rows.select("card_id", "window_end").is_duplicated().any()
            self.looks += 1


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_is_compacted_beside_a_killed_and_restarted_worker_equals_an_undisturbed_run(tmp_path: Path):
    project = Project.create(tmp_path / "project", "embedded", "transactions")
    log, chance = tmp_path / "run.log", random.Random(3)
    run = ("run", project.example.module, "--apply")
    with EmbeddedBroker(project.data_dir) as broker:
        assert broker.address is not None
        servers = broker.address.bootstrap_servers
        pacer = threading.Thread(target=send_paced, args=(servers,), daemon=True)
        pacer.start()
        worker, reader = project.start(*run, log=log), Reader(project)
        reader.start()
        compactions = killed = worker_kills = verified = 0
        try:
            while pacer.is_alive():
                time.sleep(0.5)
                if not log_events(log, "worker_started"):
                    continue
                compaction = project.start(
                    "offline", "compact", "--grace", "1s", "--json", log=tmp_path / "compact.log"
                )
                try:
                    compaction.wait(chance.choice([1.2, 1.6, 2.0, 60, 60]))
                    assert compaction.returncode == 0, (tmp_path / "compact.log").read_text()[-3000:]
                    compactions += 1
                except subprocess.TimeoutExpired:
                    compaction.kill()
                    compaction.wait()
                    killed += 1
                if compactions == 3 and not verified:
                    done = project.call("offline", "verify", "--sample", "20", "--json")
                    assert done.returncode == 0, done.stdout + done.stderr
                    verified = sum(
                        one["compared"] for view in json.loads(done.stdout)["views"] for one in view["comparisons"]
                    )
                if compactions in (2, 4) and worker_kills < compactions // 2:
                    os.killpg(worker.pid, signal.SIGKILL)
                    worker.wait()
                    worker_kills += 1
                    worker = project.start(*run, log=log)
            while len(log_events(log, "worker_started")) <= worker_kills:
                time.sleep(0.1)  # before that a signal would kill it
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0, log.read_text()[-3000:]
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
            reader.stopped.set()
            reader.join(30)
        assert reader.finished
        assert reader.looks > 10
        assert compactions >= 3
        assert killed >= 1
        assert verified > 1_000
        project.run_until_end()
        done = project.call("offline", "compact", "--grace", "0s")
        assert done.returncode == 0, done.stderr
        undisturbed = Project.create(tmp_path / "undisturbed", "embedded", "transactions")
        undisturbed.data_dir.mkdir()
        shutil.copy(project.data_dir / "broker.json", undisturbed.data_dir)
        undisturbed.run_until_end()
    assert_same_stores(read_stores(project), read_stores(undisturbed))
    offline, plain = project.data_dir / "offline", undisturbed.data_dir / "offline"
    assert archive_counts(offline, "transactions") == archive_counts(plain, "transactions")
    assert any(is_compacted_segment(path) for path in (offline / "events").rglob("*.parquet"))
    few, many = ([p for p in root.rglob("*.parquet") if MAINTENANCE not in p.parts] for root in (offline, plain))
    assert len(few) < len(many) / 3
    for kind in ("events", "late", "dead_letter"):
        globbed = [f"{root / kind / 'transactions'}/**/*.parquet" for root in (offline, plain)]
        one, other = (pl.read_parquet(glob, hive_partitioning=False).sort(PLACE) for glob in globbed)
        assert one.select(PLACE).equals(other.select(PLACE))
        assert duckdb.sql(f"SELECT count(*), max(_offset) FROM '{globbed[0]}'").fetchall() == [
            (one.height, one["_offset"].max())
        ]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_what_is_pruned_stays_counted_and_a_run_goes_on_behind_it(tmp_path: Path):
    project = Project.create(tmp_path / "project", "embedded", "transactions")
    with EmbeddedBroker(project.data_dir) as broker:
        assert broker.address is not None
        pacer = threading.Thread(target=send_paced, args=(broker.address.bootstrap_servers,), daemon=True)
        pacer.start()
        pacer.join()
        project.run_until_end()
        offline = project.data_dir / "offline"
        counts, events = archive_counts(offline, "transactions"), read_events(offline, "transactions")
        before = project.call("status", "--json").stdout
        refused = project.call("offline", "prune", "transactions", "--older-than", "0s", "--grace", "0s")
        assert refused.returncode != 0
        assert "say --yes" in refused.stderr
        assert read_events(offline, "transactions").height == events.height
        done = project.call("offline", "prune", "transactions", "--older-than", "0s", "--grace", "0s", "--yes")
        assert done.returncode == 0, done.stderr
        # The day that the longest windows reach, and the lateness, stay although all is older than no time at all.
        assert "card_activity" in done.stdout
        left = read_events(offline, "transactions")
        newest = events["event_time"].max()
        kept = events.filter(pl.col("event_time") >= pl.lit(newest) - pl.duration(hours=24))
        assert kept.height < left.height < events.height
        assert kept.join(left, on=PLACE, how="anti").is_empty()
        assert archive_counts(offline, "transactions") == counts
        after = project.call("status", "--json").stdout
        assert [line for line in before.splitlines() if "freshness" not in line] == [
            line for line in after.splitlines() if "freshness" not in line
        ]
        # What is left is compared, and nothing that reaches before it.
        verified = project.call("offline", "verify", "--sample", "20", "--json")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        found = {
            (view["view"], one["dataset"], one["feature"]): one["compared"]
            for view in json.loads(verified.stdout)["views"]
            for one in view["comparisons"]
        }
        assert found["card_activity", "sliding", "count_10m"] > found["card_activity", "sliding", "count_24h"] > 0
        assert found["merchant_activity", "sliding", "count"] == 0
        project.run_until_end()
        again = project.call("offline", "prune", "card_activity", "--older-than", "1h", "--grace", "0s", "--yes")
        assert again.returncode == 0, again.stderr
