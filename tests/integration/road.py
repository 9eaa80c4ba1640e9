"""The road from topic to served value, for any example: send, hold the stores against the oracle, ask a server."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence

import pytest

from featurestore.client import FeatureStoreClient
from featurestore.errors import FeatureStoreError
from featurestore.sources.produce import MessageSender
from tests import oracle
from tests.conftest import TopicAt
from tests.integration.project import Project, Stores
from tests.oracle import Message, SourceParams, View

Sent = list[tuple[int, bytes]]


def send(topic: TopicAt, messages: Iterable[tuple[bytes | None, bytes]]) -> Sent:
    """Send messages round robin; returns (partition, value) in order."""
    return send_to(topic, [(number % topic.partitions, key, value) for number, (key, value) in enumerate(messages)])


def send_to(topic: TopicAt, messages: Iterable[tuple[int, bytes | None, bytes]]) -> Sent:
    """Send (partition, key, value); returns (partition, value) in order."""
    sender = MessageSender(topic.address, topic.topic, {})
    sent = []
    for partition, key, value in messages:
        sender.send(value, key, partition=partition)
        sent.append((partition, value))
    sender.flush()
    return sent


def assert_stores_agree_with_the_oracle(
    stores: Stores,
    messages: Sequence[Message],
    params: SourceParams,
    views: Mapping[str, View],
    *,
    close_windows: bool,
) -> None:
    """Archive, late, dead, counts, snapshots of every window, and each entity's row as of the newest event."""
    verdicts = oracle.judge(messages, params)
    told = oracle.source_counts(verdicts)
    assert (stores.events.height, stores.late.height, stores.dead.height) == (told.accepted, told.too_late, told.dead)
    assert stores.counts.keys() == views.keys()
    newest = max(m.event[params.event_time_field] for m, v in zip(messages, verdicts, strict=True) if v.kind != "dead")
    for name, view in views.items():
        counts = oracle.view_counts(view, messages, verdicts)
        mine = stores.counts[name]
        assert (mine.applied, mine.filtered, mine.null_key) == (counts.applied, counts.filtered, counts.null_key)
        expected = oracle.snapshots(view, messages, verdicts, params, close_windows=close_windows)
        assert expected.keys() == {dataset for owner, dataset in stores.snapshots if owner == name}
        for dataset, rows in expected.items():
            got = {}
            for row in stores.snapshots[(name, dataset)].iter_rows(named=True):
                end = int(row.pop("window_end").timestamp() * 1_000_000)
                got[(tuple(row[key] for key in view.join_keys), end)] = row
            oracle.assert_same_rows(rows, got)
        applied = oracle.applied_events(view, messages, verdicts, params)
        for row in stores.online[name].iter_rows(named=True):
            events = applied.get(_entity(view, row["key"]), [])
            for feature, (value, status) in oracle.online_row(view, events, newest + 1).items():
                assert row[f"{feature} status"] == status, (row["key"], feature)
                if isinstance(value, float):
                    assert row[feature] == pytest.approx(value, rel=1e-6, abs=1e-6), (row["key"], feature)
                else:
                    assert row[feature] == value, (row["key"], feature)


def _entity(view: View, key: str) -> tuple[str, ...]:
    """The join keys' values of an encoded key; those of the examples hold nothing that is escaped in it."""
    return (key,) if len(view.join_keys) == 1 else tuple(key.split("|"))


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def ask_server(
    project: Project, features: Sequence[str], entities: Mapping[str, Sequence[str]]
) -> dict[str, list[object]]:
    """What a server, started for it, answers to the thin client as of the newest event."""
    port = free_port()
    log = project.folder / "serve.log"
    server = project.start("serve", "--port", str(port), "--clock", "event", log=log)
    try:
        with FeatureStoreClient(f"http://127.0.0.1:{port}", retries=0) as client:
            deadline = time.monotonic() + 20
            while True:
                try:
                    answer = client.get_online_features(features=list(features), entities=dict(entities))
                    break
                except FeatureStoreError:
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.2)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(15) == 0
    return answer.to_dict()


def assert_served(project: Project, stores: Stores, view: View, name: str, features: Sequence[str]) -> None:
    """A server says of twenty entities what the store holds, and of one that nobody knows what the definition says."""
    rows = stores.online[name].head(20)
    entities = [_entity(view, key) for key in rows["key"]] + [("nobody",) * len(view.join_keys)]
    by_key = {key: [entity[i] for entity in entities] for i, key in enumerate(view.join_keys)}
    got = ask_server(project, [f"{name}:{feature}" for feature in features], by_key)
    defaults = {feature.name: feature.default for feature in view.features}
    for feature in features:
        expected = [*rows[feature].to_list(), defaults[feature]]
        assert got[feature] == [pytest.approx(v) if isinstance(v, float) else v for v in expected], feature
