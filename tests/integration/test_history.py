"""History from files, the archive and the live topic give what one topic with everything in it gives."""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from featurestore.compile.keys import encoded_key
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.offline import read_events, read_snapshots
from featurestore.online.reader import OnlineReader
from tests.conftest import ON_KAFKA, TopicAt
from tests.integration.project import Project, log_events, same_frame
from tests.integration.road import send
from tests.integration.test_backfill import MODULE, undisturbed, without_merchants

EVENTS = 30_000
SHAPE = Shape(events=EVENTS, cards=200, duration_s=6 * 3600.0, late_share=0, too_late_share=0, broken_share=0)

Message = tuple[bytes, bytes]


def stream(seed: int) -> list[Message]:
    """Nothing that is late, and no two events of a card at one instant: which is the last must not depend on the
    road."""
    seen: set[tuple[str, int]] = set()
    messages = []
    for key, value in TransactionStream(SHAPE, seed=seed):
        event = json.loads(value)
        place = event["card_id"], event["ts"]
        if place not in seen:
            seen.add(place)
            messages.append((key, value))
    return messages


def divide(messages: list[Message], share: float) -> tuple[list[Message], list[Message]]:
    """By event time: what is older than so much of the stream, and the rest."""
    times = [json.loads(value)["ts"] for _, value in messages]
    limit = sorted(times)[int(len(times) * share)]
    old = [message for message, time_ms in zip(messages, times, strict=True) if time_ms < limit]
    return old, [message for message, time_ms in zip(messages, times, strict=True) if time_ms >= limit]


def write_files(messages: list[Message], folder: Path) -> None:
    """Several files in no order of time: times as instants and as numbers, one without the columns that have
    defaults."""
    folder.mkdir(parents=True)
    rows = pl.DataFrame([json.loads(value) for _, value in messages], infer_schema_length=None)
    rows = rows.with_columns(pl.col("fx_rate").fill_null(1.0)).sample(fraction=1.0, shuffle=True, seed=3)
    euros = rows.filter(pl.col("fx_rate") == 1.0, pl.col("country").is_null())
    others = rows.filter((pl.col("fx_rate") != 1.0) | pl.col("country").is_not_null())
    half = others.height // 2
    euros.drop("fx_rate", "country").write_parquet(folder / "online.parquet")
    others.head(half).with_columns(pl.col("ts").cast(pl.Datetime("ms", "UTC"))).write_parquet(folder / "a.parquet")
    others.slice(half).write_parquet(folder / "b.parquet", row_group_size=1_000)


@pytest.fixture
def whole_topic(any_topic: TopicAt, request: pytest.FixtureRequest) -> TopicAt:
    """A second topic of the same broker."""
    topic = f"whole-{os.urandom(4).hex()}"
    if any_topic.kind == "kafka":
        request.getfixturevalue("kafka_broker").create_topic(topic, any_topic.partitions)
    return replace(any_topic, topic=topic)


def killed_on_its_way(project: Project, when: Path, *arguments: str, log: Path) -> bool:
    """Start a command and kill it as soon as `when` is there; whether it was in time."""
    process = project.start(*arguments, log=log)
    deadline = time.monotonic() + 30
    while not when.exists() and process.poll() is None:
        assert time.monotonic() < deadline, log.read_text()[-2000:]
    process.kill()
    return process.wait() != 0


