"""Training sets as users ask for them: any spine, one file or parts, made again from a manifest; errors that help."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import polars.testing
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.errors import FeatureStoreError
from featurestore.sources.embedded import EmbeddedBroker
from featurestore.training import output
from tests.conftest import TopicAt
from tests.integration.project import Project
from tests.integration.road import send

FEATURES = ["card_activity:count_1h", "card_activity:amount_eur_sum_24h", "merchant_activity:count"]
NAMES = ["count_1h", "amount_eur_sum_24h", "count"]
START = datetime(2026, 11, 20, 8, tzinfo=timezone.utc)


def payment(number: int) -> tuple[None, bytes]:
    event = {
        "transaction_id": f"t{number}",
        "card_id": f"c{number % 5}",
        "merchant_id": f"m{number % 3}",
        "amount": 1.0 + number,
        "currency": "EUR",
        "status": "approved",
        "ts": int((START + timedelta(minutes=number)).timestamp() * 1_000),
    }
    return None, json.dumps(event).encode()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Five hours of payments, one a minute, in the archive."""
    folder = tmp_path_factory.mktemp("training")
    with EmbeddedBroker(folder / "data") as broker:
        assert broker.address is not None
        topic = TopicAt("embedded", "embedded", broker.address.bootstrap_servers, "payments", 4)
        project = Project.create(folder / "project", "embedded", "payments", data_dir=folder / "data")
        send(topic, map(payment, range(300)))
        project.run_until_end()
    return project


@pytest.fixture(scope="module")
def store(project: Project) -> FeatureStore:
    return FeatureStore(project.folder)


@pytest.fixture(scope="module")
def spine() -> pl.DataFrame:
    """A row every seven minutes; one card and one merchant that never were, and a null."""
    rows = 40
    return pl.DataFrame(
        {
            "label": [number % 2 for number in range(rows)],
            "card_id": [None if number == 7 else f"c{number % 6}" for number in range(rows)],
            "event_timestamp": [START + timedelta(minutes=7 * number, seconds=30) for number in range(rows)],
            "merchant_id": [f"m{number % 4}" for number in range(rows)],
        }
    ).sample(fraction=1, shuffle=True, seed=5)


@pytest.fixture(scope="module")
def expected(store: FeatureStore, spine: pl.DataFrame) -> pl.DataFrame:
    return store.get_historical_features(spine, FEATURES)


def test_each_row_has_what_was_before_it(spine: pl.DataFrame, expected: pl.DataFrame):
    assert expected.columns == [*spine.columns, *NAMES]
    assert expected.select(spine.columns).equals(spine)
    for row in expected.iter_rows(named=True):
        # An event each full minute; card n % 5, merchant n % 3, amount n + 1.
        before = range(int((row["event_timestamp"] - START) / timedelta(minutes=1)) + 1)
        card = [n for n in before if f"c{n % 5}" == row["card_id"] and n < 300]
        # A sliding window begins at the tile that the instant less its size lies in; a minute here.
        begin = row["event_timestamp"].replace(second=0) - timedelta(hours=1)
        lately = [n for n in card if START + timedelta(minutes=n) >= begin]
        assert row["count_1h"] == (len(lately) if card else None), row
        assert row["amount_eur_sum_24h"] == (pytest.approx(sum(n + 1.0 for n in card)) if card else None), row
        assert row["count"] == (sum(1 for n in before if f"m{n % 3}" == row["merchant_id"]) or None), row


def to_pandas(spine: pl.DataFrame, folder: Path) -> Any:
    return spine.to_pandas()


def to_parquet(spine: pl.DataFrame, folder: Path) -> Any:
    spine.write_parquet(folder / "spine.parquet")
    return folder / "spine.parquet"


def to_csv(spine: pl.DataFrame, folder: Path) -> Any:
    spine.with_columns(pl.col("event_timestamp").dt.to_string("%Y-%m-%dT%H:%M:%S%z")).write_csv(folder / "spine.csv")
    return str(folder / "spine.csv")


def to_another_zone(spine: pl.DataFrame, folder: Path) -> Any:
    return spine.with_columns(pl.col("event_timestamp").dt.convert_time_zone("Europe/Berlin"))


def to_nanoseconds(spine: pl.DataFrame, folder: Path) -> Any:
    return spine.with_columns(pl.col("event_timestamp").dt.cast_time_unit("ns"))


def to_arrow(spine: pl.DataFrame, folder: Path) -> Any:
    return spine.to_arrow()


def to_lazy(spine: pl.DataFrame, folder: Path) -> Any:
    return spine.lazy()


