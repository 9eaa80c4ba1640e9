"""Leaking training sets are found, clean ones are not; and a join that looks ahead fails the helper."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from featurestore.errors import MalformedRequestError
from featurestore.sources.embedded import EmbeddedBroker
from featurestore.testing.leakage import assert_no_leakage
from featurestore.training.association import label_associations
from featurestore.training.leakage import check_training_set, same_values
from featurestore.training.training_set import TrainingSetRequest, make_training_set
from tests.conftest import TopicAt
from tests.integration.project import Project
from tests.integration.road import send
from tests.training.test_training_set import FEATURES, NAMES, START, payment, project, spine, store

__all__ = ["project", "spine", "store"]  # fixtures


@pytest.fixture(scope="module")
def made(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training set whose rows lie at events: 40 s later there would be another one."""
    folder = tmp_path_factory.mktemp("made")
    rows = 60
    times = pl.datetime_range(
        pl.datetime(2026, 11, 20, 9, time_zone="UTC"), pl.datetime(2026, 11, 20, 12, time_zone="UTC"), "3m", eager=True
    ).head(rows)
    frame = pl.DataFrame({"event_timestamp": times}).with_row_index("number")
    frame = frame.select(
        "event_timestamp",
        card_id="c" + (pl.col("number") * 3 % 5).cast(pl.String),
        merchant_id=pl.lit("m0"),
        is_fraud=pl.col("number") % 2,
    )
    frame.write_parquet(folder / "spine.parquet")
    done = project.call(
        *("training-set", "--spine", str(folder / "spine.parquet"), "--features", ",".join(FEATURES)),
        *("--out", str(folder / "set.parquet")),
    )
    assert done.returncode == 0, done.stderr
    return folder / "set.parquet"


