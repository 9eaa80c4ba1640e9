"""The whole road, from topic to served value, over the embedded broker and over a real Kafka."""

from __future__ import annotations

import itertools
import json
import signal
import time
from pathlib import Path

import pytest

from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.sources.produce import MessageSender
from tests import oracle
from tests.conftest import TopicAt
from tests.integration.project import Project, assert_same_stores, log_events, read_stores
from tests.integration.road import assert_served, assert_stores_agree_with_the_oracle, send
from tests.oracle import Feature, Message, SourceParams, View

MINUTE, HOUR = 60_000_000, 3_600_000_000
PARAMS = SourceParams("ts", 5_000_000, 600_000_000)
SHAPE = Shape(events=6_000, cards=60, merchants=12, duration_s=5_400.0)


def oracle_messages(sent: list[tuple[int, bytes]]) -> list[Message]:
    """What the oracle is told: events that a strict reader of the schema accepts, None for the others."""
    offsets = itertools.count
    counters = {partition: offsets() for partition in range(64)}
    out = []
    kinds = {
        "transaction_id": str,
        "card_id": str,
        "merchant_id": str,
        "amount": (int, float),
        "currency": str,
        "status": str,
    }
    for partition, value in sent:
        try:
            event = json.loads(value)
            good = isinstance(event, dict) and all(isinstance(event.get(name), kind) for name, kind in kinds.items())
            good = good and type(event.get("ts")) is int and isinstance(event.get("fx_rate", 1.0), int | float)
        except (ValueError, RecursionError):
            good = False
        if good:
            event = {**event, "ts": event["ts"] * 1_000, "fx_rate": event.get("fx_rate", 1.0)}
        out.append(Message(partition, next(counters[partition]), event if good else None, 2**61))
    return out


APPROVED = {
    "where": lambda e: e["status"] == "approved",
    "derive": {"amount_eur": lambda e: e["amount"] * e["fx_rate"]},
}
MINUTES = [("_10m", oracle.sliding(10 * MINUTE)), ("_1h", oracle.sliding(HOUR)), ("_24h", oracle.sliding(24 * HOUR))]
CARD = View(
    ("card_id",),
    (
        *(Feature(f"count{suffix}", "count", None, window) for suffix, window in MINUTES),
        Feature("count_tumbling_1m", "count", None, oracle.tumbling(MINUTE)),
        *(Feature(f"amount_eur_sum{suffix}", "sum", "amount_eur", window, floats=True) for suffix, window in MINUTES),
        Feature("amount_eur_sum_tumbling_1m", "sum", "amount_eur", oracle.tumbling(MINUTE), floats=True),
        *(
            Feature(f"amount_eur_mean{suffix}", "mean", "amount_eur", window, floats=True)
            for suffix, window in MINUTES[1:]
        ),
        Feature("amount_eur_stddev_24h", "stddev", "amount_eur", MINUTES[2][1], floats=True),
        Feature("biggest_purchase_24h", "max", "amount_eur", MINUTES[2][1], floats=True),
        Feature("merchant_id_first", "first", "merchant_id", oracle.lifetime()),
        Feature("merchant_id_last", "last", "merchant_id", oracle.lifetime()),
    ),
    ttl_us=7 * 24 * HOUR,
    **APPROVED,
)
MERCHANT = View(
    ("merchant_id",),
    (
        Feature("count_1h", "count", None, oracle.sliding(HOUR)),
        Feature("count_hopping_10m_1m", "count", None, oracle.hopping(10 * MINUTE, MINUTE)),
        Feature("count", "count", None, oracle.lifetime()),
        Feature("amount_eur_sum_1h", "sum", "amount_eur", oracle.sliding(HOUR), floats=True),
        Feature("amount_eur_sum_hopping_10m_1m", "sum", "amount_eur", oracle.hopping(10 * MINUTE, MINUTE), floats=True),
    ),
    **APPROVED,
)


VIEWS = {"card_activity": CARD, "merchant_activity": MERCHANT}


