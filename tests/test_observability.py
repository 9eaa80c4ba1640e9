"""Metrics read back, and what a log line looks like."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import structlog
from prometheus_client import CollectorRegistry, Counter

from featurestore.batches import NO_TIME, PartitionBatch, PartitionProgress, SourcePoll
from featurestore.observability import TABLE, Metrics, configure_logging, create_metrics, serve_metrics

SECOND = 1_000_000


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return create_metrics(registry)


@pytest.fixture
def _log_restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def frame(event_times_us: list[int], watermarks_us: list[int]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "event_time": pl.Series(event_times_us, dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
            "_partition_watermark": pl.Series(watermarks_us, dtype=pl.Int64),
        }
    )


def poll_of_seven() -> SourcePoll:
    progress = PartitionProgress(3, 10, 17, 100 * SECOND)
    batch = PartitionBatch(
        progress=progress,
        offsets=np.arange(10, 17),
        arrival_us=np.zeros(7, dtype=np.int64),
        sizes=np.ones(7, dtype=np.int64),
        accepted=frame([90 * SECOND, 100 * SECOND, 94 * SECOND], [NO_TIME, 85 * SECOND, 95 * SECOND]),
        late=frame([1 * SECOND], [95 * SECOND]),
        dead=pl.DataFrame({"reason": ["malformed", "malformed"]}),
        duplicates=np.array([16]),
    )
    return SourcePoll((batch,), (progress, PartitionProgress(4, 0, 0, NO_TIME, "empty")))


def test_a_poll_is_counted_by_verdict_and_adds_up(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.observe_poll("payments", poll_of_seven(), 5 * SECOND)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"featurestore_{name}", {"source": "payments", **labels})

    assert value("events_read_total") == 7
    assert value("events_accepted_total") == 3
    assert value("events_late_accepted_total") == 1
    assert value("events_too_late_total") == 1
    assert value("dead_letters_total", reason="malformed") == 2
    assert value("events_duplicate_total") == 1
    assert value("watermark_seconds", partition="3") == 95
    assert value("watermark_seconds", partition="4") is None


@dataclass
class Counts:
    applied: int = 5
    filtered: int = 2
    null_key: int = 1
    beyond_retention: int = 0


@dataclass
class Report:
    watermark_us: dict[str, int]
    rows_written: dict[str, int] = field(default_factory=lambda: {"v@2": 4})
    snapshot_rows: dict[str, int] = field(default_factory=lambda: {"v@2": 7})
    counts: dict[str, Counts] = field(default_factory=lambda: {"v@2": Counts()})


def test_a_commit_is_counted_by_view(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.observe_commit("payments", Report({"v@2": round((time.time() - 30) * SECOND)}), 0.007)
    for name, expected in [
        ("rows_written_total", 4),
        ("snapshot_rows_total", 7),
        ("applied_total", 5),
        ("filtered_total", 2),
        ("null_key_total", 1),
        ("beyond_retention_total", 0),
    ]:
        assert registry.get_sample_value(f"featurestore_{name}", {"view": "v", "version": "2"}) == expected
    count = registry.get_sample_value("featurestore_commit_duration_seconds_count", {"source": "payments"})
    assert count == 1
    delay = registry.get_sample_value("featurestore_watermark_delay_seconds", {"view": "v", "version": "2"})
    assert delay == pytest.approx(30, abs=5)


def test_a_delay_grows_although_nothing_comes(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.observe_newest_event("v", round(time.time() * SECOND))
    first = registry.get_sample_value("featurestore_freshness_seconds", {"view": "v"})
    time.sleep(0.01)
    second = registry.get_sample_value("featurestore_freshness_seconds", {"view": "v"})
    assert first is not None
    assert second is not None
    assert second > first


def test_lag_is_kept_by_partition(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.observe_lag("payments", {0: 12, 1: 0})
    assert registry.get_sample_value("featurestore_consumer_lag", {"source": "payments", "partition": "0"}) == 12


def test_names_are_base_units_and_counters_end_in_total() -> None:
    for name, declared in TABLE.items():
        assert name.endswith("_total") == (declared.kind is Counter), name
        assert not name.endswith(("_ms", "_us", "_kb")), name
        assert declared.help.endswith("."), name


def test_the_process_makes_its_metrics_once() -> None:
    assert create_metrics() is create_metrics()


def test_metrics_are_served_until_stopped(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.events_read_total.labels("payments").inc(3)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stop = serve_metrics(port, registry=registry)
    assert stop is not None
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            text = response.read().decode()
    finally:
        stop()
    assert 'featurestore_events_read_total{source="payments"} 3.0' in text


@pytest.mark.usefixtures("_log_restored")
def test_a_port_in_use_is_a_warning_that_names_it(
    registry: CollectorRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(json=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serve_metrics(port, registry=registry) is None
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["port"]) == ("metrics_not_served", "warning", port)


@pytest.mark.usefixtures("_log_restored")
def test_a_log_line_is_one_json_object_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    log = structlog.get_logger()
    log.debug("not_shown")
    log.info("commit", shard=3, offsets={"0": 48213})
    captured = capsys.readouterr()
    assert captured.out == ""
    line = json.loads(captured.err)
    assert line["event"] == "commit"
    assert (line["shard"], line["offsets"], line["level"]) == (3, {"0": 48213}, "info")
    assert datetime.fromisoformat(line["timestamp"].replace("Z", "+00:00")).tzinfo == timezone.utc


@pytest.mark.usefixtures("_log_restored")
def test_lines_of_processes_that_log_at_once_do_not_run_together(tmp_path: Path) -> None:
    # A line whose end is written apart from it: {…}{…}⏎⏎ when another process writes in between.
    code = (
        "import structlog; from featurestore.observability import configure_logging\n"
        "configure_logging(json=True); log = structlog.get_logger()\n"
        "for number in range(2_000): log.info('event', number=number)"
    )
    path = tmp_path / "log"
    with path.open("ab") as file:
        processes = [subprocess.Popen([sys.executable, "-c", code], stderr=file) for _ in range(4)]
        assert [process.wait(60) for process in processes] == [0] * 4
    lines = path.read_text().splitlines()
    assert sorted(json.loads(line)["number"] for line in lines) == sorted([*range(2_000)] * 4)


def test_an_error_with_a_stack_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=True)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("commit_failed", shard=1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "ValueError: broken" in json.loads(lines[0])["exception"]
