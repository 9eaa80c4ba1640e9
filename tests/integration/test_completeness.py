"""What the completeness marker calls final is there and stays as it is, whatever is killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.sources.embedded import EmbeddedBroker
from featurestore.sources.produce import MessageSender
from tests.integration.project import Project, log_events

EVENTS, EVENTS_PER_S, KILLS = 20_000, 450, 3
WINDOWS = ("tumbling_1m", "sliding")


def final_rows(project: Project) -> tuple[datetime | None, dict[str, pl.DataFrame]]:
    """What a reader finds who asks for the marker, then reads what it covers; revisions in full."""
    until = FeatureStore(project.folder).complete_until("card_activity")
    return until, {window: rows_until(project, window, until) for window in WINDOWS} if until else {}


def rows_until(project: Project, window: str, until: datetime) -> pl.DataFrame:
    folder = project.data_dir / "offline" / "features" / "card_activity" / "v1" / window
    files = sorted(folder.glob("*.parquet"))
    if not files:  # the first windows end after the first marker
        return pl.DataFrame()
    rows = pl.concat([pl.read_parquet(file) for file in files])
    return (
        rows.filter(pl.col("window_end") <= until).drop("created_timestamp").sort("card_id", "window_end", "revision")
    )


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_what_is_final_stays_so_over_kills_of_a_cluster(tmp_path: Path):
    project = Project.create(tmp_path / "project", "embedded", "transactions")
    # Before anybody reads: of a registry that is being made there is a file, and no tables.
    assert project.call("apply", project.example.module).returncode == 0
    log, chance = tmp_path / "run.log", random.Random(7)
    looks: list[tuple[datetime, dict[str, pl.DataFrame]]] = []
    with EmbeddedBroker(project.data_dir) as broker:
        assert broker.address is not None
        sender = MessageSender(broker.address.bootstrap_servers, "transactions", {})

        def pace() -> None:
            began = time.monotonic()
            stream = TransactionStream(Shape(events=EVENTS, cards=40, duration_s=7_200), seed=5)
            for number, (key, value) in enumerate(stream):
                sender.send(value, key)
                if number % 100 == 0:
                    sender.flush()
                    time.sleep(max(0.0, began + number / EVENTS_PER_S - time.monotonic()))
            sender.flush()

        pacer = threading.Thread(target=pace, daemon=True)
        pacer.start()
        run = ("run", "pipelines/transactions.py", "--processes", "2")
        supervisor = project.start(*run, log=log)
        try:
            kills, kill_at, looked = 0, 0.0, 0
            while pacer.is_alive():
                time.sleep(0.2)
                until, rows = final_rows(project)
                if until is not None and (not looks or looks[-1][0] != until):
                    looks.append((until, rows))
                if len(log_events(log, "worker_started")) < 2 * (kills + 1) or kills == KILLS:
                    continue
                # Each cluster moves the marker once at least.
                kill_at = kill_at or time.monotonic() + 3 * chance.random()
                if len(looks) > looked and time.monotonic() > kill_at:
                    pids = log_events(log, "cluster_started")[-1]["pids"]
                    assert isinstance(pids, list)
                    os.kill(pids[chance.randrange(2)], signal.SIGKILL)
                    kills, kill_at, looked = kills + 1, 0.0, len(looks)
            assert kills >= 2
            supervisor.send_signal(signal.SIGTERM)
            assert supervisor.wait(30) == 0, log.read_text()[-3000:]
        finally:
            if supervisor.poll() is None:
                supervisor.kill()
        project.run_until_end()
    until, rows = final_rows(project)
    assert until is not None
    assert len(looks) >= 3, "the marker moves while the worker runs"
    assert [at for at, _ in looks] == sorted(at for at, _ in looks)
    assert sum(found["tumbling_1m"].height for _, found in looks) > 1_000
    for at, found in looks:
        for window in WINDOWS:
            now = rows_until(project, window, at)
            assert found[window].is_empty() == now.is_empty()
            assert now.is_empty() or found[window].equals(now), f"{window} until {at} changed afterwards"
