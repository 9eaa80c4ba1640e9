"""Leaking training sets are found, clean ones are not; and a join that looks ahead fails the helper."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from featurestore.errors import MalformedRequestError
from featurestore.testing.leakage import assert_no_leakage
from featurestore.training.association import label_associations
from tests.integration.project import Project
from tests.training.test_training_set import FEATURES, NAMES, project, spine, store

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
    ("shift", "when"), [("1us", "at the instant itself"), ("6m", "within 10m"), ("2h", "within 1d")]
)
def test_values_from_later_are_found(project: Project, made: Path, tmp_path: Path, shift: str, when: str):
    leaking = tmp_path / "leaking.parquet"
    joined_at(project, made, shift, leaking)
    (tmp_path / "leaking.parquet.manifest.json").write_bytes(made.with_name("set.parquet.manifest.json").read_bytes())
    code, found = check(project, leaking)
    assert code == 1
    total = found["card_activity:amount_eur_sum_24h"]
    assert total["different"] > 10
    if shift != "2h":  # a value of two hours later stands at none of the instants that are asked for
        assert total["later"] == total["different"]
        assert total["when"] == when


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
    ("label", "message"),
    [("none", "no column 'none'"), ("one", "has 1 value"), ("names", "is String of 3 values")],
)
def test_labels_that_say_nothing_are_refused(label: str, message: str):
    frame = pl.DataFrame({"x": [1, 2, 3], "one": 1, "names": ["a", "b", "c"]})
    with pytest.raises(MalformedRequestError, match=message):
        label_associations(frame, ["x"], label)


# -- The helper


def naive(
    window: str, *, strict: bool = True, forward: bool = False
) -> Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame]:
    def join(spine: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
        pairs = spine.with_row_index("n").join(events, on="card", how="left")
        time, t = pl.col("event_time"), pl.col("event_timestamp")
        inside = (time < t if strict else time <= t) & (time >= t.dt.offset_by(f"-{window}"))
        if forward:
            inside = (time >= t.dt.offset_by(f"-{window}")) & (time < t.dt.offset_by("1m"))
        sums = pl.col("amount").filter(inside).sum().alias("total")
        return pairs.group_by("n", maintain_order=True).agg(pl.first("event_timestamp"), sums).drop("n")

    return join


@pytest.fixture
def stream() -> tuple[pl.DataFrame, pl.DataFrame]:
    rng = np.random.default_rng(1)
    start = pl.datetime(2026, 1, 1, time_zone="UTC")
    events = pl.DataFrame(
        {"at": rng.integers(0, 600, 2_000), "card": rng.integers(0, 4, 2_000), "amount": rng.normal(size=2_000)}
    )
    spine = pl.DataFrame({"at": rng.integers(0, 600, 50), "card": rng.integers(0, 4, 50)})
    at = start + pl.duration(minutes=pl.col("at"))
    return spine.select("card", event_timestamp=at), events.select("card", "amount", event_time=at)


def test_the_helper_passes_an_honest_join(stream):
    assert_no_leakage(naive("1h"), *stream)


@pytest.mark.parametrize("leaking", [naive("1h", strict=False), naive("1h", forward=True)], ids=["at", "after"])
def test_the_helper_finds_a_join_that_looks_ahead(stream, leaking):
    with pytest.raises(AssertionError, match=r"column 'total': .* changed when events from then on were"):
        assert_no_leakage(leaking, *stream)


def test_the_helper_does_not_pass_what_it_can_not_check(stream):
    spine, events = stream
    with pytest.raises(AssertionError, match="nothing could leak"):
        assert_no_leakage(naive("1h"), spine, events.filter(pl.col("event_time") < spine["event_timestamp"].min()))
