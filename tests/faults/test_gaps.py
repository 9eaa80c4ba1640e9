"""Messages that the broker removed before they were read: the run stops, or goes on without them and counts them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.offline import read_events, read_late
from featurestore.sources.produce import MessageSender
from tests.conftest import TopicAt
from tests.faults.processes import family
from tests.faults.support import MODULE, assert_stores_hold, committed_log, wait_for
from tests.integration.project import Project, assert_same_stores, log_events, read_stores
from tests.integration.test_kill import committed_events
from tests.kafka_broker import KafkaBroker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
PARTITIONS = 2


@pytest.fixture
def topic(kafka_broker: KafkaBroker) -> TopicAt:
    address = kafka_broker.bootstrap_servers
    return TopicAt(
        "kafka", address, address, kafka_broker.create_topic(f"gone-{os.urandom(4).hex()}", PARTITIONS), PARTITIONS
    )


MESSAGES = list(TransactionStream(Shape(events=4_000, cards=50, duration_s=1_200.0), seed=4))


def send(topic: TopicAt, first: int, end: int, messages: list[tuple[bytes | None, bytes]] = MESSAGES) -> None:
    """Send messages [first, end) of a stream, to each partition in turn: offset n // 2 is that of message n."""
    sender = MessageSender(topic.address, topic.topic, {})
    for number in range(first, end):
        key, value = messages[number]
        sender.send(value, key, partition=number % PARTITIONS)
    sender.flush()


