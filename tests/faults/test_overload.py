"""A backlog, a hot key and a disk that is slow: memory stays bounded, reads are answered, nothing is lost."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
import pytest

from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.offline.read import archive_counts
from featurestore.sources.produce import MessageSender
from tests.faults.processes import figures_of
from tests.faults.shims import SlowDisk, compiler
from tests.faults.support import MODULE, wait_for
from tests.faults.test_kills import kill_all
from tests.integration.project import Project, assert_same_stores, read_stores
from tests.kafka_broker import KafkaBroker, free_ports

EVENTS, PARTITIONS = 100_000, 4
HOT = b"card_999999"
BYTES_PER_S, SYNC_MS = 4_000_000, 20

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.timeout(240),
    pytest.mark.skipif(compiler() is None, reason="there is no C compiler for the disk that is slow"),
]


def fill(servers: str, topic: str) -> None:
    """A backlog in which every other event is of one card."""
    sender = MessageSender(servers, topic, {})
    stream = TransactionStream(Shape(events=EVENTS, cards=2_000, start="2026-01-05T08:00:00Z"), seed=22)
    for number, (key, value) in enumerate(stream):
        if number % 2:
            key, value = HOT, value.replace(key, HOT)
        sender.send(value, key, partition=number % PARTITIONS)
    sender.flush()


def peak_rss_mb(project: Project, log: Path, url: str | None = None) -> tuple[int, list[float]]:
    """Run to the end; the worker's largest memory in 10^6 bytes, and how many seconds each read took meanwhile."""
    worker = project.start("run", MODULE, "--apply", "--until-end", log=log)
    peak, reads = 0, []
    try:
        with httpx.Client(timeout=10) as client:
            while worker.poll() is None:
                found = figures_of(worker.pid)
                peak = max(peak, found.rss_mb if found else 0)
                if url is not None:
                    began = time.monotonic()
                    body = {"features": ["card_activity:count_1h"], "entities": {"card_id": [HOT.decode()]}}
                    answer = client.post(f"{url}/get-online-features", json=body)
                    # Before the worker has made the store there is nothing to read.
                    assert answer.status_code == 200 or not reads, answer.text
                    if answer.status_code == 200:
                        reads.append(time.monotonic() - began)
                time.sleep(0.02)
    finally:
        kill_all(worker)
    assert worker.returncode == 0, log.read_text()[-3000:]
    return peak, reads


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_a_backlog_on_a_slow_disk_is_worked_off_in_bounded_memory_while_reads_are_answered(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    servers = kafka_broker.bootstrap_servers
    topic = kafka_broker.create_topic(f"overload-{os.urandom(4).hex()}", PARTITIONS)
    fill(servers, topic)
    fast, slow = (Project.create(tmp_path / name, servers, topic) for name in ("fast", "slow"))
    fast_peak, _ = peak_rss_mb(fast, tmp_path / "fast.log")

    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    assert slow.call("apply", MODULE).returncode == 0
    server = slow.start("serve", "--port", str(port), "--clock", "event", log=tmp_path / "server.log")
    disk = SlowDisk(tmp_path, slow.data_dir, bytes_per_s=BYTES_PER_S, sync_ms=SYNC_MS)
    slow.variables = disk.variables
    try:
        wait_for(lambda: answers(url), 60, tmp_path / "server.log")
        slow_peak, reads = peak_rss_mb(slow, tmp_path / "slow.log", url)
    finally:
        kill_all(server)
    written, waited_s = disk.totals()
    assert written > 5_000_000, "what the worker wrote went through the slow disk"
    assert waited_s > written / BYTES_PER_S
    assert slow_peak < 1.5 * fast_peak + 100
    assert len(reads) > 20
    assert sorted(reads)[len(reads) // 2] < 0.2, "reads do not wait for the disk"
    assert_same_stores(read_stores(slow), read_stores(fast))
    counts = archive_counts(slow.data_dir / "offline", "transactions")
    assert counts.read == EVENTS