@pytest.mark.parametrize(
    "as_given",
    [to_pandas, to_arrow, to_parquet, to_csv, to_lazy, to_another_zone, to_nanoseconds],
    ids=lambda f: f.__name__,
)
def test_any_spine_gives_the_same(
    store: FeatureStore, spine: pl.DataFrame, expected: pl.DataFrame, as_given: Callable[..., Any], tmp_path: Path
):
    found = store.get_historical_features(as_given(spine, tmp_path), FEATURES)
    pl.testing.assert_frame_equal(found.select(NAMES), expected.select(NAMES))
    assert found["label"].to_list() == spine["label"].to_list()


def test_a_pandas_frame_with_an_index_keeps_its_rows(store: FeatureStore, spine: pl.DataFrame, expected: pl.DataFrame):
    given = spine.to_pandas().set_index(pd.Index(range(100, 140)))
    assert store.get_historical_features(given, FEATURES).select(NAMES).equals(expected.select(NAMES))


def test_an_empty_spine_gives_no_rows_and_all_columns(store: FeatureStore, spine: pl.DataFrame, expected: pl.DataFrame):
    found = store.get_historical_features(spine.clear(), FEATURES)
    assert found.schema == expected.schema


def test_full_names_keep_features_of_one_name_apart(store: FeatureStore, spine: pl.DataFrame):
    both = ["card_activity:count_1h", "merchant_activity:count_1h"]
    with pytest.raises(FeatureStoreError, match="two features are named 'count_1h'") as caught:
        store.get_historical_features(spine, both)
    assert "full feature names" in str(caught.value.hint)
    found = store.get_historical_features(spine, both, full_feature_names=True)
    assert found.columns[-2:] == ["card_activity__count_1h", "merchant_activity__count_1h"]


def without_zone(spine: pl.DataFrame) -> pl.DataFrame:
    return spine.with_columns(pl.col("event_timestamp").dt.replace_time_zone(None))


def text_without_zone(spine: pl.DataFrame) -> pl.DataFrame:
    text = pl.col("event_timestamp").dt.to_string("%Y-%m-%dT%H:%M:%SZ")
    return spine.with_columns(pl.when(pl.int_range(pl.len()) == 3).then(text.str.head(19)).otherwise(text))


def no_instants(spine: pl.DataFrame) -> pl.DataFrame:
    return spine.with_columns(pl.lit("yesterday").alias("event_timestamp"))


def null_instant(spine: pl.DataFrame) -> pl.DataFrame:
    return spine.with_columns(
        pl.when(pl.int_range(pl.len()) == 2).then(None).otherwise("event_timestamp").alias("event_timestamp")
    )


@pytest.mark.parametrize(
    ("spoil", "features", "message"),
    [
        (without_zone, FEATURES, "spine column 'event_timestamp' has no time zone"),
        (text_without_zone, FEATURES, "row 3: '2026-.*' is an instant without a zone"),
        (no_instants, FEATURES, "row 0: 'yesterday' is an instant without a zone"),
        (null_instant, FEATURES, "spine column 'event_timestamp' is null in row 2"),
        (lambda s: s.with_columns(event_timestamp=1), FEATURES, "'event_timestamp' is Int32, no instant"),
        (lambda s: s.drop("card_id"), FEATURES, "the spine has no column 'card_id'"),
        (lambda s: s.drop("event_timestamp"), FEATURES, "the spine has no column 'event_timestamp'"),
        (lambda s: s.with_columns(card_id=1), FEATURES, "spine column 'card_id' is Int32, the join key is String"),
        (lambda s: s.with_columns(count_1h=1), FEATURES, "the spine has a column 'count_1h' already"),
        (lambda s: [1, 2], FEATURES, "can't be read as a frame"),
        (lambda s: "nowhere.parquet", FEATURES, "there is no spine at nowhere.parquet"),
        (lambda s: s, ["card_activity:count_2h"], "view 'card_activity' has no feature 'count_2h'"),
        (lambda s: s, ["card_activty:count_1h"], "there is no view 'card_activty'"),
        (lambda s: s, ["count_1h"], "'count_1h' is no feature"),
        (lambda s: s, [], "no features are asked for"),
    ],
)
def test_what_is_wrong_is_named(
    store: FeatureStore, spine: pl.DataFrame, spoil: Any, features: list[str], message: str
):
    with pytest.raises(FeatureStoreError, match=message):
        store.get_historical_features(spoil(spine), features)


def test_knowledge_times_need_a_zone_and_a_sense(store: FeatureStore, spine: pl.DataFrame):
    with pytest.raises(FeatureStoreError, match="2026-11-20T08:00:00"):
        store.get_historical_features(spine, FEATURES, knowledge_time="2026-11-20T08:00:00")
    with pytest.raises(FeatureStoreError, match="neither 'event' nor 'arrival'"):
        store.get_historical_features(spine, FEATURES, knowledge="both")  # type: ignore[arg-type]
    nothing_known = store.get_historical_features(spine, FEATURES, knowledge_time="2026-11-20T08:00:00Z")
    assert nothing_known["count_1h"].unique().to_list() == [None], "all arrived long after that"


