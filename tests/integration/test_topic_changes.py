"""A topic that changes while it is read: more partitions; fields that come, go and change their type."""

from __future__ import annotations

import io
import json
import signal
import socket
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from featurestore.examples.transactions import TransactionStream
from featurestore.offline import read_dead_letters, read_events
from featurestore.sources.produce import MessageSender
from tests.conftest import TopicAt
from tests.integration.project import Project, assert_same_stores, log_events, read_stores
from tests.integration.test_road import SHAPE, wait_for
from tests.sources.registry_server import RegistryServer


def archived_partitions(project: Project) -> int:
    events = read_events(project.data_dir / "offline", "transactions")
    return events["_partition"].n_unique() if events.height else 0


@pytest.mark.kafka
@pytest.mark.timeout(180)
@pytest.mark.parametrize("processes", [1, 2])
def test_added_partitions_are_picked_up_while_the_worker_runs(kafka_broker, tmp_path: Path, processes: int):
    address = kafka_broker.bootstrap_servers
    topic = f"growing-{processes}"
    kafka_broker.create_topic(topic, 2)
    # What comes in new partitions before they are noticed is late for the others, but less than the allowed lateness.
    messages = list(TransactionStream(replace(SHAPE, events=3_000, duration_s=900.0), seed=8))
    project = Project.create(tmp_path, address, topic)
    config = project.folder / "featurestore.toml"
    config.write_text(config.read_text() + '[kafka.settings]\n"topic.metadata.refresh.interval.ms" = "500"\n')

    def send(part: list[tuple[bytes | None, bytes]], partitions: int) -> None:
        sender = MessageSender(address, topic, {})  # one that knows the topic as it is now
        for number, (key, value) in enumerate(part):
            sender.send(value, key, partition=number % partitions)
        sender.flush()

    send(messages[:1_000], 2)
    log = tmp_path / "run.log"
    worker = project.start("run", "pipelines/transactions.py", "--apply", "--processes", str(processes), log=log)
    try:
        wait_for(lambda: len(log_events(log, "worker_started")) == processes, 60, log)
        admin = AdminClient({"bootstrap.servers": address})
        admin.create_partitions([NewPartitions(topic, 5)])[topic].result(10)
        # What is sent before the worker looks again waits for it.
        send(messages[1_000:2_000], 5)
        wait_for(lambda: log_events(log, "partitions_added"), 30, log)
        wait_for(lambda: log_events(log, "resume")[-1]["offsets"].keys() == {"0", "1", "2", "3", "4"}, 60, log)
        send(messages[2_000:], 5)
        wait_for(lambda: archived_partitions(project) == 5, 60, log)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, log.read_text()[-3000:]
    assert archived_partitions(project) == 5
    project.run_until_end()
    at_once = Project.create(tmp_path / "other", address, topic)
    at_once.run_until_end()
    assert_same_stores(read_stores(project), read_stores(at_once))