def remove_before(topic: TopicAt, partition: int, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": topic.address})
    limit = TopicPartition(topic.topic, partition, offset)
    admin.delete_records([limit])[limit].result(20)


def log_without(log: list[tuple[int, int, bytes | None]], partition: int, first: int, end: int) -> Any:
    return [message for message in log if message[0] != partition or not first <= message[1] < end]


def source_status(project: Project) -> Any:
    done = project.call("status", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_removed_offsets_stop_the_run_and_are_named_or_are_left_out_and_counted(topic: TopicAt, tmp_path: Path) -> None:
    project = Project.create(tmp_path, topic.address, topic.topic)
    send(topic, 0, 2_000)
    project.run_until_end()
    before = read_stores(project)
    send(topic, 2_000, 3_000)
    log = committed_log(topic.address, topic.topic, PARTITIONS)
    remove_before(topic, 1, 1_250)
    refused = project.call("run", MODULE, "--until-end")
    assert refused.returncode == 1
    assert "partition 1: offsets 1000 to 1249 are still needed" in refused.stderr
    assert "--accept-gap" in refused.stderr.partition("Hint:")[2]
    assert_same_stores(read_stores(project), before)
    assert source_status(project)["sources"][0]["offsets_lost"] == 0

    project.run_until_end("--accept-gap")
    assert_stores_hold(project, log_without(log, 1, 1_000, 1_250))
    (source,) = source_status(project)["sources"]
    (gap,) = source["offset_gaps"]
    assert (gap["partition"], gap["first"], gap["end"]) == (1, 1_000, 1_250)
    assert source["read"] + source["offsets_lost"] == len(log) == 3_000
    assert "250 offsets were gone before they were read: 1000 to 1249 of partition 1" in (
        project.call("status").stdout.replace("\n", " ").replace("  ", " ")
    )

    # It was stepped over once; nothing has to be accepted any more, and what comes is read on without a gap.
    send(topic, 3_000, 4_000)
    project.run_until_end()
    (source,) = source_status(project)["sources"]
    assert source["offsets_lost"] == 250
    assert source["read"] == 3_750


def test_all_that_a_partition_had_removed_at_once(topic: TopicAt, tmp_path: Path) -> None:
    project = Project.create(tmp_path, topic.address, topic.topic)
    send(topic, 0, 1_000)
    project.run_until_end()
    send(topic, 1_000, 1_400)
    remove_before(topic, 0, 700)
    project.run_until_end("--accept-gap")
    (source,) = source_status(project)["sources"]
    assert (source["read"], source["offsets_lost"], source["lag"]) == (1_200, 200, 0)
    # Nothing of the partition has come since: the gap is found again. It was accepted, and is counted once.
    project.run_until_end()
    assert source_status(project)["sources"][0]["offsets_lost"] == 200
    # What is removed now was accepted by nobody.
    send(topic, 1_400, 1_800)
    remove_before(topic, 0, 800)
    refused = project.call("run", MODULE, "--until-end")
    assert refused.returncode == 1
    assert "partition 0: offsets " in refused.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_offsets_removed_under_a_running_worker_are_left_out_without_a_restart(
    topic: TopicAt, tmp_path: Path, processes: int
) -> None:
    project = Project.create(tmp_path, topic.address, topic.topic)
    send(topic, 0, 2_000)
    log_file = tmp_path / "run.log"
    several = ("--processes", str(processes)) if processes > 1 else ()
    worker = project.start("--log-level", "debug", "run", MODULE, "--apply", "--accept-gap", *several, log=log_file)
    try:
        wait_for(lambda: committed_events(log_file, 0) >= 1_900, 60, log_file)
        stopped = [worker.pid, *family(worker.pid)]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        send(topic, 2_000, 4_000)
        log = committed_log(topic.address, topic.topic, PARTITIONS)
        remove_before(topic, 0, 1_600)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: log_events(log_file, "offsets_lost"), 60, log_file)
        wait_for(lambda: committed_events(log_file, 0) >= 3_000, 60, log_file)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, log_file.read_text()[-3000:]
    assert not log_events(log_file, "cluster_restart"), "a new plan, no failure"
    project.run_until_end()
    (source,) = source_status(project)["sources"]
    (gap,) = source["offset_gaps"]
    # A fetch that was under way may have brought some of them.
    assert gap["partition"] == 0
    assert 1_000 <= gap["first"] < gap["end"] == 1_600
    assert_stores_hold(project, log_without(log, 0, gap["first"], gap["end"]))
    assert source["read"] + source["offsets_lost"] == 4_000


def test_what_the_archive_still_has_is_never_given_up(topic: TopicAt, tmp_path: Path) -> None:
    project = Project.create(tmp_path, topic.address, topic.topic)
    send(topic, 0, 1_000)
    project.run_until_end()
    assert project.call("view", "pause", "card_activity").returncode == 0
    send(topic, 1_000, 2_000)
    project.run_until_end()
    send(topic, 2_000, 3_000)
    log = committed_log(topic.address, topic.topic, PARTITIONS)
    for partition in range(PARTITIONS):
        remove_before(topic, partition, 900)
    assert project.call("view", "resume", "card_activity").returncode == 0
    refused = project.call("run", MODULE, "--until-end", "--accept-gap")
    assert refused.returncode == 1
    assert "offsets 500 to 899 are still needed by the online store" in refused.stderr
    assert "featurestore rebuild transactions" in refused.stderr
    rebuilt = project.call("rebuild", "transactions", "--snapshots", "--grace", "0s", "--yes")
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    project.run_until_end()
    assert_stores_hold(project, log)


def test_gaps_outlive_a_rebuild_and_make_the_stores_agree_after_a_kill(topic: TopicAt, tmp_path: Path) -> None:
    project = Project.create(tmp_path, topic.address, topic.topic)
    send(topic, 0, 2_000)
    log_file = tmp_path / "run.log"
    worker = project.start("--log-level", "debug", "run", MODULE, "--apply", log=log_file)
    wait_for(lambda: committed_events(log_file, 0) >= 500, 60, log_file)
    worker.kill()
    worker.wait()
    # The shards have applied what no file of the archive has, and that is gone now.
    send(topic, 2_000, 3_000)
    for partition in range(PARTITIONS):
        remove_before(topic, partition, 1_200)
    project.run_until_end("--accept-gap")
    (source,) = source_status(project)["sources"]
    assert source["read"] + source["offsets_lost"] == 3_000
    rebuilt = project.call("rebuild", "transactions", "--snapshots", "--grace", "0s", "--yes")
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    project.run_until_end()
    status = source_status(project)
    assert status["sources"] == [source]
    for view in status["views"]:
        assert view["applied"] + view["filtered"] + view["null_key"] == source["accepted"]


def test_a_view_that_begins_where_the_topic_now_begins_decides_as_was_decided_before(
    topic: TopicAt, tmp_path: Path
) -> None:
    project = Project.create(tmp_path, topic.address, topic.topic)
    send(topic, 0, 3_000, list(TransactionStream(Shape(events=3_000, cards=50, duration_s=14_400.0), seed=4)))
    project.run_until_end()
    offline = project.data_dir / "offline"
    too_late = read_late(offline, "transactions").filter(pl.col("_partition") == 1).sort("_offset")["_offset"]
    # By itself the first message that is left would not be late: what made it so is gone.
    first = int(too_late[len(too_late) // 2])
    remove_before(topic, 1, first)
    young = 'StreamFeatureView("young", source=transactions, entities=[card], features=[agg.count(over="1h")])'
    with (project.folder / MODULE).open("a") as pipeline:
        pipeline.write(f"young = {young}\n")
    project.run_until_end()
    (view,) = [view for view in source_status(project)["views"] if view["name"] == "young"]
    left = read_events(offline, "transactions").filter((pl.col("_partition") == 0) | (pl.col("_offset") >= first))
    assert view["applied"] + view["null_key"] == left.height