@pytest.mark.timeout(300)
def test_topic_to_both_stores_and_served_value_agree_with_the_oracle(any_topic: TopicAt, tmp_path: Path):
    stream = TransactionStream(SHAPE, seed=11)
    sent = send(any_topic, stream)
    messages = oracle_messages(sent)
    project = Project.create(tmp_path, any_topic.bootstrap_servers, any_topic.topic)
    project.run_until_end()
    stores = read_stores(project)
    assert stores.late.height
    assert stores.dead.height == sum(stream.made.dead.values())
    assert_stores_agree_with_the_oracle(stores, messages, PARAMS, VIEWS, close_windows=False)

    # A second run over the same ends changes nothing but what closing emits; two processes share the shards anew.
    project.run_until_end("--close-windows", "--processes", "2")
    assert_stores_agree_with_the_oracle(read_stores(project), messages, PARAMS, VIEWS, close_windows=True)

    features = ["count_1h", "merchant_id_last", "amount_eur_sum_10m"]
    assert_served(project, stores, CARD, "card_activity", features)


@pytest.mark.timeout(300)
def test_one_and_two_processes_and_live_or_at_once_give_the_same_stores(any_topic: TopicAt, tmp_path: Path):
    messages = list(TransactionStream(SHAPE, seed=5))
    live = Project.create(tmp_path, any_topic.bootstrap_servers, any_topic.topic)
    # A partition that is empty does not hold the watermark back, and how far the others run ahead of it is chance.
    begun = any_topic.partitions
    send(any_topic, messages[:begun])
    log = tmp_path / "run.log"
    worker = live.start("run", "pipelines/transactions.py", "--apply", "--processes", "2", log=log)
    try:
        wait_for(lambda: len(log_events(log, "worker_started")) == 2, 60, log)
        sender = MessageSender(any_topic.address, any_topic.topic, {})
        for number, (key, value) in enumerate(messages[begun:], start=begun):
            sender.send(value, key, partition=number % any_topic.partitions)
            if number % 500 == 0:
                sender.flush()
                time.sleep(0.1)
        sender.flush()
        time.sleep(1.0)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, log.read_text()[-3000:]
    live.run_until_end()
    at_once = Project.create(
        tmp_path / "other", any_topic.bootstrap_servers, any_topic.topic, data_dir=other_data_dir(any_topic, tmp_path)
    )
    at_once.run_until_end()
    assert_same_stores(read_stores(live), read_stores(at_once))


def other_data_dir(topic: TopicAt, tmp_path: Path) -> Path:
    """A second data_dir; the embedded broker's address is told to it as well."""
    data_dir = tmp_path / "other-data"
    data_dir.mkdir()
    if topic.kind == "embedded":
        (data_dir / "broker.json").write_bytes((tmp_path / "data" / "broker.json").read_bytes())
    return data_dir


def wait_for(condition, seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)


def test_a_second_run_of_a_source_is_refused_with_the_holders_pid(any_topic: TopicAt, tmp_path: Path):
    send(any_topic, list(TransactionStream(Shape(events=50), seed=1)))
    project = Project.create(tmp_path, any_topic.bootstrap_servers, any_topic.topic)
    log = tmp_path / "run.log"
    first = project.start("run", "pipelines/transactions.py", "--apply", log=log)
    try:
        wait_for(lambda: log_events(log, "worker_started"), 60, log)
        second = project.call("run", "pipelines/transactions.py")
        assert second.returncode == 1
        assert f"process {first.pid}" in second.stderr
        assert "Hint:" in second.stderr
    finally:
        first.send_signal(signal.SIGINT)
        assert first.wait(20) == 0


def test_definitions_that_differ_from_the_registry_stop_the_run_and_show_the_plan(any_topic: TopicAt, tmp_path: Path):
    send(any_topic, list(TransactionStream(Shape(events=50), seed=1)))
    project = Project.create(tmp_path, any_topic.bootstrap_servers, any_topic.topic)
    done = project.call("run", "pipelines/transactions.py", "--until-end")
    assert done.returncode == 1
    assert "+ view card_activity" in done.stderr
    assert "--apply" in done.stderr
    assert not (project.data_dir / "online" / "transactions" / "store.json").exists(), "nothing was touched"