READING = {
    "type": "record",
    "name": "Reading",
    "fields": [
        {"name": "machine", "type": "string"},
        {"name": "celsius", "type": "double"},
        {"name": "site", "type": "string", "default": "unknown"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
PIPELINE = """
import polars as pl
from featurestore import Entity, KafkaSource, StreamFeatureView, agg

machine = Entity("machine", join_keys={{"machine": pl.String}})
readings = KafkaSource("readings", topic="{topic}", schema="reading.avsc", format="{format}", event_time="at")
heat = StreamFeatureView("heat", source=readings, entities=[machine], features=[
    agg.count(over="1h"), agg.max("celsius", over="1h"), agg.last("site"),
])
"""
AT = 1_767_225_600_000


def pipeline(folder: Path, topic: TopicAt, wire: str, schema: dict[str, Any]) -> Project:
    project = Project.create(folder, topic.bootstrap_servers, topic.topic)
    (folder / "reading.avsc").write_text(json.dumps(schema))
    (folder / "heat.py").write_text(PIPELINE.format(topic=topic.topic, format=wire))
    return project


def dead_letters(project: Project) -> list[tuple[str, str]]:
    frame = read_dead_letters(project.data_dir / "offline", "readings").sort("_partition", "_offset")
    return list(frame.select("reason", "error").iter_rows())


@pytest.mark.timeout(120)
def test_fields_of_a_json_topic_come_go_and_change_their_type(any_topic: TopicAt, tmp_path: Path):
    project = pipeline(tmp_path, any_topic, "json", READING)
    rows = [
        {"machine": "m1", "celsius": 20.0, "site": "north", "at": AT},
        {"machine": "m1", "celsius": 21.0, "site": "south", "at": AT + 1, "operator": "gained"},
        {"machine": "m1", "celsius": 22.0, "at": AT + 2},
        {"machine": "m1", "site": "north", "at": AT + 3},
        {"machine": "m1", "celsius": "23", "site": "north", "at": AT + 4},
        {"machine": "m1", "celsius": 24, "site": "north", "at": AT + 5},
    ]
    sender = MessageSender(any_topic.address, any_topic.topic, {})
    for row in rows:
        sender.send(json.dumps(row).encode(), partition=0)
    sender.flush()
    done = project.call("run", "heat.py", "--apply", "--until-end")
    assert done.returncode == 0, done.stderr[-3000:]
    events = read_events(project.data_dir / "offline", "readings").sort("_offset")
    assert events["site"].to_list() == ["north", "south", "unknown", "north"]
    assert events["celsius"].to_list() == [20.0, 21.0, 22.0, 24.0]
    (lost, why), (changed, why_changed) = dead_letters(project)
    assert (lost, changed) == ("missing_field", "wrong_type")
    assert "`celsius`" in why
    assert "$.celsius" in why_changed


@pytest.mark.timeout(120)
def test_a_worker_waits_for_the_schema_registry_and_reads_what_other_schemas_wrote(any_topic: TopicAt, tmp_path: Path):
    gained = {**READING, "fields": [*READING["fields"], {"name": "operator", "type": "string"}]}
    lost = {**READING, "name": "Old", "fields": [field for field in READING["fields"] if field["name"] != "site"]}
    text = {**READING, "fields": [READING["fields"][0], {"name": "celsius", "type": "string"}, *READING["fields"][2:]]}
    schemas = {1: READING, 2: gained, 3: lost, 4: text}
    row = {"machine": "m1", "celsius": 20.0, "site": "north", "at": AT, "operator": "o"}
    sender = MessageSender(any_topic.address, any_topic.topic, {})
    for number, schema in [*schemas.items(), (5, READING), (1, READING)]:
        value = io.BytesIO(struct.pack(">bI", 0, number))
        value.seek(5)
        plain = fastavro.parse_schema(json.loads(json.dumps(schema).replace(', "logicalType": "timestamp-millis"', "")))
        fastavro.schemaless_writer(value, plain, {**row, "celsius": "20"} if number == 4 else row)
        sender.send(value.getvalue(), partition=0)
    sender.flush()
    project = pipeline(tmp_path, any_topic, "avro-confluent", READING)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = project.folder / "featurestore.toml"
    config.write_text(config.read_text() + f'[schema_registry]\nurl = "http://127.0.0.1:{port}"\n')

    # While the registry is away a drain still ends the worker at once, and nothing is lost by it.
    first = tmp_path / "first.log"
    worker = project.start("run", "heat.py", "--apply", log=first)
    wait_for(lambda: log_events(first, "schema_registry_error"), 60, first)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0, first.read_text()[-3000:]

    log = tmp_path / "run.log"
    worker = project.start("run", "heat.py", "--until-end", log=log)
    wait_for(lambda: log_events(log, "schema_registry_error"), 60, log)
    with RegistryServer(schemas, port):
        assert worker.wait(30) == 0, log.read_text()[-3000:]
    events = read_events(project.data_dir / "offline", "readings").sort("_offset")
    assert events.select("_offset", "site").rows() == [(0, "north"), (1, "north"), (2, "unknown"), (5, "north")]
    assert [reason for reason, _ in dead_letters(project)] == ["schema_mismatch", "unknown_schema"]