def check(project: Project, path: Path, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = project.call("training-check", str(path), *options, "--json")
    assert done.stdout, done.stderr
    return done.returncode, {one["feature"]: one for one in json.loads(done.stdout)["features"]}


def joined_at(project: Project, made: Path, shift: str, path: Path) -> None:
    """The set as it would be with all instants later, under the instants that it should have."""
    rows = pl.read_parquet(made)
    later = rows.drop(NAMES).with_columns(pl.col("event_timestamp").dt.offset_by(shift))
    later.write_parquet(path.with_name("later.parquet"))
    arguments = ("training-set", "--spine", str(path.with_name("later.parquet")), "--features", ",".join(FEATURES))
    assert project.call(*arguments, "--out", str(path)).returncode == 0
    leaking = pl.read_parquet(path).with_columns(rows["event_timestamp"])
    leaking.write_parquet(path)


def test_a_clean_set_is_clean(project: Project, made: Path):
    code, found = check(project, made)
    assert code == 0
    assert {one["different"] for one in found.values()} == {0}
    assert {one["rows"] for one in found.values()} == {60}
    assert found["card_activity:amount_eur_sum_24h"]["noticeable"] > 30
    code, found = check(project, made, "--sample", "20")
    assert code == 0
    assert {one["rows"] for one in found.values()} == {20}


@pytest.mark.parametrize(
    ("shift", "when"),
    [
        ("1us", "at the instant itself"),
        ("6m", "after the entity's next event"),  # a card has one every five minutes
        ("1h", "within 1h"),
        ("2h", None),
    ],
)
def test_values_from_later_are_found(project: Project, made: Path, tmp_path: Path, shift: str, when: str):
    leaking = tmp_path / "leaking.parquet"
    joined_at(project, made, shift, leaking)
    (tmp_path / "leaking.parquet.manifest.json").write_bytes(made.with_name("set.parquet.manifest.json").read_bytes())
    code, found = check(project, leaking)
    assert code == 1
    total = found["card_activity:amount_eur_sum_24h"]
    assert total["different"] > 10
    assert total["largest"] > 0
    if when is not None:  # a value of two hours later stands at none of the instants that are asked for
        assert total["later"] == total["different"]
        assert total["when"] == when


def test_values_of_the_last_instant_are_found(project: Project, made: Path, tmp_path: Path):
    """What a join that takes each entity's newest values gives: no instants at all."""
    rows = pl.read_parquet(made)
    newest = rows.drop(NAMES).with_columns(pl.col("event_timestamp").max())
    newest.write_parquet(tmp_path / "newest.parquet")
    arguments = ("training-set", "--spine", str(tmp_path / "newest.parquet"), "--features", ",".join(FEATURES))
    assert project.call(*arguments, "--out", str(tmp_path / "leaking.parquet")).returncode == 0
    leaking = pl.read_parquet(tmp_path / "leaking.parquet").with_columns(rows["event_timestamp"])
    leaking.write_parquet(tmp_path / "leaking.parquet")
    manifest = str(made.with_name("set.parquet.manifest.json"))
    code, found = check(project, tmp_path / "leaking.parquet", "--manifest", manifest)
    assert code == 1
    total = found["card_activity:amount_eur_sum_24h"]
    assert (total["later"], total["when"]) == (total["different"], "at the set's last instant")


@pytest.mark.parametrize(
    ("value", "wrong"),
    [(pl.lit("many"), 60), (pl.col("count_1h") + 0.5, 60), (pl.col("count_1h").cast(pl.Float64), 0)],
    ids=["text", "truncated", "another type"],
)
def test_a_value_of_another_type_is_compared_as_it_is(
    project: Project, made: Path, tmp_path: Path, value: pl.Expr, wrong: int
):
    path = tmp_path / "set.parquet"
    pl.read_parquet(made).with_columns(count_1h=value).write_parquet(path)
    _, found = check(project, path, "--manifest", str(made.with_name("set.parquet.manifest.json")))
    assert found["card_activity:count_1h"]["different"] == wrong


def test_a_text_is_not_a_null():
    assert not same_values(pl.Series(["many"]), pl.Series([None], dtype=pl.Int64)).any()


def test_sums_of_large_numbers_that_cancel_are_not_accused(tmp_path: Path):
    """Each payment is taken back: what is left of a day's sum is rounding, another one in a sample of the rows."""
    with EmbeddedBroker(tmp_path / "data") as broker:
        assert broker.address is not None
        topic = TopicAt("embedded", "embedded", broker.address.bootstrap_servers, "payments", 4)
        project = Project.create(tmp_path / "project", "embedded", "payments", data_dir=tmp_path / "data")
        send(topic, map(taken_back, range(1_500)))
        project.run_until_end()
    chance = np.random.default_rng(1)
    at = pl.datetime(2026, 11, 20, 8, time_zone="UTC") + pl.duration(seconds=10 * pl.col("number"))
    spine = pl.DataFrame({"number": chance.integers(0, 1_500, 300), "card": chance.integers(0, 5, 300)})
    spine = spine.select(card_id="c" + pl.col("card").cast(pl.String), event_timestamp=at)
    name = "card_activity:amount_eur_sum_24h"
    made = make_training_set(project.data_dir, TrainingSetRequest(spine, (name,)))
    assert made.frame["amount_eur_sum_24h"].abs().min() < 1e-6
    for sample in (200, 50, 10):
        (one,) = check_training_set(project.data_dir, made.frame, made.manifest, sample=sample)
        assert (one.rows, one.different) == (sample, 0)
    # The smallest payment more is far above that.
    leaking = made.frame.with_columns(pl.col("amount_eur_sum_24h") + 1e6)
    (one,) = check_training_set(project.data_dir, leaking, made.manifest, sample=50)
    assert one.different == 50
    assert one.largest == pytest.approx(1e6, abs=1)


def taken_back(number: int) -> tuple[None, bytes]:
    amount = round(random.Random(number // 10).uniform(1e6, 9e6), 2) * (1 if number // 5 % 2 == 0 else -1)
    event = json.loads(payment(number)[1])
    at = START + timedelta(seconds=10 * number)
    return None, json.dumps(event | {"amount": amount, "ts": int(at.timestamp() * 1_000)}).encode()


def test_knowledge_by_event_is_found_where_arrival_was_said(project: Project, made: Path, tmp_path: Path):
    """All events of this archive arrived long after they happened."""
    said = json.loads(made.with_name("set.parquet.manifest.json").read_text())
    other = tmp_path / "manifest.json"
    other.write_text(json.dumps(said | {"knowledge": "arrival"}))
    code, found = check(project, made, "--manifest", str(other))
    assert code == 1
    assert found["card_activity:count_1h"]["different"] == 60


def test_what_can_not_be_checked_is_named(project: Project, made: Path, tmp_path: Path):
    pl.read_parquet(made).drop("count").write_parquet(tmp_path / "set.parquet")
    lost = project.call("training-check", str(tmp_path / "set.parquet"))
    assert lost.returncode == 1
    assert "set.parquet.manifest.json can't be read" in lost.stderr
    manifest = str(made.with_name("set.parquet.manifest.json"))
    lacks = project.call("training-check", str(tmp_path / "set.parquet"), "--manifest", manifest)
    assert lacks.returncode == 1
    assert "has no column 'count'" in lacks.stderr


def test_a_feature_that_is_the_label_is_warned_of(project: Project, made: Path, tmp_path: Path):
    rows = pl.read_parquet(made)
    labelled = rows.drop(NAMES).with_columns(
        is_fraud=(rows["amount_eur_sum_24h"] > rows["amount_eur_sum_24h"].median())
    )
    labelled.write_parquet(tmp_path / "spine.parquet")
    arguments = ["training-set", "--spine", str(tmp_path / "spine.parquet"), "--features", ",".join(FEATURES)]
    arguments += ["--out", str(tmp_path / "out.parquet")]
    done = project.call(*arguments, "--label", "is_fraud", "--json")
    assert done.returncode == 0
    warning = " ".join(done.stderr.split())
    assert "feature 'amount_eur_sum_24h' tells label 'is_fraud' almost by itself (auc 1.000)" in warning
    suspicious = {one["feature"] for one in json.loads(done.stdout)["label"] if one["suspicious"]}
    assert "amount_eur_sum_24h" in suspicious
    assert "count_1h" not in suspicious
    wrong = project.call(*arguments, "--label", "fraud")
    assert wrong.returncode == 1
    assert "the spine has no column 'fraud'" in wrong.stderr


# -- Associations


def test_associations_are_what_they_say():
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, 2_000)
    frame = pl.DataFrame(
        {
            "label": label,
            "noise": rng.normal(size=2_000),
            "same": label * 2.0,
            "against": -label,
            "close": label + rng.normal(scale=0.1, size=2_000),
            "gone": [1.0 if one else None for one in label],
            "text": np.where(label == 1, "a", "b"),
            "name": [f"n{number}" for number in range(2_000)],
            "flag": label == 1,
            "constant": 1,
        }
    )
    found = label_associations(frame, [name for name in frame.columns if name != "label"], "label")
    values = {one.feature: one for one in found if one.of == "values"}
    assert {name for name, one in values.items() if one.is_suspicious} == {"same", "against", "close", "text", "flag"}
    assert 0.5 <= values["noise"].value < 0.55
    assert values["constant"].value == 0.5
    assert "name" not in values
    assert [one.feature for one in found if one.of == "nulls" and one.is_suspicious] == ["gone"]
    number = frame.with_columns(label=pl.col("noise") ** 3)
    close = {one.feature: one for one in label_associations(number, ["noise", "close"], "label")}
    assert close["noise"].measure == "correlation"
    assert close["noise"].is_suspicious
    assert not close["close"].is_suspicious


@pytest.mark.parametrize(
    ("frame", "suspicious"),
    [
        # Half of the ones are null, no zero is: as a whole, nulls have an AUC of 0.75.
        ({"x": [None] * 25 + [1.0] * 75, "label": [1] * 50 + [0] * 50}, True),
        ({"x": [None] * 25 + [1.0] * 75, "label": ["no"] * 50 + ["yes"] * 50}, True),
        ({"x": [None, 1.0] * 50, "label": [1] * 50 + [0] * 50}, False),
        # By chance one time in 4; and zeros are 95 of 100 anyway.
        ({"x": [None] * 3 + [1.0] * 97, "label": [1] * 50 + [0] * 50}, False),
        ({"x": [None] * 80 + [1.0] * 20, "label": [0] * 95 + [1] * 5}, False),
    ],
    ids=["only ones", "only one text", "both", "few", "common anyway"],
)
def test_nulls_of_one_label_alone_are_told(frame: dict[str, list[Any]], suspicious: bool):
    found = label_associations(pl.DataFrame(frame), ["x"], "label")
    assert [(one.of, one.measure) for one in found if one.is_suspicious] == [("nulls", "share")] * suspicious


@pytest.mark.parametrize("label", [[0, 1, 0, 0], [0, 1, 2, 3], [0] * 5 + [1] * 5, [0] * 96 + [1] * 4])
def test_a_few_rows_say_nothing(label: list[int]):
    (one,) = label_associations(pl.DataFrame({"x": label, "label": label}), ["x"], "label")
    assert one.value == pytest.approx(1.0)
    assert not one.is_suspicious


@pytest.mark.parametrize(
    ("label", "message"),
    [("none", "no column 'none'"), ("one", "has 1 value"), ("names", "is String of 3 values")],
)
def test_labels_that_say_nothing_are_refused(label: str, message: str):
    frame = pl.DataFrame({"x": [1, 2, 3], "one": 1, "names": ["a", "b", "c"]})
    with pytest.raises(MalformedRequestError, match=message):
        label_associations(frame, ["x"], label)


# -- The helper


def naive(
    *, strict: bool = True, ahead: str = "0m", by_arrival: bool = False
) -> Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame]:
    """Sums of an hour, up to `ahead` after the instant; the instant itself counts where not strict."""

    def join(spine: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
        pairs = spine.with_row_index("n").join(events, on="card", how="left")
        time, t = pl.col("event_time"), pl.col("event_timestamp")
        end = t.dt.offset_by(ahead)
        inside = (time < end if strict else time <= end) & (time >= t.dt.offset_by("-1h"))
        if by_arrival:
            inside &= pl.col("arrival_time") <= t
        sums = pl.col("amount").filter(inside).sum().alias("total")
        return pairs.group_by("n", maintain_order=True).agg(pl.first("event_timestamp"), sums).drop("n")

    return join


@pytest.fixture
def stream() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows and events at whole minutes, so that many share one; an event arrives up to 20 minutes after it happened."""
    rng = np.random.default_rng(1)
    start = pl.datetime(2026, 1, 1, time_zone="UTC")
    events = pl.DataFrame(
        {
            "at": rng.integers(0, 600, 2_000),
            "card": rng.integers(0, 4, 2_000),
            "amount": rng.normal(size=2_000),
            "delay": rng.integers(0, 20, 2_000),
        }
    )
    spine = pl.DataFrame({"at": rng.integers(0, 600, 50), "card": rng.integers(0, 4, 50)})
    at, delay = start + pl.duration(minutes=pl.col("at")), pl.duration(minutes=pl.col("delay"))
    return (
        spine.select("card", event_timestamp=at),
        events.select("card", "amount", event_time=at, arrival_time=at + delay),
    )


@pytest.mark.parametrize("cuts", [1, 3, 10, 100])
def test_the_helper_passes_an_honest_join(stream, cuts: int):
    assert_no_leakage(naive(), *stream, cuts=cuts)
    assert_no_leakage(naive(by_arrival=True), *stream, cuts=cuts, arrival_time="arrival_time")


@pytest.mark.parametrize("cuts", [1, 3, 10])
@pytest.mark.parametrize("leaking", [naive(strict=False), naive(ahead="1m")], ids=["at", "after"])
def test_the_helper_finds_a_join_that_looks_ahead(stream, leaking, cuts: int):
    with pytest.raises(AssertionError, match=r"column 'total': .* changed when what lies after it was"):
        assert_no_leakage(leaking, *stream, cuts=cuts)


def test_the_helper_finds_event_time_where_arrival_was_meant(stream):
    with pytest.raises(AssertionError, match=r"column 'total': .* changed when what lies after it was left out"):
        assert_no_leakage(naive(), *stream, arrival_time="arrival_time")


def test_the_helper_looks_at_the_last_instants_too(stream):
    spine, events = stream
    last = spine["event_timestamp"].max()

    def late_leak(spine: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
        honest, ahead = naive()(spine, events), naive(ahead="30m")(spine, events)
        return honest.with_columns(
            pl.when(pl.col("event_timestamp") == last).then(ahead["total"]).otherwise(pl.col("total"))
        )

    with pytest.raises(AssertionError, match="1 rows up to"):
        assert_no_leakage(late_leak, spine, events, cuts=3)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_the_helper_takes_times_as_they_are_written(stream, unit: str, zone: str):
    spine, events = stream
    written = pl.col("event_time", "arrival_time").dt.cast_time_unit(unit).dt.convert_time_zone(zone)
    events = events.with_columns(written)

    def join(spine: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
        as_utc = pl.col("event_time", "arrival_time").dt.cast_time_unit("us").dt.convert_time_zone("UTC")
        return naive()(spine, events.with_columns(as_utc))

    assert_no_leakage(join, spine, events)
    finer = spine.with_columns(pl.col("event_timestamp").dt.cast_time_unit("ns") + pl.duration(nanoseconds=1))
    # A nanosecond after an event, that event is history.
    assert_no_leakage(join, finer, events)


def test_the_helper_refuses_rows_in_another_order(stream):
    with pytest.raises(AssertionError, match="in another order"):
        assert_no_leakage(lambda spine, events: naive()(spine, events).reverse(), *stream)


def test_the_helper_does_not_pass_what_it_can_not_check(stream):
    spine, events = stream
    with pytest.raises(AssertionError, match="nothing could leak"):
        assert_no_leakage(naive(), spine, events.filter(pl.col("event_time") < spine["event_timestamp"].min()))
