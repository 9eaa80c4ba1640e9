"""The race runs on a real broker, and its oracle tells right rows from wrong ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from benchmarks.check import SLIDING_US, judged_events, sliding_rows, watermark_of
from benchmarks.events import STREAMS, make_events, partitions_of
from benchmarks.measure import Cost
from benchmarks.race import check, engines
from benchmarks.race.__main__ import steps_of, table
from benchmarks.race.shapes import SHAPES
from benchmarks.report import aligned, record
from benchmarks.standard_job import figures, measure_run
from tests.kafka_broker import KafkaBroker

FEWER = {"wide_rows": 20_000}
SOME_EVENTS = 80_000
"""Eighty seconds of event time: the first minute is emitted. For wide_rows they are always eight days."""

pytestmark = pytest.mark.timeout(300)


def offline_of(folder: Path) -> Path:
    return folder / "data" / "offline"


def run_ours(broker: KafkaBroker, name: str, events: int, folder: Path) -> None:
    shape = SHAPES[name]
    engines.load(broker.bootstrap_servers, shape, events, folder)
    environment = {"RACE_SHAPE": name, "RACE_TOPIC": shape.topic(events)}
    measure_run(broker.bootstrap_servers, events, 1, folder, module="benchmarks.race.pipeline", environment=environment)


def snapshot_files(folder: Path, window: str) -> list[Path]:
    return sorted((offline_of(folder) / "features" / "card_amounts" / "v1" / window).glob("*.parquet"))


def rewrite(path: Path, rows: pl.DataFrame) -> None:
    path.unlink()
    rows.write_parquet(path)


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHAPES if name != "standard"])
def test_ours_gives_the_rows_of_the_oracle(name: str, kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    events = FEWER.get(name, SOME_EVENTS)
    run_ours(kafka_broker, name, events, tmp_path)
    rows, wrong = engines.check(SHAPES[name], events, "featurestore", offline_of(tmp_path), tmp_path)
    assert rows > 1_000
    assert wrong == []


@pytest.mark.kafka
@pytest.mark.slow
def test_the_oracle_finds_a_wrong_value_a_missing_row_and_a_missing_event(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    run_ours(kafka_broker, "hopping", SOME_EVENTS, tmp_path)
    shape, offline = SHAPES["hopping"], offline_of(tmp_path)
    name = "hopping_10m_1m"
    file = next(path for path in snapshot_files(tmp_path, name) if pl.read_parquet(path).height > 1)
    right = pl.read_parquet(file)

    def complaints() -> list[str]:
        return engines.check(shape, SOME_EVENTS, "featurestore", offline, tmp_path)[1]

    assert complaints() == []
    # Of its own card and window it is the highest revision: no other row can stand in for it.
    wrong = pl.col(f"amount_max_{name}") + pl.when(pl.int_range(pl.len()) == 0).then(0.01).otherwise(0.0)
    rewrite(file, right.with_columns(wrong, revision=pl.col("revision") + 1_000))
    assert [line.split(":")[1].strip() for line in complaints()] == [f"amount_max_{name}"]
    rewrite(file, right.filter(pl.col("revision") == 0).slice(1))
    assert any("missing" in line for line in complaints())
    rewrite(file, right)
    archived = next((offline / "events").rglob("*.parquet"))
    rewrite(archived, pl.read_parquet(archived).slice(1))
    assert complaints() == [f"events: {SOME_EVENTS - 1} messages, expected {SOME_EVENTS}"]


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.parametrize("engine", list(engines.PEERS))
@pytest.mark.parametrize("name", ["tumbling", "hopping"])
def test_a_peer_gives_the_rows_of_the_oracle(engine: str, name: str, kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    if reason := engines.why_not(engine):
        pytest.skip(reason)
    events = 140_000 if engine == "quixstreams" and name == "tumbling" else 5_000
    result = engines.PEERS[engine](kafka_broker.bootstrap_servers, SHAPES[name], events, tmp_path)
    assert result.wrong == []
    assert result.rows > 0 or events == 5_000
    assert result.figures.cpu_s > 0


def peer_rows(name: str, events: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Accepted events, and the rows of a peer that closes every window, computed one by one."""
    shape = SHAPES[name]
    accepted = judged_events(events, engines.PARTITIONS, engines.SEED, STREAMS[shape.stream])
    size, every = (60_000, 60_000) if name == "tumbling" else (600_000, 60_000)
    found: dict[tuple[str, int], list[float]] = {}
    for card, amount, time in accepted.select("card_id", "amount", pl.col("time") // 1_000).iter_rows():
        end = time // every * every + every
        while end - size <= time:
            found.setdefault((card, end), []).append(amount)
            end += every
    rows = [
        {
            "card_id": card,
            "end": end,
            "count": len(amounts),
            "sum": sum(amounts),
            "min": min(amounts),
            "max": max(amounts),
            "mean": sum(amounts) / len(amounts),
        }
        for (card, end), amounts in found.items()
    ]
    return accepted, pl.DataFrame(rows)


@pytest.mark.parametrize("name", ["tumbling", "hopping"])
def test_a_peers_rows_are_compared_one_by_one(name: str, tmp_path: Path) -> None:
    accepted, rows = peer_rows(name, 3_000)
    path = tmp_path / "rows.jsonl"

    def complaints(frame: pl.DataFrame) -> list[str]:
        frame.write_ndjson(path)
        return check.check_peer(SHAPES[name], accepted, "bytewax", path)[1]

    assert complaints(rows) == []
    first = pl.int_range(pl.len()) == 0
    assert len(complaints(rows.with_columns(count=pl.col("count") + first.cast(pl.Int64)))) == 1
    assert len(complaints(rows.with_columns(sum=pl.col("sum") + pl.when(first).then(0.01).otherwise(0.0)))) == 1
    assert any("missing" in line for line in complaints(rows.slice(1)))
    assert any("twice" in line for line in complaints(pl.concat([rows, rows.slice(0, 1)])))


def test_both_oracles_of_sliding_windows_agree() -> None:
    accepted = judged_events(150_000, 4, 1)
    watermark = watermark_of(accepted)
    by_boundary = sliding_rows(accepted, watermark, SLIDING_US)
    by_pairs = check.sliding_rows_by_pairs(accepted, watermark, SLIDING_US)
    assert by_boundary.height > 1_000
    assert by_pairs.height == by_boundary.height
    both = by_boundary.join(by_pairs, on=["card_id", "end"], suffix="_pairs")
    assert both.height == by_boundary.height
    features = [f"{name}_{window}" for name in ("count", "amount_sum", "amount_min") for window in SLIDING_US]
    for column in features:
        assert (both[column] - both[f"{column}_pairs"]).abs().max() < 1e-6, column


def test_the_streams_are_what_their_shapes_say() -> None:
    many = make_events(10_000, 1, STREAMS["many_keys"])
    assert many["card_id"].n_unique() == 10_000
    hot = make_events(10_000, 1, STREAMS["hot_key"])["card_id"].value_counts(sort=True)["count"]
    assert 4_800 < hot[0] < 5_200
    assert hot[1] < 2_500
    days = make_events(22_000, 1, STREAMS["days"])
    assert days["card_id"].n_unique() == 100
    assert days["ts"].max() - days["ts"].min() > 7 * 86_400_000
    assert 5_500 < days.filter(pl.col("ts") > pl.col("ts").max() - 3_600_000).height < 6_500
    keyed = many.with_columns(partitions_of(many, 4, STREAMS["many_keys"]))
    assert keyed.filter(pl.col("card_id") == keyed["card_id"][0])["partition"].n_unique() == 1
    assert keyed["partition"].n_unique() == 4


def test_a_race_is_ours_on_both_numbers_and_each_peer_on_the_small_one() -> None:
    def names(*arguments: object) -> list[str]:
        return [name for name, _ in steps_of(*arguments)]  # type: ignore[arg-type]

    tumbling = SHAPES["tumbling"]
    assert names(tumbling, 2_000, 1_000, True) == [
        "tumbling: loading 1,000 events",
        "tumbling: featurestore",
        "tumbling: bytewax",
        "tumbling: quixstreams",
        "tumbling: loading 2,000 events",
        "tumbling: featurestore",
    ]
    assert len(names(tumbling, 2_000, 1_000, False)) == 2
    assert len(names(SHAPES["hot_key"], 2_000, 1_000, True)) == 2


def test_the_table_is_recorded_in_its_own_section(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    shutil.copy(Path(engines.__file__).parents[1] / "README.md", readme)
    before = readme.read_text()
    cost = Cost(0, 2.0, 3.0, 100.0, 0.0, "", "")
    idle = Cost(0, 1.0, 1.0, 50.0, 0.0, "", "")
    run = figures("bytewax", 1_000_000, cost, 2.0, idle)
    lines = table([engines.Result("tumbling", "bytewax", 1_000_000, run, 7, [])])
    assert lines[1] == ("tumbling", "bytewax", "1,000,000", "3.00", "2.00", "2.0", "500,000", "100", "7", "right")
    record(aligned(lines, texts=2), "a job", "race", readme)
    after = readme.read_text()
    assert "a job, on " in after
    outside = before.split("<!-- race -->")[0], before.split("<!-- end of race -->")[1]
    assert after.startswith(outside[0])
    assert after.endswith(outside[1])
