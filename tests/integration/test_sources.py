"""Several sources in one worker, JSON and Avro, bad messages among good ones; and what commands say of wrong input."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import fastavro
import polars as pl
import polars.testing
import pytest

from featurestore.offline import read_dead_letters, read_events, read_snapshots
from featurestore.sources.produce import MessageSender
from tests.commands import run_command
from tests.conftest import TopicAt
from tests.integration.project import log_events
from tests.integration.test_kill import wait_for

SCHEMA = {
    "type": "record",
    "name": "Reading",
    "fields": [
        {"name": "machine", "type": "string"},
        {"name": "celsius", "type": ["null", "double"], "default": None},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
MODULE = """
import polars as pl
import polars.testing
from featurestore import Entity, KafkaSource, StreamFeatureView, agg, tumbling

machine = Entity("machine", join_keys={{"machine": pl.String}})
plain = KafkaSource("plain", topic="{plain}", schema="reading.avsc", format="json", event_time="at", idle_timeout="1h")
packed = KafkaSource("packed", topic="{packed}", schema="reading.avsc", format="avro-confluent", event_time="at")
FEATURES = [agg.count(over=tumbling("1m")), agg.mean("celsius", over=tumbling("1m")), agg.max("celsius", over="10m")]
plain_heat = StreamFeatureView("plain_heat", source=plain, entities=[machine], features=FEATURES)
packed_heat = StreamFeatureView("packed_heat", source=packed, entities=[machine], features=FEATURES)
"""
BASE_MS = 1_767_225_600_000


def cli(folder: Path, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return run_command(arguments, folder, {**os.environ, "FEATURESTORE_WORKER__METRICS_PORT": "0"}, timeout)


def readings(count: int) -> list[dict[str, object]]:
    return [
        {"machine": f"m{i % 3}", "celsius": None if i % 7 == 0 else 20.0 + i % 5, "at": BASE_MS + i * 1_000}
        for i in range(count)
    ]


def as_avro(reading: dict[str, object]) -> bytes:
    out = io.BytesIO(b"\x00\x00\x00\x00\x07")
    out.seek(5)
    fastavro.schemaless_writer(out, fastavro.parse_schema(SCHEMA), reading)
    return out.getvalue()


def test_two_sources_in_one_worker_json_and_avro_one_bad_message_costs_itself(
    any_topic: TopicAt, request: pytest.FixtureRequest, tmp_path: Path
):
    other = f"{any_topic.topic}-avro"
    if any_topic.kind == "kafka":
        request.getfixturevalue("kafka_broker").create_topic(other, 2)
    rows = readings(300)
    plain = MessageSender(any_topic.address, any_topic.topic, {})
    packed = MessageSender(any_topic.address, other, {})
    for i, row in enumerate(rows):
        plain.send(b"{broken" if i == 150 else json.dumps(row).encode(), partition=0)
        packed.send(as_avro(row)[: 3 if i == 150 else None], partition=0)
    plain.flush()
    packed.flush()
    (tmp_path / "reading.avsc").write_text(json.dumps(SCHEMA))
    (tmp_path / "heat.py").write_text(MODULE.format(plain=any_topic.topic, packed=other))
    servers = ("--bootstrap-servers", any_topic.bootstrap_servers)
    done = cli(tmp_path, "run", "heat", "--apply", "--until-end", "--close-windows", *servers)
    assert done.returncode == 0, done.stderr[-3000:]
    offline = tmp_path / "data" / "offline"
    expected = (
        pl.DataFrame([row for i, row in enumerate(rows) if i != 150])
        .with_columns(end=(pl.col("at") // 60_000 + 1) * 60_000)
        .group_by("machine", "end")
        .agg(count=pl.len().cast(pl.Int64), mean=pl.col("celsius").mean())
        .sort("machine", "end")
    )
    for source in ("plain", "packed"):
        assert read_events(offline, source).height == 299
        assert read_dead_letters(offline, source)["reason"].to_list() == ["malformed"]
        got = read_snapshots(offline, f"{source}_heat", 1, "tumbling_1m", ["machine"]).select(
            "machine",
            pl.col("window_end").dt.epoch("ms").alias("end"),
            pl.col("count_tumbling_1m").alias("count"),
            pl.col("celsius_mean_tumbling_1m").alias("mean"),
        )
        pl.testing.assert_frame_equal(got.sort("machine", "end"), expected)


def test_a_worker_shows_its_metrics_and_the_counters_add_up(any_topic: TopicAt, tmp_path: Path):
    sender = MessageSender(any_topic.address, any_topic.topic, {})
    for i, row in enumerate(readings(60)):
        sender.send(b"?" if i % 20 == 0 else json.dumps(row).encode(), partition=i % any_topic.partitions)
    sender.flush()
    (tmp_path / "reading.avsc").write_text(json.dumps(SCHEMA))
    text = MODULE.format(plain=any_topic.topic, packed="-")
    (tmp_path / "heat.py").write_text("\n".join(line for line in text.splitlines() if not line.startswith("packed")))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "run.log"
    command = [sys.executable, "-m", "featurestore", "run", "heat.py", "--apply"]
    command += ["--bootstrap-servers", any_topic.bootstrap_servers]
    with log.open("wb") as out:
        worker = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=out,
            stderr=out,
            env={**os.environ, "FEATURESTORE_WORKER__METRICS_PORT": str(port)},
        )
    try:
        wait_for(lambda: bool(log_events(log, "worker_started")), 60, log)

        def metric(name: str) -> float:
            text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
            return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

        wait_for(lambda: metric("featurestore_applied_total") == 57, 30, log)
        assert metric("featurestore_events_read_total") == 60
        assert metric("featurestore_events_accepted_total") == 57
        assert metric('featurestore_dead_letters_total{reason="malformed"') == 3
        assert metric("featurestore_rows_written_total") >= 3
        assert metric("featurestore_commit_duration_seconds_count") >= 1
    finally:
        worker.terminate()
        assert worker.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "nowhere.nothing"), "module nowhere.nothing"),
        (("run", "pipelines/missing.py"), "does not exist"),
        (("plan", "broken.py"), "line 1"),
        (("apply", "empty.py"), "defines no feature view"),
        (("get", "card_activity:count_1h", "-e", "card_id=c1"), "no registry"),
        (("status",), "no data"),
        (("produce", "t", "missing.jsonl"), "no embedded broker"),
        (("produce", "t", "missing.jsonl", "--bootstrap-servers", "127.0.0.1:1"), "127.0.0.1:1"),
        (("run", "heat.py", "--apply", "--until-end"), "schema reading.avsc does not exist"),
    ],
)
def test_wrong_input_is_told_on_stderr_with_a_hint_and_a_failing_exit(arguments, says, tmp_path: Path):
    (tmp_path / "broken.py").write_text("import nonsense_that_is_not_there\n")
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "heat.py").write_text(MODULE.format(plain="a", packed="b"))
    done = cli(tmp_path, *arguments, timeout=30)
    assert done.returncode == 1, done.stdout + done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_unreachable_broker_is_told_once_a_try_and_a_signal_ends_the_waiting_with_0(tmp_path: Path):
    (tmp_path / "reading.avsc").write_text(json.dumps(SCHEMA))
    (tmp_path / "heat.py").write_text(MODULE.format(plain="a", packed="b"))
    log = tmp_path / "run.log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "featurestore", "run", "heat.py", "--apply", "--bootstrap-servers", "127.0.0.1:1"],
            cwd=tmp_path,
            stdout=out,
            stderr=out,
            env={**os.environ, "FEATURESTORE_WORKER__METRICS_PORT": "0"},
        )
    wait_for(lambda: bool(log_events(log, "waiting_for_topic")), 60, log)
    assert "127.0.0.1:1" in str(log_events(log, "waiting_for_topic")[0]["error"])
    worker.terminate()
    assert worker.wait(20) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
