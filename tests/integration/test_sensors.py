"""The example `sensors`, end to end: a gateway that was offline for an hour delivers its backlog, and it counts."""

from __future__ import annotations

import io
import itertools
import json
import math
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fastavro
import polars as pl
import pytest

from featurestore.examples import BY_NAME
from featurestore.examples.sensors import SensorStream, Shape
from featurestore.offline import read_events, read_late, read_snapshots
from tests import oracle
from tests.conftest import ON_KAFKA, TopicAt
from tests.integration.project import ROOT, Project, log_events, read_stores
from tests.integration.road import Sent, assert_served, assert_stores_agree_with_the_oracle, send_to
from tests.integration.test_kill import wait_for
from tests.oracle import Feature, Message, SourceParams, View, Window

MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
PARAMS = SourceParams("measured_at", MINUTE // 2, 2 * HOUR)
EXAMPLE = BY_NAME["sensors"]
SCHEMA = ROOT / EXAMPLE.schema
# One gateway of four is offline for an hour; two machines each, a reading every 36 s.
SHAPE = Shape(
    events=2_400,
    machines=8,
    gateways=4,
    offline_gateways_share=0.25,
    worn_machines_share=0.25,
    stopped_clock_share=0.004,
    nan_share=0.02,
    broken_share=0.01,
)
YEAR_9999_MS = 253_402_300_800_000

QUARTER, ONE_HOUR, ONE_DAY = oracle.sliding(15 * MINUTE, tile_us=MINUTE), oracle.sliding(HOUR), oracle.sliding(DAY)
FIVE_MINUTES = oracle.tumbling(5 * MINUTE)
EVER = oracle.lifetime()


def of(column: str, function: str, *windows: tuple[str, Window]) -> Iterator[Feature]:
    """Features of a Float64 column."""
    for suffix, window in windows:
        yield Feature(f"{column}_{function}_{suffix}", function, column, window, floats=True)


VIEWS = {
    "machine_condition": View(
        ("machine_id",),
        (
            *(
                Feature(f"count_{s}", "count", None, w)
                for s, w in (("15m", QUARTER), ("1h", ONE_HOUR), ("24h", ONE_DAY))
            ),
            *of("temperature", "mean", ("15m", QUARTER), ("1h", ONE_HOUR), ("24h", ONE_DAY)),
            *of("temperature", "stddev", ("1h", ONE_HOUR)),
            *of("temperature", "min", ("24h", ONE_DAY)),
            *of("temperature", "max", ("24h", ONE_DAY)),
            *of("vibration_squared", "mean", ("15m", QUARTER), ("24h", ONE_DAY)),
            *of("vibration", "max", ("1h", ONE_HOUR), ("24h", ONE_DAY)),
            *of("vibration", "mean", ("tumbling_5m", FIVE_MINUTES)),
            *of("vibration", "max", ("tumbling_5m", FIVE_MINUTES)),
            Feature("vibration_unrest", "var", "vibration", oracle.hopping(HOUR, 15 * MINUTE), floats=True),
            *of("kilowatts", "mean", ("1h", ONE_HOUR)),
            Feature("alarm_sum_1h", "sum", "alarm", ONE_HOUR),
            Feature("alarm_sum_24h", "sum", "alarm", ONE_DAY),
            Feature("error_code_last", "last", "error_code", EVER),
            Feature("utilisation_24h", "mean", "running", ONE_DAY),
            Feature("readings_ever", "count", None, EVER),
            Feature("first_gateway", "first", "gateway_id", EVER),
        ),
        derive={
            "temperature": lambda e: None if math.isnan(e["celsius"]) else e["celsius"],
            "vibration_squared": lambda e: e["vibration"] * e["vibration"],
            "alarm": lambda e: e["error_code"] is not None,
            "running": lambda e: e["rpm"] > 0,
        },
        ttl_us=7 * DAY,
        snapshot_every_us=5 * MINUTE,
    ),
    "gateway_health": View(
        ("gateway_id",),
        (
            Feature("count_15m", "count", None, QUARTER),
            Feature("count_1h", "count", None, ONE_HOUR),
            Feature("count_tumbling_5m", "count", None, FIVE_MINUTES),
            Feature("from_buffer_sum_1h", "sum", "from_buffer", ONE_HOUR),
            Feature("from_buffer_sum_24h", "sum", "from_buffer", ONE_DAY),
        ),
        ttl_us=7 * DAY,
        snapshot_every_us=5 * MINUTE,
    ),
}


def reader() -> Callable[[bytes], tuple[dict[str, object] | None, str | None]]:
    """Reads a value by the schema file alone: (reading, None), or (None, reason of the dead letter)."""
    schema = json.loads(SCHEMA.read_text())
    for column in schema["fields"]:
        if isinstance(column["type"], dict):
            column["type"] = column["type"]["type"]
    parsed = fastavro.parse_schema(schema)

    def read(value: bytes) -> tuple[dict[str, object] | None, str | None]:
        try:
            reading = fastavro.schemaless_reader(io.BytesIO(value), parsed, None)
        except EOFError:
            return None, "malformed"
        if reading["measured_at"] > YEAR_9999_MS:
            return None, "event_time_out_of_range"
        return {**reading, "measured_at": reading["measured_at"] * 1_000}, None

    return read


def oracle_messages(sent: Sent) -> list[Message]:
    read = reader()
    offsets: dict[int, Iterator[int]] = defaultdict(itertools.count)
    return [
        Message(partition, next(offsets[partition]), event, 2**61, reason)
        for partition, (event, reason) in ((partition, read(value)) for partition, value in sent)
    ]


@dataclass(frozen=True)
class Outage:
    """A stream, cut where the gateway is back. before, after: (gateway number, key, value) of the messages.

    The gateway was offline in [from_us, to_us): the first and the last of its `kept` readings. newest_us: of others,
    when it came back.
    """

    gateway: int
    machines: tuple[str, ...]
    before: list[tuple[int, bytes, bytes]]
    after: list[tuple[int, bytes, bytes]]
    from_us: int
    to_us: int
    newest_us: int
    kept: int
    dead: dict[str, int]


def an_outage(seed: int) -> Outage:
    read, stream = reader(), SensorStream(SCHEMA, SHAPE, seed=seed)
    messages, readings = [], []
    for key, value in stream:
        messages.append((int(key.decode().removeprefix("machine_")) % SHAPE.gateways, key, value))
        readings.append(read(value)[0])
    back = next(i for i, reading in enumerate(readings) if reading is not None and reading["from_buffer"])
    gateway = messages[back][0]
    # Those by a stopped clock are hours off, and too late on their own account.
    good = [r for r in readings if r is not None]
    start = sorted(int(str(r["measured_at"])) for r in good)[len(good) // 20] - HOUR
    kept = [int(str(r["measured_at"])) for r in good if r["from_buffer"] and int(str(r["measured_at"])) > start]
    newest = max(int(str(r["measured_at"])) for r in readings[:back] if r is not None)
    machines = tuple(f"machine_{n:04d}" for n in range(SHAPE.machines) if n % SHAPE.gateways == gateway)
    return Outage(
        gateway,
        machines,
        messages[:back],
        messages[back:],
        min(kept),
        max(kept) + 1,
        newest,
        len(kept),
        stream.made.dead,
    )


def send_slowly(topic: TopicAt, messages: list[tuple[int, bytes, bytes]], seconds: float) -> Sent:
    """Send in thirty parts over some seconds."""
    sent, size = [], len(messages) // 30 + 1
    for first in range(0, len(messages), size):
        sent += send_to(topic, messages[first : first + size])
        time.sleep(seconds / 30)
    return sent


def windows_in(project: Project, outage: Outage) -> pl.DataFrame:
    """Rows of whole five minutes in which the gateway was offline, as they are in the files so far."""
    offline = project.data_dir / "offline"
    rows = read_snapshots(offline, "machine_condition", 1, "tumbling_5m")
    if not rows.height:
        return pl.DataFrame(schema={"machine_id": pl.String, "revision": pl.Int32})
    inside = (pl.col("window_start").dt.epoch("us") >= outage.from_us) & (
        pl.col("window_end").dt.epoch("us") <= outage.to_us
    )
    return rows.filter(inside)


def assert_the_backlog_counted(project: Project, outage: Outage, sent: Sent) -> None:
    """Nothing of it is late or beyond retention, and everything is as if the gateway had never been away."""
    messages = oracle_messages(sent)
    verdicts = oracle.judge(messages, PARAMS)
    stores = read_stores(project)
    assert_stores_agree_with_the_oracle(stores, messages, PARAMS, VIEWS, close_windows=True)
    assert dict(stores.dead["reason"].value_counts().iter_rows()) == oracle.dead_letters(verdicts) == outage.dead
    assert min(outage.dead.values()) > 0

    offline = project.data_dir / "offline"
    in_outage = pl.col("event_time").dt.epoch("us").is_between(outage.from_us, outage.to_us)
    assert read_events(offline, EXAMPLE.source).filter("from_buffer").filter(in_outage).height == outage.kept
    assert read_late(offline, EXAMPLE.source).filter("from_buffer").filter(in_outage).height == 0
    assert stores.late.height > 0, "stopped clocks, which are too late"
    assert sum(counts.beyond_retention for counts in stores.counts.values()) == 0

    rows = windows_in(project, outage)
    for machine in outage.machines:
        whole = (outage.to_us - outage.from_us) // (5 * MINUTE)
        assert rows.filter(machine_id=machine)["window_end"].n_unique() >= whole - 1
    gateway = stores.online["gateway_health"].filter(key=f"gateway_{outage.gateway:03d}")
    assert gateway["from_buffer_sum_24h"].to_list() == [outage.kept]
    features = ["count_1h", "temperature_mean_1h", "vibration_unrest", "error_code_last", "utilisation_24h"]
    assert_served(project, stores, VIEWS["machine_condition"], "machine_condition", features)


@pytest.mark.timeout(120)
def test_a_returning_gateway_among_others_corrects_windows_that_were_emitted(any_topic: TopicAt, tmp_path: Path):
    outage = an_outage(seed=7)
    # Two gateways a partition: the returning one is an hour behind its neighbour.
    messages = [[(gateway % 2, key, value) for gateway, key, value in part] for part in (outage.before, outage.after)]
    project = Project.create(tmp_path, any_topic.bootstrap_servers, any_topic.topic, example=EXAMPLE)
    sent = send_to(any_topic, messages[0])
    project.run_until_end()
    others = set(windows_in(project, outage)["machine_id"])
    assert len(others) == SHAPE.machines - len(outage.machines), "the others' windows were not waited with"
    assert others.isdisjoint(outage.machines)
    as_of_then = read_stores(project).online["machine_condition"]
    # At most what was measured in the moment of its return.
    assert as_of_then.filter(pl.col("key").is_in(outage.machines))["count_15m"].max() <= 1

    sent += send_to(any_topic, messages[1])
    project.run_until_end("--close-windows", "--processes", "2")
    assert_the_backlog_counted(project, outage, sent)

    # The window in which the outage began had been emitted with what was known; it was emitted again.
    rows = read_snapshots(project.data_dir / "offline", "gateway_health", 1, "tumbling_5m")
    begun = pl.col("window_start").dt.epoch("us") < outage.from_us, pl.col("window_end").dt.epoch("us") > outage.from_us
    edge = rows.filter(*begun, gateway_id=f"gateway_{outage.gateway:03d}").sort("revision")
    assert edge["revision"].to_list() == list(range(edge.height))
    assert edge.height > 1
    assert edge["count_tumbling_5m"].to_list() == sorted(set(edge["count_tumbling_5m"])), "each time there was more"
    # And it is the allowed lateness that does it: with ten minutes the backlog would be lost.
    strict = oracle.judge(oracle_messages(sent), SourceParams("measured_at", MINUTE // 2, 10 * MINUTE))
    assert oracle.source_counts(strict).too_late > 0.7 * outage.kept


@ON_KAFKA
@pytest.mark.timeout(120)
def test_a_gateway_that_silenced_its_partition_holds_nobody_up_and_loses_nothing(any_topic: TopicAt, tmp_path: Path):
    outage = an_outage(seed=7)
    project = Project.create(tmp_path, any_topic.bootstrap_servers, any_topic.topic, example=EXAMPLE, idle_timeout="1s")
    log = tmp_path / "run.log"
    # A gateway a partition: that of the offline one is silent, while the others go on.
    last_heard = max(i for i, (gateway, _, _) in enumerate(outage.before) if gateway == outage.gateway) + 1
    sent = send_to(any_topic, outage.before[:last_heard])
    worker = project.start("run", EXAMPLE.module, "--apply", log=log)
    try:
        wait_for(lambda: bool(log_events(log, "worker_started")), 30, log)
        sent += send_slowly(any_topic, outage.before[last_heard:], 3.0)
        # Their windows of that time are emitted: after a second of silence it no longer holds them back.
        wait_for(lambda: len(set(windows_in(project, outage)["machine_id"])) == SHAPE.machines - 2, 30, log)
        assert set(windows_in(project, outage)["machine_id"]).isdisjoint(outage.machines)
        # Over many commits, so that what one emitted the next corrects.
        sent += send_slowly(any_topic, outage.after, 1.5)
        wait_for(lambda: set(windows_in(project, outage)["machine_id"]) >= set(outage.machines), 30, log)
        time.sleep(0.5)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, log.read_text()[-3000:]
    project.run_until_end("--close-windows")
    assert_the_backlog_counted(project, outage, sent)


def test_the_oracle_knows_every_feature_of_the_pipeline():
    from pipelines import sensors

    for name, view in VIEWS.items():
        defined = [feature for made in getattr(sensors, name).features for feature, _ in made.features()]
        assert [feature.name for feature in view.features] == defined, name