def command(project: Project, *arguments: object) -> Any:
    done = project.call("training-set", *map(str, arguments), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_made_again_from_its_manifest_after_the_archive_has_grown(
    project: Project, spine: pl.DataFrame, expected: pl.DataFrame, tmp_path: Path
):
    """In a copy of the project, that the others may not see it grow."""
    grown = tmp_path / "grown"
    shutil.copytree(project.folder, grown / "project")
    shutil.copytree(project.data_dir, grown / "data")
    toml = grown / "project" / "featurestore.toml"
    toml.write_text(toml.read_text().replace(str(project.data_dir), str(grown / "data")))
    copy = Project(grown / "project", "embedded", "payments")
    spine.write_parquet(grown / "spine.parquet")
    asked = ("--spine", grown / "spine.parquet")
    first = command(copy, *asked, "--features", ",".join(FEATURES), "--out", grown / "first.parquet")
    assert first["rows"] == spine.height
    assert first["columns"] == expected.columns
    assert pl.read_parquet(grown / "first.parquet").equals(expected)

    with EmbeddedBroker(grown / "data") as broker:
        assert broker.address is not None
        topic = TopicAt("embedded", "embedded", broker.address.bootstrap_servers, "payments", 4)
        send(topic, [payment(number) for number in range(250, 310)])
        copy.run_until_end()
    now = command(copy, *asked, "--features", ",".join(FEATURES), "--out", grown / "now.parquet")
    assert not pl.read_parquet(grown / "now.parquet").equals(expected)
    again = command(copy, *asked, "--as-of-manifest", first["manifest"], "--out", grown / "again.parquet")
    assert (grown / "again.parquet").read_bytes() == (grown / "first.parquet").read_bytes(), "bit for bit"
    marks = [json.loads(Path(made["manifest"]).read_text()) for made in (first, now, again)]
    assert marks[0]["archive"] == marks[2]["archive"] != marks[1]["archive"]
    assert marks[0]["spine"] == marks[1]["spine"] == marks[2]["spine"]

    spine.reverse().write_parquet(grown / "other.parquet")
    refused = copy.call(
        "training-set",
        "--spine",
        str(grown / "other.parquet"),
        "--as-of-manifest",
        first["manifest"],
        "--out",
        "x.parquet",
    )
    assert refused.returncode == 1
    assert "the spine is not the one of the manifest" in refused.stderr
    toml = grown / "project" / copy.example.module
    toml.write_text(toml.read_text().replace('pl.col("status") == "approved"', 'pl.col("status") != "declined"'))
    assert copy.call("apply", copy.example.module, "--promote").returncode == 0
    still = copy.call("training-set", *map(str, asked), "--as-of-manifest", first["manifest"], "--out", "y.parquet")
    assert still.returncode == 0, still.stderr
    made = (copy.folder / "y.parquet").read_bytes()
    assert made == (grown / "first.parquet").read_bytes(), "the version before is computed still"
    assert copy.call("retire", "card_activity@1", "--yes").returncode == 0
    refused = copy.call("training-set", *map(str, asked), "--as-of-manifest", first["manifest"], "--out", "x.parquet")
    assert refused.returncode == 1
    assert "computes something else by now" in refused.stderr


def test_a_folder_has_the_rows_in_parts(
    store: FeatureStore, project: Project, spine: pl.DataFrame, expected: pl.DataFrame, tmp_path: Path, monkeypatch
):
    from featurestore.training.training_set import TrainingSetRequest, make_training_set

    monkeypatch.setattr(output, "PART_ROWS", 15)
    made = make_training_set(project.data_dir, TrainingSetRequest(spine, tuple(FEATURES)))
    files = output.write_training_set(made, tmp_path / "set")
    assert [file.name for file in files] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert pl.concat(map(pl.read_parquet, files)).equals(expected)
    assert pq.read_table(tmp_path / "set").num_rows == spine.height, "the manifest is skipped"
    output.write_training_set(made, tmp_path / "set")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("keep")
    with pytest.raises(FeatureStoreError, match="holds no training set"):
        output.write_training_set(made, tmp_path / "other")
    assert (tmp_path / "other" / "mine.txt").exists()


@pytest.mark.parametrize("out", ["a/training.parquet", "a/training"])
def test_a_manifest_leads_to_its_training_set(out: str):
    assert output.data_path(output.manifest_path(Path(out))) == Path(out)
    with pytest.raises(FeatureStoreError, match=r"manifest a/mine\.json is not named after its training set"):
        output.data_path(Path("a/mine.json"))


def test_arrow_results_keep_types(expected: pl.DataFrame):
    table = expected.to_arrow()
    assert table.schema.field("event_timestamp").type == pa.timestamp("us", "UTC")
    assert table.schema.field("count_1h").type == pa.int64()