@ON_KAFKA
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_history_archive_and_live_stream_together_are_the_whole_topic(
    any_topic: TopicAt, whole_topic: TopicAt, tmp_path: Path
):
    messages = stream(11)
    old, new = divide(messages, 0.6)
    half = len(new) // 2
    write_files(old, tmp_path / "lake")
    send(any_topic, new[:half])
    project = Project.create(
        tmp_path / "project", any_topic.bootstrap_servers, any_topic.topic, data_dir=tmp_path / "data"
    )
    whole = without_merchants(project)
    project.run_until_end()
    import_it = ("offline", "import", "transactions", str(tmp_path / "lake"))
    planned = project.call(*import_it, "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["rows"] == len(old)
    maintenance = project.data_dir / "offline" / "_maintenance"
    log = tmp_path / "import.log"
    for place in (maintenance / "import", maintenance / "staged"):
        if killed_on_its_way(project, place, *import_it, log=log):
            assert read_events(project.data_dir / "offline", "transactions").height == half
    done = project.call(*import_it, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["rows"], report["rows_left_out"]) in ((len(old), 0), (0, len(old)))  # a kill that came too late
    again = project.call(*import_it, "--json")
    assert (json.loads(again.stdout)["generation"], json.loads(again.stdout)["rows"]) == (None, 0)
    assert read_events(project.data_dir / "offline", "transactions").height == len(old) + half
    # A view that is not filled from it stays as it is, agrees with what the topic brought, and is told so.
    verified = project.call("offline", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "began behind" not in verified.stdout
    status = json.loads(project.call("status", "--json").stdout)
    assert status["sources"][0]["accepted"] == half
    assert sum(status["sources"][0]["imported"].values()) == len(old)
    assert status["views"][0]["from_beginning"]

    # Now both views are filled: one is new, one begins anew.
    (project.folder / MODULE).write_text(whole)
    assert project.call("view", "reset", "card_activity", "--yes").returncode == 0
    chance = random.Random(3)
    log = tmp_path / "backfill.log"
    for number in range(3):
        worker = project.start(
            "--log-level", "debug", "backfill", MODULE, "--apply", "--processes", str(1 + number % 2), log=log
        )
        deadline = time.monotonic() + 30
        while len(log_events(log, "commit")) <= chance.randrange(1, 30) and worker.poll() is None:
            assert time.monotonic() < deadline, log.read_text()[-3000:]
        worker.kill()
        worker.wait()
        if b"backfill_taken_in" in log.read_bytes():
            break
    if b"backfill_taken_in" not in log.read_bytes():
        filled = project.call("backfill", MODULE, "--apply", "--json")
        assert filled.returncode == 0, filled.stderr
        assert json.loads(filled.stdout)["sources"][0]["taken_in"]
    # The live stream goes on from the archive's end.
    send(any_topic, new[half:])
    project.run_until_end()

    send(whole_topic, messages)
    other = undisturbed(whole_topic, tmp_path / "undisturbed", project.data_dir)
    assert_same_views(project, other)
    verified = project.call("offline", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert_same_training_sets(project, other, tmp_path, messages)
    compacted = project.call("offline", "compact", "--grace", "0s")
    assert compacted.returncode == 0, compacted.stderr
    assert_same_training_sets(project, other, tmp_path, messages)


def assert_same_views(project: Project, other: Project) -> None:
    """Snapshots of every window, each entity's values as of the newest event, and the counts."""
    theirs = other.views()
    for name, view in project.views().items():
        keys = [key.name for key in view.spec.join_keys]
        for dataset in view.datasets:
            found = [
                read_snapshots(one.data_dir / "offline", name, version, dataset.name, keys)
                .drop("revision", "created_timestamp")
                .sort(*keys, "window_end")
                for one, version in ((project, view.version), (other, theirs[name].version))
            ]
            assert found[0].height
            same_frame(*found)
        entities = read_events(other.data_dir / "offline", "transactions").select(
            encoded_key(view.spec.join_keys).alias("key")
        )
        online, seen = [], []
        for one, compiled in ((project, view), (other, theirs[name])):
            reader = OnlineReader(one.data_dir, "transactions")
            reader.refresh()
            read = reader.read(
                compiled,
                entities["key"].unique().sort().to_list(),
                list(compiled.features),
                reader.latest_us(compiled),
            )
            online.append(
                pl.DataFrame({name: pl.Series(one.values, strict=False) for name, one in read.columns.items()})
            )
            seen.append(sum(state.counts.applied + state.counts.filtered for state in reader.states(compiled)))
            assert not any(state.counts.beyond_retention for state in reader.states(compiled))
            reader.close()
        same_frame(*online)
        assert seen[0] == seen[1]


def assert_same_training_sets(project: Project, other: Project, folder: Path, messages: list[Message]) -> None:
    """At instants over the whole stream, most of them before the topic's first event."""
    events = [json.loads(value) for _, value in messages[::97]]
    spine = pl.DataFrame(
        {
            "card_id": [event["card_id"] for event in events],
            "merchant_id": [event["merchant_id"] for event in events],
            "event_timestamp": pl.Series([event["ts"] for event in events]).cast(pl.Datetime("ms", "UTC")),
        }
    )
    spine.write_parquet(folder / "spine.parquet")
    features = (
        "card_activity:count_24h,card_activity:amount_eur_sum_1h,card_activity:merchant_id_last,"
        "merchant_activity:count_1h,merchant_activity:count"
    )
    made = []
    for number, one in enumerate((project, other)):
        out = folder / f"training-{number}.parquet"
        done = one.call(
            "training-set",
            "--spine",
            str(folder / "spine.parquet"),
            "--features",
            features,
            "--out",
            str(out),
            "--json",
        )
        assert done.returncode == 0, done.stderr
        made.append(pl.read_parquet(out))
        # The topic has no offset before its first event; what is before the files is not known.
        assert [len(json.loads(done.stdout)["partial"]), done.stderr.count("the archive may lack events")] == (
            [2, 2] if one is project else [0, 0]
        )
    same_frame(*made)
